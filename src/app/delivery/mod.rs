//! The way of a stored message to its recipient, and of the recipient's receipts back.

pub mod acknowledge;
mod attempt;
mod conversation_reads;
pub mod dead_letters;
mod message_log;
pub(in crate::app) mod online;
mod pending;
mod pending_resyncs;
mod poison;
pub mod receipts;
mod resync;
pub mod traces;

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Core, batch_writer::BatchTask, identity::IdentityService, limits::LimitService,
    process::ProcessService,
};
use crate::{
    domain::{Status, feed::DeliveryAttempt},
    presence::Outbound,
    store::message_status::{Changed, WrittenAt},
};

/// Delivers stored messages and takes receipts. Cheap to clone.
#[derive(Clone)]
pub struct DeliveryService {
    core: Core,
    identity: IdentityService,
    limits: LimitService,
    process: ProcessService,
    state: Arc<State>,
}

struct State {
    receipts: receipts::ReceiptWriter,
    pending_resyncs: pending_resyncs::PendingResyncs,
    poison: poison::PoisonMessages,
}

/// The writer of receipts.
pub struct DeliveryTasks {
    receipts: BatchTask<receipts::ReceiptBatch>,
    delivery: DeliveryService,
}

impl DeliveryTasks {
    /// Starts it. It ends when `stop` is cancelled and everything handed to it is written.
    pub(super) fn spawn(self, tracker: &TaskTracker, stop: &CancellationToken) {
        let outages = self.delivery.core.outages().clone();
        let batch = receipts::ReceiptBatch::new(self.delivery);
        tracker.spawn(self.receipts.run(outages, batch, stop.clone()));
    }
}

impl DeliveryService {
    pub(super) fn new(
        core: &Core,
        identity: &IdentityService,
        limits: &LimitService,
        process: &ProcessService,
    ) -> (DeliveryService, DeliveryTasks) {
        let (receipts, task) = receipts::ReceiptWriter::new();
        let state = State {
            receipts,
            pending_resyncs: pending_resyncs::PendingResyncs::default(),
            poison: poison::PoisonMessages::default(),
        };
        let delivery = DeliveryService {
            core: core.clone(),
            identity: identity.clone(),
            limits: limits.clone(),
            process: process.clone(),
            state: Arc::new(state),
        };
        (delivery.clone(), DeliveryTasks { receipts: task, delivery })
    }

    /// Notes that messages were written to a connection a while ago, or why it ended with them
    /// unacknowledged.
    pub fn record_written(
        &self,
        written: Vec<(DeliveryAttempt, OffsetDateTime)>,
        lost: Option<&'static str>,
    ) {
        let written =
            written.into_iter().map(|(attempt, at)| WrittenAt { attempt, at, lost }).collect();
        self.state.receipts.note_written(written);
    }

    /// Notes that a live connection did not acknowledge these in time, with the times of writing.
    pub fn record_missed(&self, attempts: Vec<(DeliveryAttempt, OffsetDateTime)>) {
        self.state.receipts.note_missed(attempts);
    }

    /// Returns when few receipts wait to be stored, or after a moment.
    pub(super) async fn wait_for_backlog(&self) {
        self.state.receipts.wait_for_backlog().await;
    }

    /// Tells senders what has become of their messages.
    pub(super) fn notify_senders(&self, changed: &[Changed]) {
        self.log_changed(changed);
        for change in changed {
            if change.status == Status::Delivered {
                let took = Duration::try_from(change.at - change.created_at);
                self.process.counters().delivered(took.unwrap_or_default());
            }
            let outbound =
                Outbound::StatusChanged { id: change.id, status: change.status, at: change.at };
            self.core.presence().send(&change.sender, &outbound);
        }
    }
}
