//! Under what a value is kept.

use std::fmt::Display;

/// What a value is.
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
    /// Every kind.
    pub const ALL: [CacheKind; 3] =
        [CacheKind::History, CacheKind::Conversations, CacheKind::Unread];

    /// Its name in keys and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            CacheKind::History => "history",
            CacheKind::Conversations => "conversations",
            CacheKind::Unread => "unread",
        }
    }
}

/// Values that another release wrote may look otherwise.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// What a value is, of whom, and the version of the rows that it was made from. The version was read
/// from the database before the cache is asked: a value of another version has another key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    kind: CacheKind,
    text: String,
}

impl CacheKey {
    /// A key.
    pub fn new(kind: CacheKind, of: impl Display, version: impl Display) -> CacheKey {
        CacheKey { kind, text: format!("esh3ar:{RELEASE}:{}:{of}:{version}", kind.name()) }
    }

    /// What the value is.
    pub fn kind(&self) -> CacheKind {
        self.kind
    }

    /// The whole key, as a store outside would name it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}
