//! Who may do what: the only place that decides it.
//!
//! A message is seen by its sender and its recipient, and to everybody else it does not exist: the
//! answer is "not found", never "not allowed", because the latter says that there is something.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::app::{By, Error};
use crate::domain::{
    Message, Party, Permission, Permissions, Phone, TokenId, UserId, audit::Actor,
};

/// Somebody whose token was found valid.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token that was shown.
    pub token: TokenId,
    /// Until when it is valid.
    pub expires_at: Option<OffsetDateTime>,
    pub identity: Identity,
}

/// The two kinds of users.
#[derive(Clone, Debug)]
pub enum Identity {
    Business {
        id: UserId,
        /// How recipients see it.
        name: Arc<str>,
        permissions: Permissions,
    },
    Mobile {
        phone: Phone,
    },
}

impl Caller {
    /// The process itself, looking at its own hub: a business user that does not exist and may nothing.
    pub(in crate::app) fn probe() -> Caller {
        Caller {
            token: TokenId(Uuid::nil()),
            expires_at: None,
            identity: Identity::Business {
                id: UserId(Uuid::nil()),
                name: "".into(),
                permissions: Permissions::NONE,
            },
        }
    }

    /// The same caller after a change of its user's permissions. Returns whether they differ.
    pub fn set_permissions(&mut self, now: Permissions) -> bool {
        match &mut self.identity {
            Identity::Business { permissions, .. } => std::mem::replace(permissions, now) != now,
            Identity::Mobile { .. } => false,
        }
    }

    /// Whether the caller may receive messages now: a business user receives chat messages only.
    pub fn may_receive(&self) -> bool {
        self.chat_party().is_ok()
    }

    /// Whether this is the process looking at its own hub.
    pub fn is_probe(&self) -> bool {
        matches!(self.identity, Identity::Business { id, .. } if id.0.is_nil())
    }

    /// The party that the caller's connections belong to.
    pub fn party(&self) -> Party {
        match &self.identity {
            Identity::Business { id, .. } => Party::Business(*id),
            Identity::Mobile { phone } => Party::Mobile(phone.clone()),
        }
    }

    /// The caller as a business user with this permission.
    ///
    /// # Errors
    /// [`Error::WrongAudience`] or [`Error::Forbidden`].
    pub fn business(&self, permission: Permission) -> Result<(UserId, &Arc<str>), Error> {
        match &self.identity {
            Identity::Business { id, name, permissions } if permissions.has(permission) => {
                Ok((*id, name))
            }
            Identity::Business { .. } => Err(Error::Forbidden(permission)),
            Identity::Mobile { .. } => Err(Error::WrongAudience("business")),
        }
    }

    /// The caller as a business user that may send. A mobile user is told that one-way messages cannot be replied to.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] or [`Error::Forbidden`].
    pub fn sender(&self) -> Result<(UserId, &Arc<str>), Error> {
        self.business(Permission::SendMessages).map_err(|error| match error {
            Error::WrongAudience(_) => Error::ReadOnly,
            other => other,
        })
    }

    /// The caller as a mobile user.
    ///
    /// # Errors
    /// [`Error::WrongAudience`].
    pub fn mobile(&self) -> Result<&Phone, Error> {
        match &self.identity {
            Identity::Mobile { phone } => Ok(phone),
            Identity::Business { .. } => Err(Error::WrongAudience("mobile")),
        }
    }

    /// The caller as an administrator.
    ///
    /// # Errors
    /// [`Error::WrongAudience`] or [`Error::Forbidden`].
    pub fn administrator(&self) -> Result<By, Error> {
        self.business(Permission::Admin).map(|_| By::new(self.actor()))
    }

    /// On behalf of the caller itself.
    pub(in crate::app) fn by(&self) -> By {
        By::new(self.actor())
    }

    pub(super) fn actor(&self) -> Actor {
        let token = self.token;
        match &self.identity {
            Identity::Business { id, name, .. } => {
                Actor::User { id: *id, name: Arc::clone(name), token }
            }
            Identity::Mobile { phone } => Actor::Phone { phone: phone.clone(), token },
        }
    }

    /// The caller's party, if it may chat at all.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub(in crate::app) fn chat_party(&self) -> Result<Party, Error> {
        let party = self.party();
        if let Party::Business(_) = party {
            self.business(Permission::Chat)?;
        }
        Ok(party)
    }

    /// Whether the caller may see a message.
    pub fn may_see(&self, message: &Message) -> bool {
        let party = self.party();
        let is_participant = message.sender == party || message.recipient == party;
        is_participant && (message.position.is_none() || self.may_receive())
    }
}
