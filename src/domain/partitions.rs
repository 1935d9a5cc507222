//! Which worker leads which queues.

/// A process of an installation.
pub type NodeId = [u8; 8];

/// The queues that `me` leads when these workers are there, in ascending order; none when it is not
/// among them. Everybody comes to the same result: the queues are spread evenly, to within one, and
/// most of them stay where they are when a worker comes or goes.
pub fn led_by(me: NodeId, workers: &[NodeId], partitions: u16) -> Vec<u16> {
    let mut workers = workers.to_vec();
    workers.sort_unstable();
    workers.dedup();
    if workers.is_empty() {
        return Vec::new();
    }
    let most = usize::from(partitions).div_ceil(workers.len());
    let mut led: Vec<Vec<u16>> = vec![Vec::new(); workers.len()];
    for partition in 0..partitions {
        // Rendezvous: the worker with the highest weight that still has room.
        let open = (0..workers.len()).filter(|place| led[*place].len() < most);
        if let Some(place) = open.max_by_key(|place| weight(workers[*place], partition)) {
            led[place].push(partition);
        }
    }
    let mine = workers.binary_search(&me).ok();
    mine.map(|place| std::mem::take(&mut led[place])).unwrap_or_default()
}

/// FNV-1a with a last stir, because it must be the same in every process and version.
fn weight(worker: NodeId, partition: u16) -> u64 {
    let bytes = worker.into_iter().chain(partition.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_queue_has_one_leader_and_nobody_many_more_than_another(
            workers in prop::collection::btree_set(any::<NodeId>(), 1..12), partitions in 1u16..=64,
        ) {
            let workers: Vec<NodeId> = workers.into_iter().collect();
            let led: Vec<Vec<u16>> =
                workers.iter().map(|me| led_by(*me, &workers, partitions)).collect();
            let mut all: Vec<u16> = led.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..partitions).collect::<Vec<_>>());
            let most = usize::from(partitions).div_ceil(workers.len());
            prop_assert!(led.iter().all(|led| led.len() <= most));
        }
    }

    #[test]
    fn most_stay_where_they_are_when_a_worker_leaves() {
        let workers: Vec<NodeId> = (1..=4u64).map(|n| (n * 0x9e37_79b9).to_be_bytes()).collect();
        let before = led_by(workers[0], &workers, 64);
        let after = led_by(workers[0], &workers[..3], 64);
        let kept = before.iter().filter(|partition| after.contains(partition)).count();
        assert!(kept * 3 >= before.len() * 2, "{kept} of {}", before.len());
        assert!(led_by([9; 8], &workers, 64).is_empty(), "who is not there leads nothing");
    }
}
