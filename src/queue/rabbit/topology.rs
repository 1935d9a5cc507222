//! What we declare at the broker, and which brokers we take.
//!
//! Everything here is the same for every supported version, because queues outlive upgrades of the
//! broker and of esh3ar: a queue whose type or arguments had to change would get a new name, and the
//! old one would be read until it is empty. Queues are never deleted.

use std::fmt;

use crate::domain::Priority;

/// Where wake-ups are published; the routing key is the name of the queue.
pub const EXCHANGE: &str = "Esh3arTech.Messaging";
/// Where frames end up that cannot be read. The broker itself moves them there.
pub const DEAD_LETTERS: &str = "messaging.deadletter";
/// The stored partitions of messages are below this, so more queues would stay empty.
pub const MAX_PARTITIONS: u16 = 64;
/// The lanes, lowest first, as they are numbered.
pub const LANES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// Frames that one queue holds; past that publishes are refused, and the sweeper delivers. It is the
/// depth at which sends are refused (`limits.queue_depth`), were each frame one message.
const MAX_QUEUE_LEN: i64 = 100_000;
/// Unreadable frames that are kept for reading; the oldest go first.
const MAX_DEAD_LETTERS_LEN: i64 = 10_000;

/// One of the work queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkQueue {
    /// Its lane.
    pub lane: Priority,
    /// Its partition, below the number of partitions.
    pub partition: u16,
}

impl WorkQueue {
    /// The name of the queue, and its routing key.
    pub fn name(self) -> String {
        format!("esh3ar.v1.{}.{}", self.lane.name(), self.partition)
    }

    /// All places of so many partitions.
    pub fn all(partitions: u16) -> impl Iterator<Item = WorkQueue> {
        (0..partitions)
            .flat_map(|partition| LANES.into_iter().map(move |lane| WorkQueue { lane, partition }))
    }
}

/// The partition of so many that a message's stored partition belongs to.
pub fn partition(stored: i16, partitions: u16) -> u16 {
    stored.unsigned_abs() % partitions.max(1)
}

/// How the broker keeps a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// On one node.
    Classic,
    /// On a majority of three nodes or more.
    Quorum,
}

impl QueueType {
    /// The name that the broker has for it.
    pub const fn name(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
        }
    }

    /// The other one.
    pub const fn other(self) -> QueueType {
        match self {
            QueueType::Classic => QueueType::Quorum,
            QueueType::Quorum => QueueType::Classic,
        }
    }
}

/// The kind of queue that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueTypeChoice {
    /// What is already there, else quorum when three nodes or more are named, else classic.
    #[default]
    Auto,
    /// This one, or an error when another is already there.
    Fixed(QueueType),
}

impl QueueTypeChoice {
    /// What to declare where nothing is yet, with so many nodes named.
    ///
    /// AMQP does not tell how many nodes a cluster has, and the management API that would may not be
    /// there; who runs three nodes names them, because one name would not survive its node.
    pub const fn first(self, nodes: usize) -> QueueType {
        match self {
            QueueTypeChoice::Fixed(kind) => kind,
            QueueTypeChoice::Auto if nodes >= 3 => QueueType::Quorum,
            QueueTypeChoice::Auto => QueueType::Classic,
        }
    }
}

/// The value of a queue's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentValue {
    /// A text.
    Text(&'static str),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

/// The arguments of a work queue.
pub fn work_queue_arguments(kind: QueueType) -> [(&'static str, ArgumentValue); 6] {
    [
        // Always said, because a virtual host may have a default of its own.
        ("x-queue-type", ArgumentValue::Text(kind.name())),
        ("x-single-active-consumer", ArgumentValue::Flag(true)),
        ("x-max-length", ArgumentValue::Number(MAX_QUEUE_LEN)),
        ("x-overflow", ArgumentValue::Text("reject-publish")),
        // By the default exchange, whose routing keys are names of queues.
        ("x-dead-letter-exchange", ArgumentValue::Text("")),
        ("x-dead-letter-routing-key", ArgumentValue::Text(DEAD_LETTERS)),
    ]
}

/// The arguments of the queue of unreadable frames.
pub fn dead_letter_arguments(kind: QueueType) -> [(&'static str, ArgumentValue); 2] {
    [
        ("x-queue-type", ArgumentValue::Text(kind.name())),
        ("x-max-length", ArgumentValue::Number(MAX_DEAD_LETTERS_LEN)),
    ]
}

/// The version of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BrokerVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl BrokerVersion {
    /// The oldest that is taken: quorum queues there refuse publishes when they are full.
    pub const MIN_SUPPORTED: BrokerVersion = BrokerVersion { major: 3, minor: 10 };

    /// Reads the beginning of such texts as `3.10.8` or `4.1.0-rc.1`.
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

    /// They are at brokers out there; a change needs a new name.
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
