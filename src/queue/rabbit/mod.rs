//! Wake-ups through RabbitMQ.
//!
//! [`Rabbit`] publishes and [`Consumer`] takes, each on a connection of its own that is connected again
//! for as long as the process runs. Neither ever makes anybody wait for the broker: what cannot be
//! published is dropped and counted, and the sweeper makes up for it.

mod consumer;
mod desk;
mod error;
mod frame;
mod greeting;
mod hold;
mod line;
mod link;
mod outstanding;
mod pending;
mod probe;
mod publisher;
mod roster;
mod settings;
mod supervisor;
mod topology;

use std::time::Instant;

pub use consumer::{Consumer, ConsumerWork};
pub use error::Error;
pub use frame::WakeUp;
pub use hold::{DeadFrame, Taken};
pub use probe::look;
pub use publisher::{Counts, Offered, Publishing, Rabbit};
pub use settings::{BadSettings, Settings};
pub use topology::{Choice, Kind};

/// How a connection to the broker is.
#[derive(Clone, Debug)]
pub enum State {
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

impl State {
    fn new() -> State {
        State::Down { since: Instant::now(), why: "not connected yet".to_owned() }
    }

    /// Whether all is well.
    pub fn is_connected(&self) -> bool {
        matches!(self, State::Connected { .. })
    }
}
