//! The cache of this process, bounded in entries and bytes.
//!
//! Two generations instead of an LRU list: a value that is read moves into the younger one, and when that is
//! half full, the older one is dropped. Every operation takes constant time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::CacheKey;

const MAX_ENTRIES: usize = 20_000;
/// Includes keys.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that an entry takes beside its key and value.
const ENTRY_OVERHEAD: usize = 128;

/// Cheap to clone; clones share the values.
#[derive(Clone, Debug)]
pub struct LocalCache {
    inner: Arc<Mutex<Inner>>,
}

impl Default for LocalCache {
    fn default() -> Self {
        LocalCache::new(MAX_ENTRIES, MAX_BYTES)
    }
}

#[derive(Debug)]
struct Entry {
    value: Bytes,
    until: Instant,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<CacheKey, Entry>,
    bytes: usize,
}

impl Generation {
    fn insert(&mut self, key: CacheKey, entry: Entry) {
        self.remove(&key);
        self.bytes += size(&key, &entry.value);
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &CacheKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes = self.bytes.saturating_sub(size(key, &entry.value));
        Some(entry)
    }
}

fn size(key: &CacheKey, value: &Bytes) -> usize {
    ENTRY_OVERHEAD + key.as_str().len() + value.len()
}

#[derive(Debug)]
struct Inner {
    young: Generation,
    old: Generation,
    /// Half of the capacity.
    entries: usize,
    bytes: usize,
}

impl LocalCache {
    pub fn new(entries: usize, bytes: usize) -> LocalCache {
        let inner = Inner {
            young: Generation::default(),
            old: Generation::default(),
            entries: entries / 2,
            bytes: bytes / 2,
        };
        LocalCache { inner: Arc::new(Mutex::new(inner)) }
    }

    /// A panic leaves no partial state: every step under the lock is complete.
    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value that has not expired.
    pub(super) fn get(&self, key: &CacheKey) -> Option<Bytes> {
        let now = Instant::now();
        let mut inner = self.locked();
        if let Some(entry) = inner.young.entries.get(key) {
            return (entry.until > now).then(|| entry.value.clone());
        }
        let entry = inner.old.remove(key).filter(|entry| entry.until > now)?;
        let value = entry.value.clone();
        inner.keep(key.clone(), entry);
        Some(value)
    }

    pub(super) fn put(&self, key: CacheKey, value: Bytes, ttl: Duration) {
        let entry = Entry { value, until: Instant::now() + ttl };
        let mut inner = self.locked();
        inner.old.remove(&key);
        inner.keep(key, entry);
    }

    pub fn usage(&self) -> (usize, usize) {
        let inner = self.locked();
        let entries = inner.young.entries.len() + inner.old.entries.len();
        (entries, inner.young.bytes + inner.old.bytes)
    }
}

impl Inner {
    fn keep(&mut self, key: CacheKey, entry: Entry) {
        let size = size(&key, &entry.value);
        if size > self.bytes || self.entries == 0 {
            return;
        }
        if self.young.entries.len() >= self.entries || self.young.bytes + size > self.bytes {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::CacheKind;

    const LONG: Duration = Duration::from_secs(300);

    fn key(n: u16) -> CacheKey {
        CacheKey::new(CacheKind::History, n, 1)
    }

    #[test]
    fn what_is_asked_for_stays_and_what_is_over_goes() {
        let cache = LocalCache::new(8, 10_000);
        cache.put(key(0), Bytes::from_static(b"kept"), LONG);
        for n in 1..100 {
            assert_eq!(cache.get(&key(0)).as_deref(), Some(&b"kept"[..]), "after {n}");
            cache.put(key(n), Bytes::from_static(b"x"), LONG);
        }
        assert_eq!(cache.get(&key(50)), None);
        cache.put(key(200), Bytes::from_static(b"short"), Duration::ZERO);
        assert_eq!(cache.get(&key(200)), None);
        assert_eq!(cache.get(&CacheKey::new(CacheKind::Unread, 0, 1)), None);
        assert_eq!(cache.get(&CacheKey::new(CacheKind::History, 0, 2)), None, "another version");
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_and_gives_what_was_put_last(
            steps in prop::collection::vec((0u16..40, any::<bool>(), 0usize..400), 0..400)
        ) {
            let cache = LocalCache::new(16, 6_000);
            let mut put: HashMap<u16, usize> = HashMap::new();
            for (n, asks, length) in steps {
                if asks {
                    let found = cache.get(&key(n)).map(|value| value.len());
                    prop_assert!(found.is_none() || found == put.get(&n).copied());
                } else {
                    cache.put(key(n), Bytes::from(vec![0; length]), LONG);
                    put.insert(n, length);
                }
                let (entries, bytes) = cache.usage();
                prop_assert!(entries <= 16 && bytes <= 6_000, "{entries} entries, {bytes} bytes");
                let inner = cache.locked();
                for generation in [&inner.young, &inner.old] {
                    let counted: usize = generation
                        .entries
                        .iter()
                        .map(|(key, entry)| size(key, &entry.value))
                        .sum();
                    prop_assert_eq!(counted, generation.bytes);
                }
            }
        }
    }
}
