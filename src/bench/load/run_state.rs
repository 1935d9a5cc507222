//! The state that senders and receivers of a run share.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    chat::ChatLoad,
    plan::{LoadProgress, Plan},
    receive::Arrival,
    results::MeasuredLatencies,
    send::of_run,
    server_address::ServerAddress,
};
use crate::{bench::checker::ReceivedMessage, domain::MessageId};

/// Locks over what has arrived, by recipient.
pub(super) const SHARDS: usize = 16;

#[derive(Default)]
pub(super) struct Shard {
    pub(super) receipts: Vec<ReceivedMessage>,
    pub(super) shown: HashSet<(u32, MessageId)>,
    pub(super) latencies: MeasuredLatencies,
    pub(super) acknowledged: u64,
    pub(super) unreachable: HashSet<u32>,
}

pub(super) struct RunState {
    pub(super) place: ServerAddress,
    pub(super) plan: Plan,
    pub(super) chat: Option<ChatLoad>,
    pub(super) zero: Instant,
    /// Start of the measurement, in microseconds since `zero`.
    pub(super) counted_from: AtomicU64,
    pub(super) shards: Vec<Mutex<Shard>>,
    pub(super) connections: AtomicU64,
    /// Messages whose acknowledgement is not answered yet.
    pub(super) unanswered: AtomicU64,
    /// The first tag of this run, and how many are in use.
    pub(super) first_tag: u64,
    pub(super) tags: AtomicU64,
    pub(super) progress: Arc<LoadProgress>,
    /// The first recipients are phones; the others are business users.
    pub(super) phones: usize,
    pub(super) stop_senders: CancellationToken,
    pub(super) stop_receivers: CancellationToken,
}

impl RunState {
    pub(super) fn shard(&self, recipient: u32) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[recipient as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn micros(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn arrived(&self, connection: u32, recipient: u32, arrivals: &[Arrival]) {
        let now = self.micros();
        let counted_from = self.counted_from.load(Ordering::Relaxed);
        let mut shard = self.shard(recipient);
        // Skips messages that an earlier run left.
        for arrival in arrivals.iter().filter(|arrival| of_run(self.first_tag, arrival.tag)) {
            let shown = shard.shown.insert((recipient, arrival.id));
            if shown {
                self.progress.received.fetch_add(1, Ordering::Relaxed);
                // By arrival, not by due time: at a rate that the server does not reach nothing would be
                // measured.
                if now >= counted_from {
                    let late = now.saturating_sub(arrival.due_micros);
                    shard.latencies.record(Duration::from_micros(late));
                }
            }
            shard.receipts.push(ReceivedMessage {
                connection,
                recipient,
                tag: arrival.tag,
                id: arrival.id,
                place: arrival.place.map(|(id, seq)| (id.as_u64_pair().1, seq)),
                shown,
                // A message that arrived before is a retry, or was sent again on the next connection.
                retry: !shown,
            });
        }
    }
}
