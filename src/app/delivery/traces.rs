//! The steps of traced messages, each noted by the process that takes it.
//!
//! It only hands on what it notes, and never waits: without room a step is dropped and counted. Where
//! nobody follows anything, asking costs a comparison.

use std::{sync::Arc, time::Instant};

use time::OffsetDateTime;

use super::DeliveryService;
use crate::{
    app::traces::Traces,
    domain::{
        Message, MessageId, Party,
        feed::Attempt,
        trace::{Cause, Fact, Step, StepKind},
    },
    presence::{Delivery, Reach},
    store::message_status::{Changed, Missed, Receipt},
};

/// A traced message that is about to be written to a connection.
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

impl DeliveryService {
    fn traces(&self) -> &Traces {
        &self.core.settings().traces
    }

    /// These became durable in answer to a request that came at `came`. `cause` is what its sender says
    /// it was doing; asked only when a message is traced.
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
            let ended = self.core.clock().now();
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
    pub(in crate::app) fn step_begins(&self) -> Option<OffsetDateTime> {
        self.traces().is_on().then(|| self.core.clock().now())
    }

    /// These were handed to whoever has their recipients.
    pub(in crate::app) fn trace_handed(
        &self,
        began: Option<OffsetDateTime>,
        deliveries: &[Arc<Delivery>],
        reached: &[Reach],
    ) {
        let Some(began) = began else { return };
        let ended = self.core.clock().now();
        let of = deliveries.iter().map(|delivery| delivery.message.id).zip(reached);
        for (id, reach) in of.filter(|(id, _)| self.traces().follow(*id)) {
            let reach = match reach {
                Reach::Handed => "handed",
                Reach::Nowhere => "offline",
                Reach::Unknown => "unknown",
            };
            let facts = vec![("reach", Fact::Text(reach.to_owned()))];
            self.traces().note(step(id, StepKind::HandOver, began, ended, facts));
        }
    }

    /// Remembers a message that is about to be written, if it is traced; see [`DeliveryService::trace_written`].
    pub fn follow_writing(&self, message: &Message) -> Option<Unwritten> {
        let Message { id, place, generation, retry_count, created_at, .. } = *message;
        let attempt = Attempt { id, place, generation, retry_count };
        self.traces().follow(id).then_some(Unwritten { attempt, accepted: created_at })
    }

    /// These were written to their connection now.
    pub fn trace_written(&self, written: Vec<Unwritten>) {
        let ended = self.core.clock().now();
        for Unwritten { attempt, accepted } in written {
            let facts = attempt_facts(&attempt);
            self.traces().note(step(attempt.id, StepKind::Write, accepted, ended, facts));
        }
    }

    /// A recipient's receipts for these have become durable now.
    pub(in crate::app) fn trace_acknowledged<'a>(
        &self,
        receipts: impl Iterator<Item = &'a Receipt>,
    ) {
        if !self.traces().is_on() {
            return;
        }
        let ended = self.core.clock().now();
        for receipt in receipts.filter(|receipt| self.traces().follow(receipt.id)) {
            // Who read it over HTTP was written nothing.
            let began = receipt.written_at.unwrap_or(receipt.at);
            let over = if receipt.written_at.is_some() { "hub" } else { "http" };
            let facts = vec![("over", Fact::Text(over.to_owned()))];
            self.traces().note(step(receipt.id, StepKind::Acknowledge, began, ended, facts));
        }
    }

    /// These were not acknowledged in time, and are tried again.
    pub(in crate::app) fn trace_retried(&self, missed: &[Missed]) {
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

    pub(in crate::app) fn trace_given_up(&self, failed: &[Changed], reason: &'static str) {
        for changed in failed.iter().filter(|changed| self.traces().follow(changed.id)) {
            let facts = vec![("reason", Fact::Text(reason.to_owned()))];
            let Changed { id, at, .. } = *changed;
            self.traces().note(step(id, StepKind::DeadLetter, at, at, facts));
        }
    }
}
