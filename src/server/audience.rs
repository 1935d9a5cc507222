//! Who may call a route or a hub method, and which limit a call counts against.

use crate::{
    app::{Caller, Error},
    domain::{Permission, limits::RateClass},
};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody, without a token.
    Anyone,
    /// A mobile user.
    Mobile,
    /// A business user, with this permission if one is named.
    Business(Option<Permission>),
    /// A mobile user, or a business user with this permission if one is named: each sees its own.
    Either(Option<Permission>),
    /// A business user with the permission Admin, or a command on the server itself.
    Admin,
}

impl Who {
    /// Whether this caller may call it.
    ///
    /// # Errors
    /// [`Error::WrongAudience`], [`Error::ReadOnly`] or [`Error::Forbidden`].
    pub fn admit(self, caller: &Caller) -> Result<(), Error> {
        let is_mobile = caller.mobile().is_ok();
        match self {
            Who::Anyone | Who::Either(None) => Ok(()),
            Who::Mobile => caller.mobile().map(drop),
            // Somebody who only receives is told why there is no way back.
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

/// What a request or a call stores, and with that the limit of the caller's that it counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Nothing: it reads, or what it does is gone with the process.
    Nothing,
    /// Messages. The use case counts each that is accepted; one that is refused stores nothing.
    Messages,
    /// A conversation, unless there is one. The use case counts each that is begun.
    Conversations,
    /// Receipts. The use case counts those that change nothing.
    Receipts,
    /// Anything else: each request counts as one, and each to the admin API against the limit of those.
    Other,
}

impl Writes {
    /// What counts before the handler runs; none where the use case counts.
    pub fn counted_first(self, who: Who) -> Option<RateClass> {
        match (self, who) {
            // What an administrator looks at is recorded, too.
            (_, Who::Admin) => Some(RateClass::Admin),
            (Writes::Other, _) => Some(RateClass::Writes),
            _ => None,
        }
    }
}
