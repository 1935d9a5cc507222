//! Who can be at the other end: a phone, or a business user.

use std::fmt;

use uuid::Uuid;

use super::{Phone, UserId};

/// One end of a message. Every connection belongs to a party, and a party may have several.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Party {
    /// A mobile user, by phone number.
    Mobile(Phone),
    /// A business user.
    Business(UserId),
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The phone's own Debug is masked.
            Party::Mobile(phone) => write!(f, "mobile {phone:?}"),
            Party::Business(id) => write!(f, "business {id}"),
        }
    }
}

/// How many shares the work is cut into. Stored with each message, so it never changes.
pub const PARTITIONS: u16 = 64;

impl Party {
    /// How a party is called between processes and in keys; holds the phone number, so never for a log.
    pub fn key(&self) -> String {
        match self {
            Party::Mobile(phone) => format!("m:{}", phone.as_str()),
            Party::Business(id) => format!("b:{}", id.0.as_simple()),
        }
    }

    /// Reads a [`Party::key`].
    pub fn from_key(key: &str) -> Option<Party> {
        match key.split_once(':')? {
            ("m", phone) => Some(Party::Mobile(Phone::from_stored(phone))),
            ("b", id) => Some(Party::Business(UserId(Uuid::parse_str(id).ok()?))),
            _ => None,
        }
    }

    /// The share of the work that this recipient's messages belong to, 0 to 63: those of one
    /// recipient are always in the same one, which keeps them in order. FNV-1a, because it must give
    /// the same number in every process and version.
    pub fn partition(&self) -> i16 {
        let bytes: &[u8] = match self {
            Party::Mobile(phone) => phone.as_str().as_bytes(),
            Party::Business(id) => id.0.as_bytes(),
        };
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // Below 64, so it fits.
        (hash % u64::from(PARTITIONS)) as i16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_never_move() {
        // Stored with the messages: another hash would tear a recipient's order apart.
        let of = |phone: &str| Party::Mobile(Phone::from_stored(phone)).partition();
        assert_eq!([of("+967771234567"), of("+967771234568")], [PINNED.0, PINNED.1]);
    }

    #[test]
    fn keys_are_written_and_read() {
        let phone = Party::Mobile(Phone::from_stored("+967771234567"));
        let user = Party::Business(UserId(Uuid::from_u128(7)));
        for party in [phone, user] {
            assert_eq!(Party::from_key(&party.key()), Some(party));
        }
        for wrong in ["", "x:1", "b:1", "m"] {
            assert_eq!(Party::from_key(wrong), None);
        }
    }

    const PINNED: (i16, i16) = (44, 17);
}
