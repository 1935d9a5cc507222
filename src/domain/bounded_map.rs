//! A map with a maximum size and expiring entries.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, time::Instant};

/// What happens when a new entry does not fit and none has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The least recently used half is dropped.
    DropOldest,
    /// The new entry is not kept.
    Refuse,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    /// When it expires, if it does.
    until: Option<Instant>,
    /// Sequence number of the last use; unique.
    used: u64,
}

impl<V> Entry<V> {
    fn is_live(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A map of limited size. The caller passes the time.
#[derive(Clone, Debug)]
pub struct BoundedMap<K, V> {
    entries: HashMap<K, Entry<V>>,
    capacity: usize,
    when_full: WhenFull,
    /// Nothing expires before this.
    first_expiry: Option<Instant>,
    /// Uses so far.
    uses: u64,
}

impl<K: Eq + Hash, V> BoundedMap<K, V> {
    /// An empty map for at most `capacity` entries.
    pub fn new(capacity: usize, when_full: WhenFull) -> BoundedMap<K, V> {
        BoundedMap { entries: HashMap::new(), capacity, when_full, first_expiry: None, uses: 0 }
    }

    /// A value that has not expired.
    pub fn get<Q>(&mut self, key: &Q, now: Instant) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entry = self.entries.get_mut(key).filter(|entry| entry.is_live(now))?;
        self.uses += 1;
        entry.used = self.uses;
        Some(&mut entry.value)
    }

    /// Inserts or replaces a value, until an expiry. `false` if it does not fit.
    pub fn insert(&mut self, key: K, value: V, until: Option<Instant>, now: Instant) -> bool {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.make_room(now);
            if self.entries.len() >= self.capacity {
                return false;
            }
        }
        self.uses += 1;
        self.first_expiry = earlier(self.first_expiry, until);
        self.entries.insert(key, Entry { value, until, used: self.uses });
        true
    }

    fn drop_expired(&mut self, now: Instant) {
        if self.first_expiry.is_none_or(|first| now < first) {
            return;
        }
        let mut first = None;
        self.entries.retain(|_, entry| {
            let live = entry.is_live(now);
            if live {
                first = earlier(first, entry.until);
            }
            live
        });
        self.first_expiry = first;
    }

    /// Evicting scans every entry, so at least a quarter of the capacity is freed each time.
    fn make_room(&mut self, now: Instant) {
        self.drop_expired(now);
        let full = self.entries.len() > self.capacity - self.capacity.div_ceil(4);
        if !full || self.when_full == WhenFull::Refuse {
            return;
        }
        let mut uses: Vec<u64> = self.entries.values().map(|entry| entry.used).collect();
        let middle = uses.len().div_ceil(2) - 1;
        let (_, last_dropped, _) = uses.select_nth_unstable(middle);
        let last_dropped = *last_dropped;
        self.entries.retain(|_, entry| entry.used > last_dropped);
    }

