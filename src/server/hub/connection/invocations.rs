//! The calls of one connection: from the session, which reads them, to the methods.

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
                // Ask when the messages were written before the feed learns that they are acknowledged.
                let connection = self.registration.as_ref().map_or(0, Registration::id);
                let invocation = self.invocation(acknowledged, connection);
                if let (Some(feed), false) = (&mut self.feed, acknowledged.is_empty()) {
                    // From here on the server takes the time, not the client.
                    feed.on_client_active(now);
                    feed.on_ack_received(acknowledged);
                }
                self.running = Some(call.run(invocation).map(|result| (id, result)).boxed());
            }
            Ok(BoundCall::Diagnostic(call)) => {
                let Some(hub) = &mut self.diagnostics else { return };
                let outputs = hub.begin(call, id.clone(), &self.connection_id, now);
                self.send_diagnostics(id.as_deref(), outputs);
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

    pub(super) fn invocation(&self, acknowledged: &[MessageId], connection: u64) -> Invocation {
        Invocation {
            app: self.app.clone(),
            caller: self.caller.clone(),
            written_at: self.written_at(acknowledged),
            connection,
        }
    }

    /// Calls the diagnostics hub, where this connection has one.
    pub(super) fn with_diagnostics(
        &mut self,
        what: impl FnOnce(&mut DiagnosticsHub) -> Vec<DiagnosticOutput>,
    ) {
        if let Some(hub) = &mut self.diagnostics {
            let outputs = what(hub);
            self.send_diagnostics(None, outputs);
        }
    }

    fn send_diagnostics(&mut self, call: Option<&str>, outputs: Vec<DiagnosticOutput>) {
        let Some(protocol) = self.session.protocol() else { return };
        let (now, actions) = (Instant::now(), &mut self.actions);
        for output in outputs {
            let message = match output {
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
                Err(error) => tracing::error!(%error, "cannot encode a call"),
            }
        }
    }
}
