//! Identifiers, one type each, so that a message's id can never be taken for a user's.

use std::fmt;

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
id! {
    /// A conversation between one business user and one mobile user.
    ConversationId
}
id! {
    /// A business user.
    UserId
}
id! {
    /// A mobile user, who is known to everyone else by phone number.
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