    /// Removes an entry, expired or not.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.remove(key).map(|entry| entry.value)
    }

    /// Keeps only some entries.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.entries.retain(|key, entry| keep(key, &entry.value));
    }

    /// Removes and returns up to `most` entries, in no order, expired or not.
    pub fn take(&mut self, most: usize) -> Vec<(K, V)>
    where
        K: Clone,
    {
        if most >= self.entries.len() {
            let all = std::mem::take(&mut self.entries);
            return all.into_iter().map(|(key, entry)| (key, entry.value)).collect();
        }
        let keys: Vec<K> = self.entries.keys().take(most).cloned().collect();
        keys.into_iter()
            .filter_map(|key| self.entries.remove(&key).map(|entry| (key, entry.value)))
            .collect()
    }

    /// Number of entries, including expired ones.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn after(zero: Instant, seconds: u64) -> Instant {
        zero + Duration::from_secs(seconds)
    }

    #[test]
    fn an_entry_expires_at_its_moment() {
        let zero = Instant::now();
        let mut map = BoundedMap::new(2, WhenFull::Refuse);
        assert!(map.insert("short", 1, Some(after(zero, 5)), zero));
        assert!(map.insert("for good", 2, None, zero));
        assert_eq!(map.get("short", after(zero, 4)), Some(&mut 1));
        assert_eq!(map.get("short", after(zero, 5)), None);
        assert_eq!(map.get("for good", after(zero, 500)), Some(&mut 2));
        assert!(map.insert("new", 3, None, after(zero, 5)), "the expired one makes room");
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn a_full_map_refuses_what_is_new_and_takes_what_it_knows() {
        let now = Instant::now();
        let mut map = BoundedMap::new(2, WhenFull::Refuse);
        assert!(map.insert(1, 'a', None, now) && map.insert(2, 'b', None, now));
        assert!(!map.insert(3, 'c', None, now));
        assert!(map.insert(2, 'd', None, now));
        assert_eq!(map.get(&2, now), Some(&mut 'd'));
        let mut taken = map.take(9);
        taken.sort_unstable();
        assert_eq!(taken, [(1, 'a'), (2, 'd')]);
        assert!(map.is_empty() && map.insert(3, 'c', None, now));
    }

    #[test]
    fn a_full_map_drops_the_half_that_was_used_longest_ago() {
        let now = Instant::now();
        let mut map = BoundedMap::new(8, WhenFull::DropOldest);
        (0..8).for_each(|n| assert!(map.insert(n, n, None, now)));
        assert_eq!(map.get(&0, now), Some(&mut 0));
        assert!(map.insert(8, 8, None, now));
        let kept: Vec<i32> = (0..9).filter(|n| map.get(n, now).is_some()).collect();
        assert_eq!(kept, [0, 5, 6, 7, 8]);
        map.retain(|key, _| *key > 6);
        assert_eq!(map.take(1).len(), 1);
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn a_map_without_room_keeps_nothing() {
        let now = Instant::now();
        for when_full in [WhenFull::DropOldest, WhenFull::Refuse] {
            assert!(!BoundedMap::new(0, when_full).insert(1, 1, None, now));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put { key: u8, seconds: Option<u64> },
        Get(u8),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u8..40, prop::option::of(0u64..20))
                .prop_map(|(key, seconds)| Step::Put { key, seconds }),
            3 => (0u8..40).prop_map(Step::Get),
            1 => (0u64..8).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..300)
    }

    /// What was used last comes last.
    struct Model {
        known: Vec<(u8, usize, Option<Instant>)>,
    }

    impl Model {
        fn live(&self, key: u8, now: Instant) -> Option<usize> {
            let (_, value, until) = self.known.iter().find(|(of, ..)| *of == key)?;
            until.is_none_or(|until| now < until).then_some(*value)
        }

        fn put(&mut self, key: u8, value: usize, until: Option<Instant>) {
            self.known.retain(|(of, ..)| *of != key);
            self.known.push((key, value, until));
        }

        fn used(&mut self, key: u8) {
            if let Some(at) = self.known.iter().position(|(of, ..)| *of == key) {
                let used = self.known.remove(at);
                self.known.push(used);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn it_keeps_its_bound_and_what_was_used_last(steps in steps(), capacity in 1usize..16) {
            let mut map = BoundedMap::new(capacity, WhenFull::DropOldest);
            let mut model = Model { known: Vec::new() };
            let mut now = Instant::now();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put { key, seconds } => {
                        let until = seconds.map(|seconds| after(now, seconds));
                        prop_assert!(map.insert(key, n, until, now));
                        model.put(key, n, until);
                    }
                    Step::Get(key) => {
                        let found = map.get(&key, now).copied();
                        prop_assert!(found.is_none() || found == model.live(key, now));
                        if found.is_some() {
                            model.used(key);
                        }
                    }
                    Step::Wait(seconds) => now = after(now, seconds),
                }
                prop_assert!(map.len() <= capacity);
                // Less than half of the room: dropping half of what is held never reaches these.
                let newest = model.known.iter().rev().take(capacity.div_ceil(4));
                for (key, ..) in newest {
                    let held = map.entries.get(key).filter(|entry| entry.is_live(now));
                    prop_assert_eq!(held.map(|entry| entry.value), model.live(*key, now));
                }
            }
        }

        #[test]
        fn what_a_full_map_took_it_keeps_until_it_expires(
            steps in steps(), capacity in 1usize..16,
        ) {
            let mut map = BoundedMap::new(capacity, WhenFull::Refuse);
            let mut model = Model { known: Vec::new() };
            let mut now = Instant::now();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put { key, seconds } => {
                        let until = seconds.map(|seconds| after(now, seconds));
                        if map.insert(key, n, until, now) {
                            model.put(key, n, until);
                        } else {
                            model.known.retain(|(_, _, until)| until.is_none_or(|u| now < u));
                            prop_assert_eq!(model.known.len(), capacity, "there was room");
                            prop_assert_eq!(model.live(key, now), None);
                        }
                    }
                    Step::Get(key) => {
                        prop_assert_eq!(map.get(&key, now).copied(), model.live(key, now));
                    }
                    Step::Wait(seconds) => now = after(now, seconds),
                }
                prop_assert!(map.len() <= capacity);
            }
        }
    }
}
