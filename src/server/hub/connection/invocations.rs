//! What one connection is asked to do: between the session, which reads calls, and the methods.

use std::time::Instant;

use futures_util::FutureExt as _;

use super::Driver;
use crate::{
    domain::MessageId,
    presence::Registration,
    server::hub::{
        hubs::{
            diagnostics::{DiagnosticOutput, DiagnosticsHub},
            method::{BoundCall, Invocation},
        },
        protocol::{
            codec::{self, CompletionResult},
            session::InvocationKind,
        },
    },
};

impl Driver {
    pub(super) fn invoke(
        &mut self,
        id: Option<String>,
        bound: Result<BoundCall, String>,
        kind: InvocationKind,
    ) {
        let now = Instant::now();
        match bound {
            Ok(BoundCall::Method(call)) => {
                let acknowledged = call.acknowledged();
                // Before the feed hears that they are said, it is asked when they were written.
                let connection = self.registration.as_ref().map_or(0, Registration::id);
                let invocation = self.invocation(acknowledged, connection);
                if let (Some(feed), false) = (&mut self.feed, acknowledged.is_empty()) {
                    // From here on it is we who take the time.
                    feed.on_heard(now);
                    feed.on_said(acknowledged);
                }
                self.running = Some(call.run(invocation).map(|done| (id, done)).boxed());
            }
            Ok(BoundCall::Diagnostic(call)) => {
                let Some(hub) = &mut self.diagnostics else { return };
                let told = hub.begin(call, id.clone(), &self.connection_id, now);
                self.send_diagnostics(id.as_deref(), told);
            }
            Err(text) => {
                let outcome = CompletionResult::Error(text);
                match kind {
                    InvocationKind::Plain => {
                        self.session.complete(id.as_deref(), outcome, now, &mut self.actions);
                    }
                    InvocationKind::Stream => {
                        self.session.answer(&id.unwrap_or_default(), &outcome, &mut self.actions);
                    }
                }
            }
        }
    }

    /// What a handler knows of a call.
    pub(super) fn invocation(&self, acknowledged: &[MessageId], connection: u64) -> Invocation {
        Invocation {
            app: self.app.clone(),
            caller: self.caller.clone(),
            written_at: self.written_at(acknowledged),
            connection,
        }
    }

    /// Lets the diagnostics hub, where this is a connection of it, do something.
    pub(super) fn with_diagnostics(
        &mut self,
        what: impl FnOnce(&mut DiagnosticsHub) -> Vec<DiagnosticOutput>,
    ) {
        if let Some(hub) = &mut self.diagnostics {
            let told = what(hub);
            self.send_diagnostics(None, told);
        }
    }

    fn send_diagnostics(&mut self, call: Option<&str>, told: Vec<DiagnosticOutput>) {
        let Some(protocol) = self.session.protocol() else { return };
        let (now, actions) = (Instant::now(), &mut self.actions);
        for tell in told {
            let message = match tell {
                DiagnosticOutput::Complete(outcome) => {
                    self.session.complete(call, outcome, now, actions);
                    continue;
                }
                DiagnosticOutput::Defer => {
                    self.session.release(now, actions);
                    continue;
                }
                DiagnosticOutput::Completion(id, outcome) => {
                    self.session.answer(&id, &outcome, actions);
                    continue;
                }
                DiagnosticOutput::StreamItem(id, n) => {
                    let item = serde_json::Value::from(n).into();
                    Ok(codec::stream_item(protocol, &id, &item))
                }
                DiagnosticOutput::Invoke(target, argument) => {
                    codec::invocation(protocol, target, &argument)
                }
                DiagnosticOutput::InvokeWithResult(id, target, argument) => {
                    codec::question(protocol, &id, target, &argument)
                }
            };
            match message {
                Ok(message) => self.session.send(message, actions),
                Err(error) => tracing::error!(%error, "a call could not be written"),
            }
        }
    }
}
