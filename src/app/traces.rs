//! What is noted of the messages that are followed: each step of the way, by the process that takes it.
//!
//! It only hands on what it notes, and never waits: without room a step is dropped and counted. Where
//! nobody follows anything, asking costs a comparison.

use std::{sync::Arc, time::Instant};

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::App;
use crate::{
    domain::{
        Message, MessageId, Party,
        feed::Attempt,
        trace::{Cause, Fact, Sample, Step, StepKind},
    },
    presence::{Delivery, RouteOutcome},
    store::outcome::{Changed, Missed, Word},
};

/// Whether messages are followed, and where their steps go.
#[derive(Clone, Debug, Default)]
pub enum Traces {
    /// None is.
    #[default]
    Off,
    /// Some are.
    On {
        /// Which.
        sample: Sample,
        /// To whoever tells the collector.
        steps: mpsc::Sender<Step>,
    },
}

impl Traces {
    fn is_on(&self) -> bool {
        matches!(self, Traces::On { .. })
    }

    fn follow(&self, id: MessageId) -> bool {
        match self {
            Traces::Off => false,
            Traces::On { sample, .. } => sample.takes(id),
        }
    }

    fn note(&self, step: Step) {
        if let Traces::On { steps, .. } = self
            && steps.try_send(step).is_err()
        {
            metrics::counter!("esh3ar_trace_spans_total", "result" => "dropped").increment(1);
        }
    }
}

/// A followed message that is about to be written to a connection.
#[derive(Clone, Copy, Debug)]
pub struct Unwritten {
    attempt: Attempt,
    accepted: OffsetDateTime,
}

/// A step without anything known about it.
fn step(
    message: MessageId,
    kind: StepKind,
    began: OffsetDateTime,
    ended: OffsetDateTime,
    facts: Vec<(&'static str, Fact)>,
) -> Step {
    // Clocks of two machines may differ by more than a step takes.
    Step { message, kind, began, ended: ended.max(began), facts, cause: None }
}

fn attempt_facts(attempt: &Attempt) -> Vec<(&'static str, Fact)> {
    vec![
        ("generation", Fact::Number(i64::from(attempt.generation))),
        ("retry_count", Fact::Number(i64::from(attempt.retry_count))),
    ]
}

impl App {
    fn traces(&self) -> &Traces {
        &self.settings().traces
    }

    /// These became durable in answer to a request that came at `came`. `cause` is what its sender says
    /// it was doing; asked only when a message is followed.
    pub fn trace_accepted<'a>(
        &self,
        came: Instant,
        cause: impl Fn() -> Option<Cause>,
        messages: impl IntoIterator<Item = &'a Message>,
    ) {
        if !self.traces().is_on() {
            return;
        }
        for message in messages.into_iter().filter(|message| self.traces().follow(message.id)) {
            let ended = self.clock().now();
            let mut facts = vec![("lane", Fact::Text(message.priority.name().to_owned()))];
            if let Some(place) = message.place {
                facts.push(("conversation", Fact::Text(place.conversation.to_string())));
            }
            for party in [&message.sender, &message.recipient] {
                if let Party::Business(id) = party {
                    facts.push(("business_user", Fact::Text(id.to_string())));
                }
            }
            let began = ended - came.elapsed();
            let step = step(message.id, StepKind::Accept, began, ended, facts);
            self.traces().note(Step { cause: cause(), ..step });
        }
    }

    /// When the step that begins now began, if anybody wants to know.
    pub(super) fn step_begins(&self) -> Option<OffsetDateTime> {
        self.traces().is_on().then(|| self.clock().now())
    }

    /// These were handed to whoever has their recipients.
    pub(super) fn trace_handed(
        &self,
        began: Option<OffsetDateTime>,
        deliveries: &[Arc<Delivery>],
        reached: &[RouteOutcome],
    ) {
        let Some(began) = began else { return };
        let ended = self.clock().now();
        let of = deliveries.iter().map(|delivery| delivery.message.id).zip(reached);
        for (id, reach) in of.filter(|(id, _)| self.traces().follow(*id)) {
            let reach = match reach {
                RouteOutcome::Delivered => "handed",
                RouteOutcome::Offline => "offline",
                RouteOutcome::Unknown => "unknown",
            };
            let facts = vec![("reach", Fact::Text(reach.to_owned()))];
            self.traces().note(step(id, StepKind::HandOver, began, ended, facts));
        }
    }

    /// Remembers a message that is about to be written, if it is followed; see [`App::trace_written`].
    pub fn follow_writing(&self, message: &Message) -> Option<Unwritten> {
        let Message { id, place, generation, retry_count, created_at, .. } = *message;
        let attempt = Attempt { id, place, generation, retry_count };
        self.traces().follow(id).then_some(Unwritten { attempt, accepted: created_at })
    }

    /// These were written to their connection now.
    pub fn trace_written(&self, written: Vec<Unwritten>) {
        let ended = self.clock().now();
        for Unwritten { attempt, accepted } in written {
            let facts = attempt_facts(&attempt);
            self.traces().note(step(attempt.id, StepKind::Write, accepted, ended, facts));
        }
    }

    /// A recipient's words about these have become durable now.
    pub(super) fn trace_acknowledged<'a>(&self, words: impl Iterator<Item = &'a Word>) {
        if !self.traces().is_on() {
            return;
        }
        let ended = self.clock().now();
        for word in words.filter(|word| self.traces().follow(word.id)) {
            // Who read it over HTTP was written nothing.
            let began = word.written_at.unwrap_or(word.at);
            let over = if word.written_at.is_some() { "hub" } else { "http" };
            let facts = vec![("over", Fact::Text(over.to_owned()))];
            self.traces().note(step(word.id, StepKind::Acknowledge, began, ended, facts));
        }
    }

    /// These were not acknowledged in time, and are tried again.
    pub(super) fn trace_retried(&self, missed: &[Missed]) {
        for missed in missed.iter().filter(|missed| self.traces().follow(missed.attempt.id)) {
            let after = (missed.next_attempt_at - missed.at).whole_milliseconds();
            let facts = vec![
                ("generation", Fact::Number(i64::from(missed.attempt.generation))),
                ("retry_count", Fact::Number(i64::from(missed.retry_count))),
                ("after_ms", Fact::Number(i64::try_from(after).unwrap_or(i64::MAX))),
            ];
            let Missed { attempt, at, .. } = missed;
            self.traces().note(step(attempt.id, StepKind::Retry, *at, *at, facts));
        }
    }

    /// These were given up.
    pub(super) fn trace_given_up(&self, failed: &[Changed], reason: &'static str) {
        for changed in failed.iter().filter(|changed| self.traces().follow(changed.id)) {
            let facts = vec![("reason", Fact::Text(reason.to_owned()))];
            let Changed { id, at, .. } = *changed;
            self.traces().note(step(id, StepKind::DeadLetter, at, at, facts));
        }
    }
}
