//! Wake-ups through RabbitMQ.
//!
//! [`Rabbit`] publishes and [`Consumer`] takes, each on a connection of its own that is connected again
//! for as long as the process runs. Neither ever makes anybody wait for the broker: what cannot be
//! published is dropped and counted, and the sweeper makes up for it.

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

/// How a connection to the broker is.
#[derive(Clone, Debug)]
pub enum BrokerState {
    /// There is none.
    Down {
        /// Since when.
        since: Instant,
        /// What was in the way last.
        why: String,
    },
    /// All is well.
    Connected {
        /// Such as `3.10.8`.
        version: String,
        /// The name that the nodes of a cluster share.
        cluster_name: String,
    },
    /// The broker takes no publishes, because it is short of memory or disk.
    Blocked {
        /// Since when.
        since: Instant,
        /// In the broker's words.
        why: String,
    },
}

impl BrokerState {
    fn new() -> BrokerState {
        BrokerState::Down { since: Instant::now(), why: "not connected yet".to_owned() }
    }

    /// Whether all is well.
    pub fn is_connected(&self) -> bool {
        matches!(self, BrokerState::Connected { .. })
    }
}
