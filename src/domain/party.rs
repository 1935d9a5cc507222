//! Senders and recipients: a phone, or a business user.

use std::fmt;

use uuid::Uuid;

use super::{Phone, UserId};

/// A sender or recipient. Every connection belongs to a party, and a party may have several.
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

impl Party {
    /// The key of a party between processes and in Redis; contains the phone number, so never for a log.
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
