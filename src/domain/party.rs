//! Who can be at the other end: a phone, or a business user.

use std::fmt;

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
