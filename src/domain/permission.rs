//! What a business user may do.

use std::fmt;

/// A permission. Names are those of the command line and the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Send one-way messages.
    SendMessages,
    /// Take part in conversations.
    Chat,
    /// Send one message to many.
    Broadcast,
    /// Use the admin API.
    Admin,
}

impl Permission {
    /// All permissions, in display order.
    pub const ALL: [Permission; 4] =
        [Permission::SendMessages, Permission::Chat, Permission::Broadcast, Permission::Admin];

    /// The name on the command line and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Permission::SendMessages => "SendMessages",
            Permission::Chat => "Chat",
            Permission::Broadcast => "Broadcast",
            Permission::Admin => "Admin",
        }
    }

    const fn bit(self) -> i32 {
        match self {
            Permission::SendMessages => 1,
            Permission::Chat => 2,
            Permission::Broadcast => 4,
            Permission::Admin => 8,
        }
    }
}

/// A set of permissions; stored as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(i32);

/// An unknown permission.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a permission; use SendMessages, Chat, Broadcast or Admin")]
pub struct UnknownPermission(pub String);

impl Permissions {
    /// No permissions.
    pub const NONE: Permissions = Permissions(0);

    /// Reads stored bits; unknown ones are dropped, so that an older binary never grants what it does not
    /// know.
    pub fn from_bits(bits: i32) -> Self {
        let known = Permission::ALL.iter().fold(0, |all, p| all | p.bit());
        Permissions(bits & known)
    }

    /// The bits to store.
    pub const fn bits(self) -> i32 {
        self.0
    }

    /// Adds a permission.
    #[must_use]
    pub const fn with(self, permission: Permission) -> Self {
        Permissions(self.0 | permission.bit())
    }

    /// Whether the set contains a permission.
    pub const fn has(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// The permissions in the set.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |p| self.has(*p))
    }

    /// Parses comma-separated names, ignoring case.
    ///
    /// # Errors
    /// The first unknown name.
    pub fn parse(list: &str) -> Result<Self, UnknownPermission> {
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).try_fold(
            Permissions::NONE,
            |all, name| {
                Permission::ALL
                    .into_iter()
                    .find(|p| p.name().eq_ignore_ascii_case(name))
                    .map(|p| all.with(p))
                    .ok_or_else(|| UnknownPermission(name.to_owned()))
            },
        )
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, permission) in self.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            f.write_str(permission.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let all = Permissions::parse("sendmessages, Chat,Broadcast,ADMIN").unwrap();
        assert_eq!(all.to_string(), "SendMessages,Chat,Broadcast,Admin");
        assert_eq!(Permissions::parse(&all.to_string()).unwrap(), all);
        assert_eq!(Permissions::parse("Fly"), Err(UnknownPermission("Fly".into())));
    }

    #[test]
    fn unknown_bits_grant_nothing() {
        assert_eq!(Permissions::from_bits(1 << 20), Permissions::NONE);
    }
}
