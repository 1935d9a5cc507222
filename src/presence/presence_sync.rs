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
        let sync = PresenceSync {
            relay: relay.clone(),
            registry: registry.clone(),
            removals: Vec::new(),
            times_forgotten: 0,
            is_marked: false,
        };
        let sender = RelaySender::new(relay.clone());
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
    times_forgotten: u64,
    /// Whether Redis was told that the connections of this process are complete.
    is_marked: bool,
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
                    Some(RedisEvent::Message { from, frame }) => {
                        let frame = relay_frame::read(&frame).filter(|frame| frame.from == from);
                        let Some(frame) = frame else {
                            // Perhaps of a newer version; everything it announces is in the database.
                            metrics::counter!("esh3ar_relay_unread_total").increment(1);
                            self.resync_all();
                            continue;
                        };
                        if frame.n == RENEW_REQUEST {
                            self.renew().await;
                        }
                        match place_of(&frame, &mut counts) {
                            FrameOrder::Next => {}
                            FrameOrder::AfterGap => self.resync_all(),
                            FrameOrder::Repeated => continue,
                        }
                        for (party, outbound) in frame.items {
                            self.registry.send(&party, &outbound);
                        }
                    }
                    Some(RedisEvent::Gap) => self.resync_all(),
                    Some(RedisEvent::Forgotten) => {
                        self.times_forgotten += 1;
                        self.is_marked = false;
                        if let Err(error) = self.relay.redis().begin_mark().await {
                            tracing::debug!(%error, "connections cannot be written to Redis");
                        }
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
        let written = self.write_connected(self.registry.registrations()).await;
        if written && !self.is_marked {
            self.is_marked = self.relay.redis().finish_mark(self.times_forgotten).await.is_ok();
        }
        match self.relay.redis().deregister(&self.removals).await {
            Ok(()) => self.removals.clear(),
            Err(error) => tracing::debug!(%error, "removals could not be written to Redis"),
        }
    }

    /// Connections that Redis did not know may have missed something: they read before they are sent
    /// anything more. Returns whether Redis has them all.
    async fn write_connected(&self, registrations: Vec<(Party, u64)>) -> bool {
        let named: Vec<(String, u64)> =
            registrations.iter().map(|(party, id)| (party.key(), *id)).collect();
        let written = self.relay.redis().register(&named).await;
        let is_written = written.is_ok();
        let unknown = match written {
            Ok(unknown) => unknown,
            // When Redis is back, everything is written again, and every connection reads.
            Err(_) if !self.relay.redis().state().up => return false,
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
        is_written
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

/// Where a frame stands among those of the same process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameOrder {
    Next,
    /// Earlier frames were lost.
    AfterGap,
    /// It was read before, or a later one was: Redis gives each frame once and in order, so somebody published
    /// it again.
    Repeated,
}

/// The numbers of a process only rise; see [`super::relay_sender`].
fn place_of(frame: &RelayFrame, counts: &mut HashMap<NodeId, u64>) -> FrameOrder {
    let RelayFrame { from, n, .. } = *frame;
    let place = match counts.get(&from) {
        // It has no number, and the numbers after it are higher than those before it.
        _ if n == RENEW_REQUEST => FrameOrder::AfterGap,
        Some(last) if n <= *last => FrameOrder::Repeated,
        Some(last) if n != last + 1 => FrameOrder::AfterGap,
        _ => FrameOrder::Next,
    };
    if n != RENEW_REQUEST && place != FrameOrder::Repeated {
        counts.insert(from, n);
    }
    match place {
        FrameOrder::Next => {}
        FrameOrder::AfterGap => {
            tracing::debug!(n, "frames of another process were lost");
            metrics::counter!("esh3ar_relay_gaps_total").increment(1);
        }
        FrameOrder::Repeated => metrics::counter!("esh3ar_relay_repeated_total").increment(1),
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_is_published_again_is_not_read_again() {
        let mut counts = HashMap::new();
        let mut place = |from: u8, n: u64| {
            let frame = RelayFrame { from: [from; 8].into(), n, items: Vec::new() };
            place_of(&frame, &mut counts)
        };
        // A process that was started later than the other joins at any number.
        assert_eq!(place(1, 7), FrameOrder::Next);
        assert_eq!(place(1, 8), FrameOrder::Next);
        assert_eq!(place(1, 8), FrameOrder::Repeated);
        assert_eq!(place(1, 1), FrameOrder::Repeated);
        assert_eq!(place(2, 1), FrameOrder::Next);
        assert_eq!(place(1, 9), FrameOrder::Next);
        assert_eq!(place(1, 11), FrameOrder::AfterGap);
        // What was held back and comes late was missed already.
        assert_eq!(place(1, 10), FrameOrder::Repeated);
        // A request to renew does not let old frames in.
        assert_eq!(place(1, RENEW_REQUEST), FrameOrder::AfterGap);
        assert_eq!(place(1, 11), FrameOrder::Repeated);
        assert_eq!(place(1, 40), FrameOrder::AfterGap);
        assert_eq!(place(1, 41), FrameOrder::Next);
    }
}
