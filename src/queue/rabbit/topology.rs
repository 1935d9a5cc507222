//! The exchange and queues that are declared, and the supported brokers.
//!
//! All of it is the same for every supported version, because queues outlive upgrades of the broker and of
//! esh3ar. A queue whose type or arguments have to change gets a new name, and the old one is read until it is
//! empty. Queues are never deleted.

use std::fmt;

use crate::domain::Priority;

/// Wake-ups are published here; the routing key is the name of the queue.
pub const EXCHANGE: &str = "Esh3arTech.Messaging";
/// The broker moves rejected frames here.
pub const DEAD_LETTERS: &str = "messaging.deadletter";
/// Stored partitions are below this, so more queues would stay empty.
pub const MAX_PARTITIONS: u16 = 64;
/// Lowest first, as they are numbered.
pub const LANES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// Frames in one queue; the broker rejects more, and the sweeper finds their messages. If every frame were one
/// message, this would be the depth at which sends are refused (`limits.queue_depth`).
const MAX_QUEUE_LEN: i64 = 100_000;
/// Unreadable frames that are kept; the oldest are dropped first.
const MAX_DEAD_LETTERS_LEN: i64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkQueue {
    pub lane: Priority,
    pub partition: u16,
}

impl WorkQueue {
    /// Also the routing key.
    pub fn name(self) -> String {
        format!("esh3ar.v1.{}.{}", self.lane.name(), self.partition)
    }

    /// All work queues of this many partitions.
    pub fn all(partitions: u16) -> impl Iterator<Item = WorkQueue> {
        (0..partitions)
            .flat_map(|partition| LANES.into_iter().map(move |lane| WorkQueue { lane, partition }))
    }
}

/// The partition that a message's stored partition maps to.
pub fn partition(stored: i16, partitions: u16) -> u16 {
    stored.unsigned_abs() % partitions.max(1)
}

/// How the broker stores a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    Classic,
    Quorum,
}

impl QueueType {
    /// The broker's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
        }
    }

    pub const fn other(self) -> QueueType {
        match self {
            QueueType::Classic => QueueType::Quorum,
            QueueType::Quorum => QueueType::Classic,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueTypeChoice {
    /// The type that exists, else quorum when three or more nodes are named, else classic.
    #[default]
    Auto,
    /// This type; an error when the other one exists.
    Fixed(QueueType),
}

impl QueueTypeChoice {
    /// What to declare on a new broker, when this many nodes are named.
    ///
    /// AMQP does not tell how many nodes a cluster has, and the management API may not be enabled. An operator
    /// with three nodes names all of them, because a single name would not survive its node.
    pub const fn first(self, nodes: usize) -> QueueType {
        match self {
            QueueTypeChoice::Fixed(kind) => kind,
            QueueTypeChoice::Auto if nodes >= 3 => QueueType::Quorum,
            QueueTypeChoice::Auto => QueueType::Classic,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentValue {
    Text(&'static str),
    Number(i64),
    Flag(bool),
}

pub fn work_queue_arguments(kind: QueueType) -> [(&'static str, ArgumentValue); 6] {
    [
        // Always explicit, because a virtual host may have its own default.
        ("x-queue-type", ArgumentValue::Text(kind.name())),
        ("x-single-active-consumer", ArgumentValue::Flag(true)),
        ("x-max-length", ArgumentValue::Number(MAX_QUEUE_LEN)),
        ("x-overflow", ArgumentValue::Text("reject-publish")),
        // The default exchange: its routing keys are names of queues.
        ("x-dead-letter-exchange", ArgumentValue::Text("")),
        ("x-dead-letter-routing-key", ArgumentValue::Text(DEAD_LETTERS)),
    ]
}

pub fn dead_letter_arguments(kind: QueueType) -> [(&'static str, ArgumentValue); 2] {
    [
        ("x-queue-type", ArgumentValue::Text(kind.name())),
        ("x-max-length", ArgumentValue::Number(MAX_DEAD_LETTERS_LEN)),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BrokerVersion {
    pub major: u32,
    pub minor: u32,
}

impl BrokerVersion {
    /// From this version on, full quorum queues reject publishes.
    pub const MIN_SUPPORTED: BrokerVersion = BrokerVersion { major: 3, minor: 10 };

    /// Parses the start of texts such as `3.10.8` or `4.1.0-rc.1`.
    pub fn parse(text: &str) -> Option<BrokerVersion> {
        let mut numbers = text.split(['.', '-', '+']);
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(BrokerVersion { major, minor })
    }
}

impl fmt::Display for BrokerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They exist on brokers in production; a change needs a new name.
    #[test]
    fn names_and_arguments_never_change() {
        let names: Vec<String> = WorkQueue::all(2).map(WorkQueue::name).collect();
        let wanted = [
            "esh3ar.v1.low.0",
            "esh3ar.v1.normal.0",
            "esh3ar.v1.high.0",
            "esh3ar.v1.low.1",
            "esh3ar.v1.normal.1",
            "esh3ar.v1.high.1",
        ];
        assert_eq!(names, wanted);
        assert_eq!(
            format!("{:?}", work_queue_arguments(QueueType::Quorum)),
            r#"[("x-queue-type", Text("quorum")), ("x-single-active-consumer", Flag(true)), ("x-max-length", Number(100000)), ("x-overflow", Text("reject-publish")), ("x-dead-letter-exchange", Text("")), ("x-dead-letter-routing-key", Text("messaging.deadletter"))]"#
        );
        assert_eq!(
            format!("{:?}", dead_letter_arguments(QueueType::Classic)),
            r#"[("x-queue-type", Text("classic")), ("x-max-length", Number(10000))]"#
        );
    }

    #[test]
    fn every_stored_partition_has_a_place() {
        for partitions in 1..=MAX_PARTITIONS {
            let used: std::collections::BTreeSet<u16> =
                (0..64).map(|stored| partition(stored, partitions)).collect();
            assert!(used.into_iter().eq(0..partitions));
        }
    }

    #[test]
    fn the_kind_follows_the_nodes_unless_it_is_said() {
        assert_eq!(QueueTypeChoice::Auto.first(1), QueueType::Classic);
        assert_eq!(QueueTypeChoice::Auto.first(2), QueueType::Classic);
        assert_eq!(QueueTypeChoice::Auto.first(3), QueueType::Quorum);
        assert_eq!(QueueTypeChoice::Fixed(QueueType::Classic).first(5), QueueType::Classic);
        assert_eq!(QueueTypeChoice::Fixed(QueueType::Quorum).first(1), QueueType::Quorum);
    }

    #[test]
    fn versions_are_read_and_compared() {
        let version = |text| BrokerVersion::parse(text);
        assert_eq!(version("3.10.8"), Some(BrokerVersion { major: 3, minor: 10 }));
        assert_eq!(version("4.0-rc.1"), Some(BrokerVersion { major: 4, minor: 0 }));
        assert!(version("3.9.29") < Some(BrokerVersion::MIN_SUPPORTED));
        assert!(version("3.10.0") >= Some(BrokerVersion::MIN_SUPPORTED));
        assert!(version("4.2.0") >= Some(BrokerVersion::MIN_SUPPORTED));
        assert_eq!(version("next"), None);
        assert_eq!(version(""), None);
    }
}
