//! Who may call a route or a hub method, and which limit a call counts against.

use crate::{
    app::{Caller, Error},
    domain::{Permission, limits::RateClass},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everyone, without a token.
    Anyone,
    Mobile,
    /// A business user, with this permission if one is named.
    Business(Option<Permission>),
    /// A mobile user, or a business user with this permission if one is named. Each sees its own data.
    Either(Option<Permission>),
    /// A business user with the permission Admin, or a command on the server itself.
    Admin,
}

impl Who {
    /// # Errors
    /// [`Error::WrongAudience`], [`Error::ReadOnly`] or [`Error::Forbidden`].
    pub fn admit(self, caller: &Caller) -> Result<(), Error> {
        let is_mobile = caller.mobile().is_ok();
        match self {
            Who::Anyone | Who::Either(None) => Ok(()),
            Who::Mobile => caller.mobile().map(drop),
            // A one-way recipient gets an error of its own.
            Who::Business(Some(Permission::SendMessages)) => caller.sender().map(drop),
            Who::Business(Some(permission)) => caller.business(permission).map(drop),
            Who::Business(None) if is_mobile => Err(Error::WrongAudience("business")),
            Who::Business(None) => Ok(()),
            Who::Either(Some(_)) if is_mobile => Ok(()),
            Who::Either(Some(permission)) => caller.business(permission).map(drop),
            Who::Admin => caller.business(Permission::Admin).map(drop),
        }
    }
}

/// What a request or call stores, which decides the rate limit that it counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Nothing: it reads, or changes only state in memory.
    Nothing,
    /// Messages. The use case counts accepted ones; refused ones store nothing.
    Messages,
    /// A conversation, unless it exists. The use case counts new ones.
    Conversations,
    /// Receipts. The use case counts those that change nothing.
    Receipts,
    /// A registration, by somebody without a token. The use case counts its sends and guesses.
    Registrations,
    /// Anything else. Each request counts as one; requests to the admin API have a limit of their own.
    Other,
}

impl Writes {
    /// The limit that is counted before the handler runs; `None` where the use case counts.
    pub fn counted_first(self, who: Who) -> Option<RateClass> {
        match (self, who) {
            // Reads by administrators are stored in the audit log.
            (_, Who::Admin) => Some(RateClass::Admin),
            (Writes::Other, _) => Some(RateClass::Writes),
            _ => None,
        }
    }
}
