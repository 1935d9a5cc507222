//! Keeps Redis and this process in step: writes the connections of this process there, and delivers to
//! them what other processes send.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use tokio::sync::mpsc;
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};

use super::{
    outbound::Outbound,
    registry::Registry,
    relay::{BATCH_SIZE, MAX_PENDING_CHANGES, PresenceChange, Relay},
    relay_frame::{self, RENEW_REQUEST, RelayFrame},
    relay_sender::RelaySender,
};
use crate::{
    domain::{NodeId, Party},
    redis::{Redis, RedisEvent},
};

/// How often all connections of this process are written again; Redis keeps them for 5 minutes.
const RENEW_INTERVAL: Duration = Duration::from_secs(60);
/// The delay before a full write is tried again after Redis refused one.
const RETRY_DELAY: Duration = Duration::from_secs(2);

impl Relay {
    /// Starts the tasks, which end with `stop`.
    pub fn start(
        redis: Redis,
        events: mpsc::Receiver<RedisEvent>,
        registry: &Registry,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Relay {
        let (relay, requests, changes) = Relay::new(redis);
        let sync =
            PresenceSync { relay: relay.clone(), registry: registry.clone(), removals: Vec::new() };
        let sender = RelaySender::new(relay.redis().clone());
        for task in [Either::Left(sync.run(events, changes)), Either::Right(sender.run(requests))] {
            let stop = stop.clone();
            tracker.spawn(async move {
                tokio::select! {
                    () = task => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        relay
    }
}

struct PresenceSync {
    relay: Relay,
    registry: Registry,
    /// Removals that Redis did not take, up to [`MAX_PENDING_CHANGES`]; the others expire.
    removals: Vec<(String, u64)>,
}

impl PresenceSync {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<RedisEvent>,
        mut changes: mpsc::Receiver<PresenceChange>,
    ) {
        let mut renew = tokio::time::interval(RENEW_INTERVAL);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retry = tokio::time::interval(RETRY_DELAY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counts: HashMap<NodeId, u64> = HashMap::new();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    None => return,
                    Some(RedisEvent::Message(bytes)) => {
                        let Some(frame) = relay_frame::read(&bytes) else {
                            // Perhaps of a newer version; everything it announces is in the database.
                            metrics::counter!("esh3ar_relay_unread_total").increment(1);
                            self.resync_all();
                            continue;
                        };
                        if frame.n == RENEW_REQUEST {
                            self.renew().await;
                        }
                        if is_gap(&frame, &mut counts) {
                            self.resync_all();
                        }
                        for (party, outbound) in frame.items {
                            self.registry.send(&party, &outbound);
                        }
                    }
                    Some(RedisEvent::Gap) => self.resync_all(),
                    Some(RedisEvent::Forgotten) => {
                        self.renew().await;
                        // Only now: a read that begins after this finds everything stored before, and
                        // whatever is sent from here on waits until that read has ended.
                        self.resync_all();
                    }
                },
                change = changes.recv() => {
                    let Some(change) = change else { return };
                    self.write(change, &mut changes).await;
                }
                _ = renew.tick() => self.renew().await,
                _ = retry.tick() => {
                    if self.relay.inner.overrun.load(Ordering::Acquire) {
                        self.renew().await;
                    }
                }
            }
        }
    }

    /// Frames to this process may be lost: every connection reads from the database before it is sent
    /// anything more, so that nothing overtakes a lost message.
    fn resync_all(&self) {
        self.registry.send_all(&Outbound::Resync(None));
        self.relay.inner.gap.notify_one();
    }

    /// Writes everything of this process again.
    async fn renew(&mut self) {
        self.relay.inner.overrun.store(false, Ordering::Release);
        self.write_connected(self.registry.registrations()).await;
        match self.relay.redis().deregister(&self.removals).await {
            Ok(()) => self.removals.clear(),
            Err(error) => tracing::debug!(%error, "removals could not be written to Redis"),
        }
    }

    /// Connections that Redis did not know may have missed something: they read before they are sent
    /// anything more.
    async fn write_connected(&self, registrations: Vec<(Party, u64)>) {
        let named: Vec<(String, u64)> =
            registrations.iter().map(|(party, id)| (party.key(), *id)).collect();
        let unknown = match self.relay.redis().register(&named).await {
            Ok(unknown) => unknown,
            // When Redis is back, everything is written again, and every connection reads.
            Err(_) if !self.relay.redis().state().up => return,
            Err(error) => {
                tracing::debug!(%error, "connections could not be written to Redis");
                self.relay.inner.overrun.store(true, Ordering::Release);
                vec![true; registrations.len()]
            }
        };
        for ((party, _), unknown) in registrations.iter().zip(unknown) {
            if unknown {
                self.registry.send(party, &Outbound::Resync(None));
            }
        }
    }

    async fn write(&mut self, first: PresenceChange, changes: &mut mpsc::Receiver<PresenceChange>) {
        let (mut connected, mut disconnected) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(change) = next {
            match change {
                PresenceChange::Connected(party, id) => connected.push((party, id)),
                PresenceChange::Disconnected(party, id) => disconnected.push((party.key(), id)),
            }
            let count = connected.len() + disconnected.len();
            next = if count < BATCH_SIZE { changes.try_recv().ok() } else { None };
        }
        // An id is never used twice, so additions can go first.
        if !connected.is_empty() {
            self.write_connected(connected).await;
        }
        if self.relay.redis().deregister(&disconnected).await.is_err() {
            let capacity = MAX_PENDING_CHANGES.saturating_sub(self.removals.len());
            self.removals.extend(disconnected.into_iter().take(capacity));
        }
    }
}

/// Whether earlier frames of the same process were lost.
fn is_gap(frame: &RelayFrame, counts: &mut HashMap<NodeId, u64>) -> bool {
    let RelayFrame { from, n, .. } = *frame;
    let expected = counts.insert(from, n).map_or(n, |last| last + 1);
    let gap = n == RENEW_REQUEST || (n != expected && n != 1);
    if gap {
        tracing::debug!(expected, n, "frames of another process were lost");
        metrics::counter!("esh3ar_relay_gaps_total").increment(1);
    }
    gap
}
