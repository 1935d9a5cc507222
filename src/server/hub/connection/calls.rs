//! What one connection is asked to do: between the session, which reads calls, and the methods.

use std::time::Instant;

use futures_util::FutureExt as _;

use super::Driver;
use crate::server::hub::{
    codec::{self, Outcome},
    diagnostics::{Diagnostics, Tell},
    method::{Bound, Invocation},
    session::Kind,
};
use crate::{domain::MessageId, presence::Registration};

impl Driver {
    pub(super) fn invoke(&mut self, id: Option<String>, bound: Result<Bound, String>, kind: Kind) {
        let now = Instant::now();
        match bound {
            Ok(Bound::Method(call)) => {
                let acknowledged = call.acknowledged();
                // Before the feed hears that they are said, it is asked when they were written.
                let connection = self.seat.as_ref().map_or(0, Registration::id);
                let invocation = self.invocation(acknowledged, connection);
                if let (Some(feed), false) = (&mut self.feed, acknowledged.is_empty()) {
                    // From here on it is we who take the time.
                    feed.on_heard(now);
                    feed.on_said(acknowledged);
                }
                self.running = Some(call.run(invocation).map(|done| (id, done)).boxed());
            }
            Ok(Bound::Diagnostic(call)) => {
                let Some(hub) = &mut self.diagnostics else { return };
                let told = hub.begin(call, id.clone(), &self.connection_id, now);
                self.tell_diagnosis(id.as_deref(), told);
            }
            Err(text) => {
                let outcome = Outcome::Error(text);
                match kind {
                    Kind::Plain => {
                        self.session.complete(id.as_deref(), outcome, now, &mut self.actions);
                    }
                    Kind::Stream => {
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
    pub(super) fn diagnose(&mut self, what: impl FnOnce(&mut Diagnostics) -> Vec<Tell>) {
        if let Some(hub) = &mut self.diagnostics {
            let told = what(hub);
            self.tell_diagnosis(None, told);
        }
    }

    fn tell_diagnosis(&mut self, call: Option<&str>, told: Vec<Tell>) {
        let Some(protocol) = self.session.handshaken() else { return };
        let (now, actions) = (Instant::now(), &mut self.actions);
        for tell in told {
            let message = match tell {
                Tell::Done(outcome) => {
                    self.session.complete(call, outcome, now, actions);
                    continue;
                }
                Tell::Later => {
                    self.session.release(now, actions);
                    continue;
                }
                Tell::Answer(id, outcome) => {
                    self.session.answer(&id, &outcome, actions);
                    continue;
                }
                Tell::Item(id, n) => {
                    let item = serde_json::Value::from(n).into();
                    Ok(codec::stream_item(protocol, &id, &item))
                }
                Tell::Call(target, argument) => codec::invocation(protocol, target, &argument),
                Tell::Ask(id, target, argument) => {
                    codec::question(protocol, &id, target, &argument)
                }
            };
            match message {
                Ok(message) => self.session.say(message, actions),
                Err(error) => tracing::error!(%error, "a call could not be written"),
            }
        }
    }
}
