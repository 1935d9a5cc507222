//! What was read lately and is asked for again: pages of history, lists of conversations, counts.
//!
//! A cache is a hint. Keys carry the version of what a value was made from (see [`Key`]), so that a value
//! that is behind is never found; whatever is forgotten is read from the database again.

mod key;
mod local;

use std::time::Duration;

use bytes::Bytes;

pub use key::{Key, Kind};
pub use local::LocalCache;

/// A cache. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Cache {
    /// In this process.
    Local(LocalCache),
}

impl Default for Cache {
    fn default() -> Self {
        Cache::Local(LocalCache::default())
    }
}

impl Cache {
    /// A value, if it is kept and its time is not over. Counts hits and misses by kind.
    pub async fn get(&self, key: &Key) -> Option<Bytes> {
        let found = match self {
            Cache::Local(local) => local.get(key),
        };
        let name = match found {
            Some(_) => "esh3ar_cache_hits_total",
            None => "esh3ar_cache_misses_total",
        };
        metrics::counter!(name, "kind" => key.kind().name()).increment(1);
        found
    }

    /// Keeps a value for this long at most.
    pub async fn put(&self, key: Key, value: Bytes, ttl: Duration) {
        match self {
            Cache::Local(local) => local.put(key, value, ttl),
        }
    }
}
