//! What one connection is asked to do: between the session, which reads calls, and the methods.

use std::time::Instant;

use futures_util::FutureExt as _;

use super::Driver;
use crate::presence::Seat;
use crate::server::hub::{
    codec::{self, Outcome},
    diagnostics::{Diagnostics, Tell},
    methods::{Call, Form},
    services::Bound,
    session::Kind,
};

impl Driver {
    pub(super) fn invoke(&mut self, id: Option<String>, bound: Result<Bound, String>, kind: Kind) {
        let now = Instant::now();
        match bound {
            Ok(Bound::Method(call)) => {
                let written_at = self.written_at(&call);
                let words = call.words();
                if let (Some(feed), false) = (&mut self.feed, words.is_empty()) {
                    // From here on it is we who take the time.
                    feed.on_heard(now);
                    feed.on_said(words);
                }
                let connection = self.seat.as_ref().map_or(0, Seat::id);
                // The existing hubs return nothing, and their messages look otherwise.
                let silent =
                    self.service.form() == Form::Legacy && matches!(call, Call::SendMessage { .. });
                let run = call.run(self.app.clone(), self.caller.clone(), written_at, connection);
                let run =
                    run.map(move |done| (id, if silent { done.without_value() } else { done }));
                self.running = Some(run.boxed());
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
