//! One-way messages: sending them, and what their parties are shown of them.

mod idempotency;
mod list;
mod send;
mod writer;

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use idempotency::RequestKey;
pub use send::{Item, MAX_KEPT_ANSWER_LEN, Refusal, SendRequest, Sent};

use super::{
    Core,
    batch_writer::{BatchTask, BatchWriter},
    delivery::DeliveryService,
    identity::IdentityService,
    limits::LimitService,
    process::ProcessService,
};

/// Sends and lists one-way messages. Cheap to clone.
#[derive(Clone)]
pub struct MessageService {
    core: Core,
    identity: IdentityService,
    limits: LimitService,
    delivery: DeliveryService,
    state: Arc<State>,
}

struct State {
    writer: writer::MessageWriter,
}

/// The writer of messages.
pub struct MessageTasks {
    writer: BatchTask<writer::MessageBatch>,
    batch: writer::MessageBatch,
}

impl MessageTasks {
    /// Starts it. It ends when `stop` is cancelled and everything handed to it is written.
    pub(super) fn spawn(self, tracker: &TaskTracker, stop: &CancellationToken) {
        let outages = self.batch.core.outages().clone();
        tracker.spawn(self.writer.run(outages, self.batch, stop.clone()));
    }
}

impl MessageService {
    pub(super) fn new(
        core: &Core,
        identity: &IdentityService,
        limits: &LimitService,
        process: &ProcessService,
        delivery: &DeliveryService,
    ) -> (MessageService, MessageTasks) {
        let (writer, task) = BatchWriter::new();
        let batch = writer::MessageBatch {
            core: core.clone(),
            process: process.clone(),
            delivery: delivery.clone(),
        };
        let messages = MessageService {
            core: core.clone(),
            identity: identity.clone(),
            limits: limits.clone(),
            delivery: delivery.clone(),
            state: Arc::new(State { writer }),
        };
        (messages, MessageTasks { writer: task, batch })
    }
}
