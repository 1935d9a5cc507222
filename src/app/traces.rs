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
        feed::DeliveryAttempt,
        trace::{TraceAttribute, TraceParent, TraceSampler, TraceStep, TraceStepKind},
    },
    presence::{Delivery, Reach},
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
        sample: TraceSampler,
        /// To whoever tells the collector.
        steps: mpsc::Sender<TraceStep>,
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

    fn note(&self, step: TraceStep) {
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
    attempt: DeliveryAttempt,
    accepted: OffsetDateTime,
}

/// A step without anything known about it.
fn step(
    message: MessageId,
    kind: TraceStepKind,
    began: OffsetDateTime,
    ended: OffsetDateTime,
    facts: Vec<(&'static str, TraceAttribute)>,
) -> TraceStep {
    // Clocks of two machines may differ by more than a step takes.
    TraceStep { message, kind, began, ended: ended.max(began), facts, cause: None }
}

fn attempt_facts(attempt: &DeliveryAttempt) -> Vec<(&'static str, TraceAttribute)> {
    vec![
        ("generation", TraceAttribute::Number(i64::from(attempt.generation))),
        ("retry_count", TraceAttribute::Number(i64::from(attempt.retry_count))),
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
        cause: impl Fn() -> Option<TraceParent>,
        messages: impl IntoIterator<Item = &'a Message>,
    ) {
        if !self.traces().is_on() {
            return;
        }
        for message in messages.into_iter().filter(|message| self.traces().follow(message.id)) {
            let ended = self.clock().now();
            let mut facts =
                vec![("lane", TraceAttribute::Text(message.priority.name().to_owned()))];
            if let Some(place) = message.position {
                facts.push(("conversation", TraceAttribute::Text(place.conversation.to_string())));
            }
            for party in [&message.sender, &message.recipient] {
                if let Party::Business(id) = party {
                    facts.push(("business_user", TraceAttribute::Text(id.to_string())));
                }
            }
            let began = ended - came.elapsed();
            let step = step(message.id, TraceStepKind::Accept, began, ended, facts);
            self.traces().note(TraceStep { cause: cause(), ..step });
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
        reached: &[Reach],
    ) {
        let Some(began) = began else { return };
        let ended = self.clock().now();
        let of = deliveries.iter().map(|delivery| delivery.message.id).zip(reached);
        for (id, reach) in of.filter(|(id, _)| self.traces().follow(*id)) {
            let reach = match reach {
                Reach::Handed => "handed",
                Reach::Nowhere => "offline",
                Reach::Unknown => "unknown",
            };
            let facts = vec![("reach", TraceAttribute::Text(reach.to_owned()))];
            self.traces().note(step(id, TraceStepKind::HandOver, began, ended, facts));
        }
    }

    /// Remembers a message that is about to be written, if it is followed; see [`App::trace_written`].
    pub fn follow_writing(&self, message: &Message) -> Option<Unwritten> {
        let Message { id, position, generation, retry_count, created_at, .. } = *message;
        let attempt = DeliveryAttempt { id, position, generation, retry_count };
        self.traces().follow(id).then_some(Unwritten { attempt, accepted: created_at })
    }

    /// These were written to their connection now.
    pub fn trace_written(&self, written: Vec<Unwritten>) {
        let ended = self.clock().now();
        for Unwritten { attempt, accepted } in written {
            let facts = attempt_facts(&attempt);
            self.traces().note(step(attempt.id, TraceStepKind::Write, accepted, ended, facts));
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
            let facts = vec![("over", TraceAttribute::Text(over.to_owned()))];
            self.traces().note(step(word.id, TraceStepKind::Acknowledge, began, ended, facts));
        }
    }

    /// These were not acknowledged in time, and are tried again.
    pub(super) fn trace_retried(&self, missed: &[Missed]) {
        for missed in missed.iter().filter(|missed| self.traces().follow(missed.attempt.id)) {
            let after = (missed.next_attempt_at - missed.at).whole_milliseconds();
            let facts = vec![
                ("generation", TraceAttribute::Number(i64::from(missed.attempt.generation))),
                ("retry_count", TraceAttribute::Number(i64::from(missed.retry_count))),
                ("after_ms", TraceAttribute::Number(i64::try_from(after).unwrap_or(i64::MAX))),
            ];
            let Missed { attempt, at, .. } = missed;
            self.traces().note(step(attempt.id, TraceStepKind::Retry, *at, *at, facts));
        }
    }

    /// These were given up.
    pub(super) fn trace_given_up(&self, failed: &[Changed], reason: &'static str) {
        for changed in failed.iter().filter(|changed| self.traces().follow(changed.id)) {
            let facts = vec![("reason", TraceAttribute::Text(reason.to_owned()))];
            let Changed { id, at, .. } = *changed;
            self.traces().note(step(id, TraceStepKind::DeadLetter, at, at, facts));
        }
    }
}
