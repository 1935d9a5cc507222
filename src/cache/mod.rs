//! What may be forgotten at any moment: what was read lately and is asked for again, in this process or in
//! Redis, and the rest of what Redis does for us.
//!
//! A cache is a hint. Keys carry the version of what a value was made from (see [`CacheKey`]), so that a value
//! that is behind is never found; whatever is forgotten is read from the database again. Redis may lose,
//! repeat or refuse everything, and every answer of the appliance stays the same, only slower. This room
//! owns the `redis` crate; it knows keys and bytes, and not what they mean.

mod key;
mod local;

use std::time::Duration;

use bytes::Bytes;

pub use key::{CacheKey, CacheKind};
pub use local::LocalCache;

use crate::redis::Redis;

/// A cache. Cheap to clone.
#[derive(Clone)]
pub enum Cache {
    /// In this process.
    Local(LocalCache),
    /// In Redis, for all processes.
    Redis(Redis),
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cache::Local(_) => "in this process",
            Cache::Redis(_) => "in Redis",
        })
    }
}

impl Default for Cache {
    fn default() -> Self {
        Cache::Local(LocalCache::default())
    }
}

impl Cache {
    /// A value, if it is kept and its time is not over. Counts hits and misses by kind.
    pub async fn get(&self, key: &CacheKey) -> Option<Bytes> {
        let found = match self {
            Cache::Local(local) => local.get(key),
            // While it is away nothing is found.
            Cache::Redis(redis) => redis.entry(key.as_str()).await.ok().flatten(),
        };
        let name = match found {
            Some(_) => "esh3ar_cache_hits_total",
            None => "esh3ar_cache_misses_total",
        };
        metrics::counter!(name, "kind" => key.kind().name()).increment(1);
        found
    }

    /// Keeps a value for this long at most.
    pub async fn put(&self, key: CacheKey, value: Bytes, ttl: Duration) {
        match self {
            Cache::Local(local) => local.put(key, value, ttl),
            Cache::Redis(redis) => {
                if let Err(error) = redis.keep_entry(key.as_str(), &value, ttl).await {
                    tracing::debug!(%error, "a value could not be kept");
                }
            }
        }
    }
}
