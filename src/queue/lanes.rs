//! Picks the next item: higher lanes first, with a small share for the lower ones so that nothing starves.

use std::collections::VecDeque;

use crate::domain::Priority;

/// One take in this many starts with the lowest lane that is not empty.
const RESERVED: u32 = 16;

/// Three lanes with one capacity.
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: [VecDeque<T>; 3],
    capacity: usize,
    takes: u32,
}

impl<T> Lanes<T> {
    pub fn new(capacity: usize) -> Self {
        Lanes { lanes: Default::default(), capacity, takes: 0 }
    }

    pub fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    pub fn depth(&self, lane: Priority) -> usize {
        self.lanes[lane as usize].len()
    }

    /// Appends an item to its lane.
    ///
    /// # Errors
    /// Returns the item when the lanes are full.
    pub fn push(&mut self, lane: Priority, item: T) -> Result<(), T> {
        if self.len() >= self.capacity {
            return Err(item);
        }
        self.lanes[lane as usize].push_back(item);
        Ok(())
    }

    /// Takes up to `most` items.
    pub fn take(&mut self, most: usize) -> Vec<T> {
        let mut taken = Vec::with_capacity(most.min(self.len()));
        self.takes = self.takes.wrapping_add(1);
        if self.takes.is_multiple_of(RESERVED)
            && let Some(item) = self.lanes.iter_mut().find_map(VecDeque::pop_front)
        {
            taken.push(item);
        }
        for lane in self.lanes.iter_mut().rev() {
            while taken.len() < most {
                let Some(item) = lane.pop_front() else { break };
                taken.push(item);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // **Feature: enhanced-messaging-system, Property 9: Priority Queue Ordering**
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn higher_first_and_in_order_inside_a_lane(
            items in prop::collection::vec(0i16..3, 0..300), most in 1usize..20
        ) {
            let mut lanes = Lanes::new(1000);
            for (n, lane) in items.iter().enumerate() {
                lanes.push(Priority::from_number(*lane).unwrap(), (*lane, n)).unwrap();
            }
            let mut last = [None; 3];
            let mut takes = 0;
            while !lanes.is_empty() {
                takes += 1;
                let waiting: [usize; 3] = std::array::from_fn(|lane| lanes.lanes[lane].len());
                let taken = lanes.take(most);
                for (lane, n) in &taken {
                    let lane = usize::try_from(*lane).unwrap();
                    prop_assert!(last[lane] < Some(*n), "out of order inside a lane");
                    last[lane] = Some(*n);
                }
                let reserved = usize::from(takes % RESERVED == 0);
                // Apart from the one reserved item, a lower lane gets what the higher ones left over.
                let mut room = most;
                for lane in (0..3).rev() {
                    let got = taken.iter().filter(|(l, _)| usize::try_from(*l).unwrap() == lane).count();
                    let due = waiting[lane].min(room);
                    prop_assert!(got + reserved >= due && got <= due + reserved);
                    room -= due;
                }
            }
        }
    }

    #[test]
    fn the_low_lane_does_not_starve() {
        let mut lanes = Lanes::new(10_000);
        lanes.push(Priority::Low, -1).unwrap();
        let mut served = 0;
        loop {
            for n in 0..4 {
                lanes.push(Priority::High, n).unwrap();
            }
            let taken = lanes.take(4);
            served += 1;
            if taken.contains(&-1) {
                break;
            }
            assert!(served < 32, "starved");
        }
    }

    #[test]
    fn full_is_told() {
        let mut lanes = Lanes::new(1);
        assert_eq!(lanes.push(Priority::Low, 1), Ok(()));
        assert_eq!(lanes.push(Priority::High, 2), Err(2));
    }
}
