//! Conversations between a business user and a mobile user.

pub mod conversations;
pub mod pages;
mod participants;
mod typing;
mod writer;

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Core,
    batch_writer::{BatchTask, BatchWriter},
    delivery::DeliveryService,
    identity::IdentityService,
    limits::LimitService,
    process::ProcessService,
};

/// Opens, lists, reads and writes to conversations. Cheap to clone.
#[derive(Clone)]
pub struct ChatService {
    core: Core,
    identity: IdentityService,
    limits: LimitService,
    delivery: DeliveryService,
    state: Arc<State>,
}

struct State {
    writer: writer::ChatWriter,
    participants: participants::Participants,
    signals: typing::Signals,
}

/// The writer of chat messages.
pub struct ChatTasks {
    writer: BatchTask<writer::ChatBatch>,
    batch: writer::ChatBatch,
}

impl ChatTasks {
    /// Starts it. It ends when `stop` is cancelled and everything handed to it is written.
    pub(super) fn spawn(self, tracker: &TaskTracker, stop: &CancellationToken) {
        let outages = self.batch.core.outages().clone();
        tracker.spawn(self.writer.run(outages, self.batch, stop.clone()));
    }
}

impl ChatService {
    pub(super) fn new(
        core: &Core,
        identity: &IdentityService,
        limits: &LimitService,
        process: &ProcessService,
        delivery: &DeliveryService,
    ) -> (ChatService, ChatTasks) {
        let (writer, task) = BatchWriter::new();
        let batch = writer::ChatBatch {
            core: core.clone(),
            process: process.clone(),
            delivery: delivery.clone(),
        };
        let state = State {
            writer,
            participants: participants::Participants::default(),
            signals: typing::Signals::new(),
        };
        let chat = ChatService {
            core: core.clone(),
            identity: identity.clone(),
            limits: limits.clone(),
            delivery: delivery.clone(),
            state: Arc::new(state),
        };
        (chat, ChatTasks { writer: task, batch })
    }
}
