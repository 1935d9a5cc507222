//! Wake-ups through RabbitMQ.
//!
//! [`Rabbit`] publishes and [`Consumer`] consumes, each on a connection of its own that is reopened for as long
//! as the process runs. Neither makes a caller wait for the broker: what cannot be published is dropped and
//! counted, and the sweeper finds its message.

mod assignment_plan;
mod broker_connection;
mod consumer;
mod consumer_session;
mod error;
mod frame;
mod login_check;
mod outstanding;
mod partition_channel;
mod pending;
mod publisher;
mod received;
mod settings;
mod supervisor;
mod topology;
mod unacked;
mod version_probe;

use std::time::Instant;

pub use consumer::{Consumer, ConsumerTask};
pub use error::Error;
pub use frame::WakeUp;
pub use login_check::check_login;
pub use publisher::{PublishCounts, PublisherConfirm, PublisherTask, Rabbit};
pub use settings::{BadBrokerSettings, BrokerSettings};
pub use topology::{QueueType, QueueTypeChoice};
pub use unacked::{DeadFrame, WakeUpBatch};

/// The state of a connection to the broker.
#[derive(Clone, Debug)]
pub enum BrokerState {
    Down {
        since: Instant,
        /// The last error.
        why: String,
    },
    Connected {
        /// Such as `3.10.8`.
        version: String,
        /// Shared by the nodes of a cluster.
        cluster_name: String,
    },
    /// The broker accepts no publishes, because it is short of memory or disk.
    Blocked {
        since: Instant,
        /// The broker's reason.
        why: String,
    },
}

impl BrokerState {
    fn new() -> BrokerState {
        BrokerState::Down { since: Instant::now(), why: "not connected yet".to_owned() }
    }

    pub fn is_connected(&self) -> bool {
        matches!(self, BrokerState::Connected { .. })
    }
}
