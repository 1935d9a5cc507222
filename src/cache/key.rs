//! Keys of cached values.

use std::fmt::Display;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheKind {
    /// The newest messages of a conversation.
    History,
    /// The first page of somebody's conversations.
    Conversations,
    /// How many of somebody's conversations have unread messages.
    Unread,
}

impl CacheKind {
    pub const ALL: [CacheKind; 3] =
        [CacheKind::History, CacheKind::Conversations, CacheKind::Unread];

    /// Used in keys and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            CacheKind::History => "history",
            CacheKind::Conversations => "conversations",
            CacheKind::Unread => "unread",
        }
    }
}

/// Another release may write values in another format.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Names what a value is, whose it is, and the version of the rows that it was made from. The version is read
/// from the database before the cache is asked, so an outdated value is never found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    kind: CacheKind,
    text: String,
}

impl CacheKey {
    pub fn new(kind: CacheKind, of: impl Display, version: impl Display) -> CacheKey {
        CacheKey { kind, text: format!("esh3ar:{RELEASE}:{}:{of}:{version}", kind.name()) }
    }

    pub fn kind(&self) -> CacheKind {
        self.kind
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}
