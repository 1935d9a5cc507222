//! How much is taken on.

use std::time::Duration;

use super::rate::Rate;

/// The limits of the configuration; 0 means none, but for connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages a user may send in a minute.
    pub messages_per_minute: u32,
    /// Messages a user may send in an hour.
    pub messages_per_hour: u32,
    /// Messages that all together may send in a second.
    pub messages_per_second: u32,
    /// Messages whose delivery is in hand at once.
    pub queue_depth: u64,
    /// Connections one phone may have.
    pub connections_per_user: usize,
    /// Connections one business user may have.
    pub connections_per_business_user: usize,
}

impl Limits {
    /// What a user may send, each with the name of its time.
    pub fn rates(self) -> [(Rate, &'static str); 2] {
        let rate = |most, seconds| Rate { most, window: Duration::from_secs(seconds) };
        [
            (rate(self.messages_per_minute, 60), "minute"),
            (rate(self.messages_per_hour, 3600), "hour"),
        ]
    }

    /// What all users together may send.
    pub fn system(self) -> Rate {
        Rate { most: self.messages_per_second, window: Duration::from_secs(1) }
    }
}
