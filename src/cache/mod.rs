//! The cache of pages that are read often, in this process or in Redis.
//!
//! A cache is a hint. Keys carry the version of the rows that a value was made from (see [`CacheKey`]), so that
//! an outdated value is never found, and a missing one is read from the database. Redis may lose or refuse
//! everything: answers stay the same, only slower. This room knows keys and bytes, not their meaning.

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
    Local(LocalCache),
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
    /// A value that has not expired. Counts hits and misses by kind.
    pub async fn get(&self, key: &CacheKey) -> Option<Bytes> {
        let found = match self {
            Cache::Local(local) => local.get(key),
            // While Redis is away every read is a miss.
            Cache::Redis(redis) => redis.entry(key.as_str()).await.ok().flatten(),
        };
        let name = match found {
            Some(_) => "esh3ar_cache_hits_total",
            None => "esh3ar_cache_misses_total",
        };
        metrics::counter!(name, "kind" => key.kind().name()).increment(1);
        found
    }

    pub async fn put(&self, key: CacheKey, value: Bytes, ttl: Duration) {
        match self {
            Cache::Local(local) => local.put(key, value, ttl),
            Cache::Redis(redis) => {
                if let Err(error) = redis.keep_entry(key.as_str(), &value, ttl).await {
                    tracing::debug!(%error, "a value could not be cached");
                }
            }
        }
    }
}
