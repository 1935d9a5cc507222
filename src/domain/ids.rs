//! Identifiers, one type each, so that a message id can never be used as a user id.

use std::{fmt, time::Duration};

use time::OffsetDateTime;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id! {
    /// A message. UUIDv7: within one process the order of ids is the order of acceptance.
    MessageId
}

/// Bits below the milliseconds.
const BITS_BELOW_MILLIS: u32 = 80;

impl MessageId {
    /// A lower bound of every id created at this time or later.
    pub fn first_of(time: OffsetDateTime) -> MessageId {
        let millis = u128::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        MessageId(Uuid::from_u128(millis << BITS_BELOW_MILLIS))
    }

    /// Whether this may be the id of a message, not just a time bound.
    pub fn is_message_id(self) -> bool {
        self != MessageId::first_of(self.time())
    }

    /// A lower bound of every id created at most `by` before this one.
    pub fn earlier(self, by: Duration) -> MessageId {
        let millis = (self.0.as_u128() >> BITS_BELOW_MILLIS).saturating_sub(by.as_millis());
        MessageId(Uuid::from_u128(millis << BITS_BELOW_MILLIS))
    }

    /// The lowest id above this one.
    pub fn next(self) -> MessageId {
        MessageId(Uuid::from_u128(self.0.as_u128().saturating_add(1)))
    }

    /// When it was created, by the clock of that process.
    pub fn time(self) -> OffsetDateTime {
        let nanos =
            i128::try_from(self.0.as_u128() >> BITS_BELOW_MILLIS).unwrap_or_default() * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

id! {
    /// A conversation between one business user and one mobile user.
    ConversationId
}
id! {
    /// A business user.
    UserId
}
id! {
    /// A mobile user, known to everyone else by phone number.
    MobileUserId
}
id! {
    /// A stored token (never the token itself).
    TokenId
}
id! {
    /// A dead letter.
    DeadLetterId
}

/// A process of an installation, new at each start. Displayed as sixteen hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 8]);

/// Length of a displayed node id.
const NODE_ID_LEN: usize = 16;

/// Not a node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node id has sixteen hexadecimal digits")]
pub struct InvalidNodeId;

impl NodeId {
    /// The bytes, as stored and sent.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl From<[u8; 8]> for NodeId {
    fn from(bytes: [u8; 8]) -> Self {
        NodeId(bytes)
    }
}

impl From<NodeId> for [u8; 8] {
    fn from(node: NodeId) -> Self {
        node.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl std::str::FromStr for NodeId {
    type Err = InvalidNodeId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Reading a number would also take a sign, and fewer digits.
        let fits = text.len() == NODE_ID_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = fits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| NodeId(number.to_be_bytes())).ok_or(InvalidNodeId)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_processes_are_written_and_read() {
        let node = NodeId([0, 1, 2, 3, 0xFC, 0xFD, 0xFE, 0xFF]);
        assert_eq!(node.to_string(), "00010203fcfdfeff");
        assert_eq!(format!("{node:?}"), "NodeId(00010203fcfdfeff)");
        assert_eq!("00010203FCFDFEFF".parse(), Ok(node));
        for bad in ["", "xyz", "+00000000000000f", "00010203fcfdfef", "00010203fcfdfeff0"] {
            assert_eq!(bad.parse::<NodeId>(), Err(InvalidNodeId), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_process_is_found_by_its_name(bytes: [u8; 8], other: [u8; 8]) {
            let (node, other) = (NodeId::from(bytes), NodeId::from(other));
            prop_assert_eq!(node.to_string().parse(), Ok(node));
            prop_assert_eq!(node.to_string().cmp(&other.to_string()), node.cmp(&other));
            prop_assert_eq!(<[u8; 8]>::from(node), bytes);
        }
    }

    #[test]
    fn an_id_tells_its_time_and_what_lies_before_it() {
        let id = MessageId(Uuid::now_v7());
        let first = MessageId::first_of(id.time());
        assert!(first <= id && first.time() == id.time());
        assert!(id < MessageId::first_of(id.time() + Duration::from_millis(1)));
        let ago = Duration::from_secs(10);
        assert_eq!(id.earlier(ago), MessageId::first_of(id.time() - ago));
        assert!(id < id.next());
        let nil = MessageId(Uuid::nil());
        assert_eq!((nil.earlier(ago), nil.time()), (nil, OffsetDateTime::UNIX_EPOCH));
        let last = MessageId(Uuid::max());
        assert_eq!(last.next(), last);
    }
}
