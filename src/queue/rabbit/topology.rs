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
pub const MOST_PARTITIONS: u16 = 64;
/// The lanes, lowest first, as they are numbered.
pub const LANES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// Frames that one queue holds; past that publishes are refused, and the sweeper delivers. It is the
/// depth at which sends are refused (`limits.queue_depth`), were each frame one message.
const QUEUE_LENGTH: i64 = 100_000;
/// Unreadable frames that are kept for reading; the oldest go first.
const DEAD_LETTERS_LENGTH: i64 = 10_000;

/// One of the work queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its lane.
    pub lane: Priority,
    /// Its partition, below the number of partitions.
    pub partition: u16,
}

impl Place {
    /// The name of the queue, and its routing key.
    pub fn queue(self) -> String {
        format!("esh3ar.v1.{}.{}", self.lane.name(), self.partition)
    }

    /// All places of so many partitions.
    pub fn all(partitions: u16) -> impl Iterator<Item = Place> {
        (0..partitions)
            .flat_map(|partition| LANES.into_iter().map(move |lane| Place { lane, partition }))
    }
}

/// The partition of so many that a message's stored partition belongs to.
pub fn partition(stored: i16, partitions: u16) -> u16 {
    stored.unsigned_abs() % partitions.max(1)
}

/// How the broker keeps a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On one node.
    Classic,
    /// On a majority of three nodes or more.
    Quorum,
}

impl Kind {
    /// The name that the broker has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Classic => "classic",
            Kind::Quorum => "quorum",
        }
    }

    /// The other one.
    pub const fn other(self) -> Kind {
        match self {
            Kind::Classic => Kind::Quorum,
            Kind::Quorum => Kind::Classic,
        }
    }
}

/// The kind of queue that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// What is already there, else quorum when three nodes or more are named, else classic.
    #[default]
    Auto,
    /// This one, or an error when another is already there.
    Fixed(Kind),
}

impl Choice {
    /// What to declare where nothing is yet, with so many nodes named.
    ///
    /// AMQP does not tell how many nodes a cluster has, and the management API that would may not be
    /// there; who runs three nodes names them, because one name would not survive its node.
    pub const fn first(self, nodes: usize) -> Kind {
        match self {
            Choice::Fixed(kind) => kind,
            Choice::Auto if nodes >= 3 => Kind::Quorum,
            Choice::Auto => Kind::Classic,
        }
    }
}

/// The value of a queue's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(&'static str),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

/// The arguments of a work queue.
pub fn work_queue(kind: Kind) -> [(&'static str, Value); 6] {
    [
        // Always said, because a virtual host may have a default of its own.
        ("x-queue-type", Value::Text(kind.name())),
        ("x-single-active-consumer", Value::Flag(true)),
        ("x-max-length", Value::Number(QUEUE_LENGTH)),
        ("x-overflow", Value::Text("reject-publish")),
        // By the default exchange, whose routing keys are names of queues.
        ("x-dead-letter-exchange", Value::Text("")),
        ("x-dead-letter-routing-key", Value::Text(DEAD_LETTERS)),
    ]
}

/// The arguments of the queue of unreadable frames.
pub fn dead_letter_queue(kind: Kind) -> [(&'static str, Value); 2] {
    [
        ("x-queue-type", Value::Text(kind.name())),
        ("x-max-length", Value::Number(DEAD_LETTERS_LENGTH)),
    ]
}

/// The version of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Version {
    /// The oldest that is taken: quorum queues there refuse publishes when they are full.
    pub const OLDEST: Version = Version { major: 3, minor: 10 };

    /// Reads the beginning of such texts as `3.10.8` or `4.1.0-rc.1`.
    pub fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.split(['.', '-', '+']);
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Version { major, minor })
    }
}

impl fmt::Display for Version {
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
        let names: Vec<String> = Place::all(2).map(Place::queue).collect();
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
            format!("{:?}", work_queue(Kind::Quorum)),
            r#"[("x-queue-type", Text("quorum")), ("x-single-active-consumer", Flag(true)), ("x-max-length", Number(100000)), ("x-overflow", Text("reject-publish")), ("x-dead-letter-exchange", Text("")), ("x-dead-letter-routing-key", Text("messaging.deadletter"))]"#
        );
        assert_eq!(
            format!("{:?}", dead_letter_queue(Kind::Classic)),
            r#"[("x-queue-type", Text("classic")), ("x-max-length", Number(10000))]"#
        );
    }

    #[test]
    fn every_stored_partition_has_a_place() {
        for partitions in 1..=MOST_PARTITIONS {
            let used: std::collections::BTreeSet<u16> =
                (0..64).map(|stored| partition(stored, partitions)).collect();
            assert!(used.into_iter().eq(0..partitions));
        }
    }

    #[test]
    fn the_kind_follows_the_nodes_unless_it_is_said() {
        assert_eq!(Choice::Auto.first(1), Kind::Classic);
        assert_eq!(Choice::Auto.first(2), Kind::Classic);
        assert_eq!(Choice::Auto.first(3), Kind::Quorum);
        assert_eq!(Choice::Fixed(Kind::Classic).first(5), Kind::Classic);
        assert_eq!(Choice::Fixed(Kind::Quorum).first(1), Kind::Quorum);
    }

    #[test]
    fn versions_are_read_and_compared() {
        let version = |text| Version::parse(text);
        assert_eq!(version("3.10.8"), Some(Version { major: 3, minor: 10 }));
        assert_eq!(version("4.0-rc.1"), Some(Version { major: 4, minor: 0 }));
        assert!(version("3.9.29") < Some(Version::OLDEST));
        assert!(version("3.10.0") >= Some(Version::OLDEST));
        assert!(version("4.2.0") >= Some(Version::OLDEST));
        assert_eq!(version("next"), None);
        assert_eq!(version(""), None);
    }
}
