//! Limits on what parties may send, open and change.

use std::time::Duration;

use super::{Party, rate::Rate};

/// The configured limits; 0 means none, except for connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages a user may send in a minute.
    pub messages_per_minute: u32,
    /// Messages a user may send in an hour.
    pub messages_per_hour: u32,
    /// Messages per second of all users together.
    pub messages_per_second: u32,
    /// Maximum number of deliveries in flight.
    pub queue_depth: u64,
    /// Connections one phone may have.
    pub connections_per_user: usize,
    /// Connections one business user may have.
    pub connections_per_business_user: usize,
    /// Connections to a hub that one phone may begin in a minute.
    pub connects_per_user_per_minute: u32,
    /// Connections to a hub that one business user may begin in a minute.
    pub connects_per_business_user_per_minute: u32,
    /// Conversations one phone may begin in an hour.
    pub conversations_per_user_per_hour: u32,
    /// Conversations one business user may begin in an hour.
    pub conversations_per_business_user_per_hour: u32,
    /// Other changes one phone may ask for in a minute.
    pub writes_per_user_per_minute: u32,
    /// Other changes one business user may ask for in a minute.
    pub writes_per_business_user_per_minute: u32,
    /// Requests to the admin API one administrator may make in a minute.
    pub admin_requests_per_minute: u32,
}

/// A class of events limited per party, each with its own counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateClass {
    /// Messages that were accepted.
    Messages,
    /// Connections to a hub.
    Connects,
    /// Conversations that did not exist before.
    Conversations,
    /// Requests and calls that change something else.
    Writes,
    /// Receipts without effect. Others are bounded by the party's messages.
    Receipts,
    /// Admin API requests: each may add an audit log entry.
    Admin,
}

/// A rate with the name of its window.
pub type NamedRate = (Rate, &'static str);

impl RateClass {
    /// All of them, in the order of their numbers.
    pub const ALL: [RateClass; 6] = [
        RateClass::Messages,
        RateClass::Connects,
        RateClass::Conversations,
        RateClass::Writes,
        RateClass::Receipts,
        RateClass::Admin,
    ];

    /// The name in metrics and in Redis keys.
    pub const fn name(self) -> &'static str {
        match self {
            RateClass::Messages => "messages",
            RateClass::Connects => "connects",
            RateClass::Conversations => "conversations",
            RateClass::Writes => "writes",
            RateClass::Receipts => "receipts",
            RateClass::Admin => "admin",
        }
    }

    /// What is counted, as words after a number.
    pub const fn counted(self) -> &'static str {
        match self {
            RateClass::Messages => "messages",
            RateClass::Connects => "new connections",
            RateClass::Conversations => "new conversations",
            RateClass::Writes => "changes",
            RateClass::Receipts => "receipts without effect",
            RateClass::Admin => "admin API requests",
        }
    }
}

impl Limits {
    /// Caps the limits: no party may have more than half of all connections.
    #[must_use]
    pub fn at_most(self, connections: usize) -> Limits {
        let half = connections.div_ceil(2).max(1);
        Limits {
            connections_per_user: self.connections_per_user.min(half),
            connections_per_business_user: self.connections_per_business_user.min(half),
            ..self
        }
    }

    /// The rate limits of a party in a class. A class has the same windows for every party.
    pub fn rates(self, class: RateClass, party: &Party) -> Vec<NamedRate> {
        let minute = |most| (Rate { most, window: Duration::from_secs(60) }, "minute");
        let hour = |most| (Rate { most, window: Duration::from_secs(3600) }, "hour");
        let by_side = |phone, business| match party {
            Party::Mobile(_) => phone,
            Party::Business(_) => business,
        };
        match class {
            RateClass::Messages => {
                vec![minute(self.messages_per_minute), hour(self.messages_per_hour)]
            }
            RateClass::Connects => vec![minute(by_side(
                self.connects_per_user_per_minute,
                self.connects_per_business_user_per_minute,
            ))],
            RateClass::Conversations => vec![hour(by_side(
                self.conversations_per_user_per_hour,
                self.conversations_per_business_user_per_hour,
            ))],
            RateClass::Writes | RateClass::Receipts => vec![minute(by_side(
                self.writes_per_user_per_minute,
                self.writes_per_business_user_per_minute,
            ))],
            RateClass::Admin => vec![minute(self.admin_requests_per_minute)],
        }
    }

    /// What all users together may send.
    pub fn system(self) -> Rate {
        Rate { most: self.messages_per_second, window: Duration::from_secs(1) }
    }
}
