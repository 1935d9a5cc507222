//! Assigns messages to partitions, and partitions to workers.
//!
//! A partition keeps the order of its messages: the chat messages of a conversation, and the one-way messages
//! to a recipient. Everything else may be spread.

use super::{ConversationId, Message, NodeId, Party};

/// Number of partitions. Stored with each message, so it never changes.
pub const PARTITIONS: u16 = 64;

/// The partition of a message: by its conversation, or by its recipient when it is in none.
pub fn of(message: &Message) -> i16 {
    match message.position {
        Some(position) => of_conversation(position.conversation),
        None => of_recipient(&message.recipient),
    }
}

/// The partition of a conversation's messages, whichever side they are for.
pub fn of_conversation(id: ConversationId) -> i16 {
    partition(id.0.as_bytes())
}

/// The partition of the one-way messages to a recipient.
pub fn of_recipient(party: &Party) -> i16 {
    match party {
        Party::Mobile(phone) => partition(phone.as_str().as_bytes()),
        Party::Business(id) => partition(id.0.as_bytes()),
    }
}

/// FNV-1a, because it must be the same in every process and version.
fn partition(bytes: &[u8]) -> i16 {
    // Below 64, so it fits.
    (hash(bytes.iter().copied()) % u64::from(PARTITIONS)) as i16
}

fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The partitions assigned to `me` among these workers, in ascending order; none if it is not among them.
/// Every worker computes the same result: partitions are spread evenly, to within one, and most stay when a
/// worker joins or leaves.
pub fn led_by(me: NodeId, workers: &[NodeId], partitions: u16) -> Vec<u16> {
    let mut workers = workers.to_vec();
    workers.sort_unstable();
    workers.dedup();
    if workers.is_empty() {
        return Vec::new();
    }
    // Each gets this many, and the remainder is spread.
    let each = usize::from(partitions) / workers.len();
    let mut left_over = usize::from(partitions) % workers.len();
    let mut led: Vec<Vec<u16>> = vec![Vec::new(); workers.len()];
    for partition in 0..partitions {
        // Rendezvous hashing: the worker with the highest weight that has capacity left.
        let most = each + usize::from(left_over > 0);
        let open = (0..workers.len()).filter(|position| led[*position].len() < most);
        if let Some(position) = open.max_by_key(|position| weight(workers[*position], partition)) {
            left_over -= usize::from(led[position].len() == each);
            led[position].push(partition);
        }
    }
    let mine = workers.binary_search(&me).ok();
    mine.map(|position| std::mem::take(&mut led[position])).unwrap_or_default()
}

/// FNV-1a with a final mix, the same in every process and version.
fn weight(worker: NodeId, partition: u16) -> u64 {
    let hash = hash(worker.as_bytes().iter().copied().chain(partition.to_be_bytes()));
    (hash ^ (hash >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Phone, UserId};

    fn node() -> impl Strategy<Value = NodeId> {
        any::<[u8; 8]>().prop_map(NodeId::from)
    }

    #[test]
    fn partitions_never_move() {
        // Stored with the messages, and two versions publish beside each other: another hash would
        // spread over two queues what belongs into one.
        let of = |phone: &str| of_recipient(&Party::Mobile(Phone::from_stored(phone)));
        assert_eq!([of("+967771234567"), of("+967771234568")], [44, 17]);
        let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0007);
        assert_eq!(of_recipient(&Party::Business(UserId(id))), of_conversation(ConversationId(id)));
        assert_eq!(of_conversation(ConversationId(id)), 49);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whoever the other end is: the business that a thousand people write to, or the phone that a
        /// thousand businesses write to.
        #[test]
        fn a_thousand_conversations_of_one_user_give_every_worker_its_share(
            seed in any::<u64>(), workers in prop::collection::btree_set(node(), 1..9),
        ) {
            // As they are made: one after the other in time, with chance behind it.
            let id = |n: u64| {
                let chance = (seed ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
                ConversationId(Uuid::from_u64_pair(((0x0190_0000_0000 + n) << 16) | 0x7000, chance))
            };
            let mut counts = [0u32; PARTITIONS as usize];
            (0..1000).for_each(|n| counts[of_conversation(id(n)) as usize] += 1);
            let workers: Vec<NodeId> = workers.into_iter().collect();
            for worker in &workers {
                let led = led_by(*worker, &workers, 16);
                let has: u32 = (0..PARTITIONS)
                    .filter(|partition| led.contains(&(partition % 16)))
                    .map(|partition| counts[usize::from(partition)])
                    .sum();
                let fair = 1000 / u32::try_from(workers.len()).unwrap();
                prop_assert!(has > fair / 2 && has < fair * 2, "{has} of {} workers", workers.len());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_queue_has_one_leader_and_nobody_has_two_more_than_another(
            workers in prop::collection::btree_set(node(), 1..12),
            partitions in 1u16..=PARTITIONS,
        ) {
            let workers: Vec<NodeId> = workers.into_iter().collect();
            let led: Vec<Vec<u16>> =
                workers.iter().map(|me| led_by(*me, &workers, partitions)).collect();
            let mut all: Vec<u16> = led.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..partitions).collect::<Vec<_>>());
            let each = usize::from(partitions) / workers.len();
            let most = usize::from(partitions).div_ceil(workers.len());
            prop_assert!(led.iter().all(|led| led.len() >= each && led.len() <= most), "{led:?}");
        }
    }

    #[test]
    fn most_stay_where_they_are_when_a_worker_leaves() {
        let workers: Vec<NodeId> =
            (1..=4u64).map(|n| (n * 0x9e37_79b9).to_be_bytes().into()).collect();
        let before = led_by(workers[0], &workers, 64);
        let after = led_by(workers[0], &workers[..3], 64);
        let kept = before.iter().filter(|partition| after.contains(partition)).count();
        assert!(kept * 3 >= before.len() * 2, "{kept} of {}", before.len());
        assert!(led_by([9; 8].into(), &workers, 64).is_empty(), "who is not there leads nothing");
    }
}
