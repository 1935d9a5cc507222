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
        feed::DeliveryAttempt,
        trace::{TraceAttribute, TraceParent, TraceStep, TraceStepKind},
    },
    presence::{Delivery, RouteOutcome},
    store::message_status::{Changed, Missed, Receipt},
};

/// A traced message that is about to be written to a connection.
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

impl DeliveryService {
    fn traces(&self) -> &Traces {
        &self.core.settings().traces
    }

    /// These became durable in answer to a request that came at `came`. `cause` is what its sender says
    /// it was doing; asked only when a message is traced.
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
            let ended = self.core.clock().now();
            let mut facts =
                vec![("lane", TraceAttribute::Text(message.priority.name().to_owned()))];
            if let Some(position) = message.position {
                facts.push((
                    "conversation",
                    TraceAttribute::Text(position.conversation.to_string()),
                ));
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
    pub(in crate::app) fn step_begins(&self) -> Option<OffsetDateTime> {
        self.traces().is_on().then(|| self.core.clock().now())
    }

    /// These were routed to the processes that have their recipients.
    pub(in crate::app) fn trace_handed(
        &self,
        began: Option<OffsetDateTime>,
        deliveries: &[Arc<Delivery>],
        reached: &[RouteOutcome],
    ) {
        let Some(began) = began else { return };
        let ended = self.core.clock().now();
        let of = deliveries.iter().map(|delivery| delivery.message.id).zip(reached);
        for (id, reach) in of.filter(|(id, _)| self.traces().follow(*id)) {
            let reach = match reach {
                RouteOutcome::Delivered => "handed",
                RouteOutcome::Offline => "offline",
                RouteOutcome::Unknown => "unknown",
            };
            let facts = vec![("reach", TraceAttribute::Text(reach.to_owned()))];
            self.traces().note(step(id, TraceStepKind::HandOver, began, ended, facts));
        }
    }

    /// Remembers a message that is about to be written, if it is traced; see [`DeliveryService::trace_written`].
    pub fn follow_writing(&self, message: &Message) -> Option<Unwritten> {
        let Message { id, position, generation, retry_count, created_at, .. } = *message;
        let attempt = DeliveryAttempt { id, position, generation, retry_count };
        self.traces().follow(id).then_some(Unwritten { attempt, accepted: created_at })
    }

    /// These were written to their connection now.
    pub fn trace_written(&self, written: Vec<Unwritten>) {
        let ended = self.core.clock().now();
        for Unwritten { attempt, accepted } in written {
            let facts = attempt_facts(&attempt);
            self.traces().note(step(attempt.id, TraceStepKind::Write, accepted, ended, facts));
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
            let facts = vec![("over", TraceAttribute::Text(over.to_owned()))];
            self.traces().note(step(receipt.id, TraceStepKind::Acknowledge, began, ended, facts));
        }
    }

    /// These were not acknowledged in time, and are tried again.
    pub(in crate::app) fn trace_retried(&self, missed: &[Missed]) {
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

    pub(in crate::app) fn trace_given_up(&self, failed: &[Changed], reason: &'static str) {
        for changed in failed.iter().filter(|changed| self.traces().follow(changed.id)) {
            let facts = vec![("reason", TraceAttribute::Text(reason.to_owned()))];
            let Changed { id, at, .. } = *changed;
            self.traces().note(step(id, TraceStepKind::DeadLetter, at, at, facts));
        }
    }
}
