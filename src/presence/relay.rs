//! The way to connections on other processes: looked up and told in batches, by one task.
//!
//! Everything that goes this way is a hint. What does not fit, or meets no Redis, is dropped; the
//! position check of the process that has the connection finds what it was about.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Outbound, Registry,
    relay_frame::{self, RelayFrame},
};
use crate::{
    cache::{
        Redis,
        redis::{Error, Heard},
    },
    domain::{NodeId, Party},
};

/// What may wait to be told.
const QUEUE_CAPACITY: usize = 16_384;
/// Told in one round.
const BATCH_SIZE: usize = 512;
/// Content in one frame, in bytes; Redis copies a frame for each receiver.
const MAX_FRAME_LEN: usize = 256 * 1024;
/// How often the connections of this process are put down again; they count for 5 minutes.
const RENEW_INTERVAL: Duration = Duration::from_secs(60);
/// The number of a frame from who believed this process to be dead and forgot its connections.
const RENEW_REQUEST: u64 = 0;
/// How soon it is tried again to put down what Redis refused.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Arrivals and departures that may wait to be put down; past that everything is put down anew.
const MAX_PENDING_CHANGES: usize = 8192;

/// Whether a message found connections anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteOutcome {
    /// It was handed to at least one process that has the recipient.
    Delivered,
    /// The recipient is connected nowhere.
    Offline,
    /// Nobody can say.
    Unknown,
}

type Told = (Party, Outbound);

enum RelayRequest {
    Send(Told),
    Route(Vec<Told>, oneshot::Sender<Vec<RouteOutcome>>),
}

impl RelayRequest {
    fn told(&self) -> &[Told] {
        match self {
            RelayRequest::Send(told) => std::slice::from_ref(told),
            RelayRequest::Route(told, _) => told,
        }
    }
}

enum Change {
    Connected(Party, u64),
    Disconnected(Party, u64),
}

/// The way to other processes. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    redis: Redis,
    asks: mpsc::Sender<RelayRequest>,
    changes: mpsc::Sender<Change>,
    overrun: AtomicBool,
    gap: Notify,
}

impl Relay {
    /// Starts the tasks, which end with `stop`.
    pub fn start(
        redis: Redis,
        heard: mpsc::Receiver<Heard>,
        registry: &Registry,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Relay {
        let (asks, asked) = mpsc::channel(QUEUE_CAPACITY);
        let (changes, changed) = mpsc::channel(MAX_PENDING_CHANGES);
        let (overrun, gap) = (AtomicBool::new(false), Notify::new());
        let relay = Relay { inner: Arc::new(Inner { redis, asks, changes, overrun, gap }) };
        let keeper =
            PresenceSync { relay: relay.clone(), registry: registry.clone(), gone: Vec::new() };
        let teller = RelaySender { redis: relay.redis().clone(), counts: HashMap::new() };
        for task in [
            tokio_util::either::Either::Left(keeper.keep(heard, changed)),
            tokio_util::either::Either::Right(teller.run(asked)),
        ] {
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

    /// The Redis behind it.
    pub fn redis(&self) -> &Redis {
        &self.inner.redis
    }

    /// Waits until something may have been lost on the way to this process: positions are to be
    /// checked then. Safe to drop while it waits.
    pub async fn wait_for_gap(&self) {
        self.inner.gap.notified().await;
    }

    /// Tells the party's connections on other processes something, some time.
    pub(super) fn tell(&self, party: &Party, outbound: &Outbound) {
        if !self.redis().state().up {
            return;
        }
        if self.inner.asks.try_send(RelayRequest::Send((party.clone(), outbound.clone()))).is_err()
        {
            metrics::counter!("esh3ar_relay_dropped_total").increment(1);
        }
    }

    /// Hands messages to the processes that have their recipients, and says of each whether there was
    /// one.
    pub(super) async fn route(&self, told: Vec<Told>) -> Vec<RouteOutcome> {
        let count = told.len();
        let unknown = || vec![RouteOutcome::Unknown; count];
        let (reply, answer) = oneshot::channel();
        if !self.redis().state().up
            || self.inner.asks.send(RelayRequest::Route(told, reply)).await.is_err()
        {
            return unknown();
        }
        answer.await.unwrap_or_else(|_| unknown())
    }

    /// Which of these parties are connected on other processes.
    pub(super) async fn are_elsewhere(&self, parties: &[&Party]) -> Result<Vec<bool>, Error> {
        let names: Vec<String> = parties.iter().map(|party| party.key()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(self.redis().nodes_of(&names).await?.iter().map(|nodes| !nodes.is_empty()).collect())
    }

    /// Puts down that a connection is there. When this returns, whoever looks finds it, unless Redis
    /// is away: then position checks find what it should get.
    pub(super) async fn connected(&self, party: &Party, seat: u64) {
        if self.redis().seat(&[(party.key(), seat)]).await.is_err() {
            self.note(Change::Connected(party.clone(), seat));
        }
    }

    /// Notes that a connection has gone.
    pub(super) fn disconnected(&self, party: &Party, seat: u64) {
        self.note(Change::Disconnected(party.clone(), seat));
    }

    fn note(&self, change: Change) {
        if self.inner.changes.try_send(change).is_err() {
            self.inner.overrun.store(true, Ordering::Release);
        }
    }
}

/// Keeps in Redis who is here, and hands on what others say.
struct PresenceSync {
    relay: Relay,
    registry: Registry,
    /// Departures that could not be put down, up to [`MAX_PENDING_CHANGES`] of them; the others end by themselves.
    gone: Vec<(String, u64)>,
}

impl PresenceSync {
    async fn keep(mut self, mut heard: mpsc::Receiver<Heard>, mut changed: mpsc::Receiver<Change>) {
        let mut renew = tokio::time::interval(RENEW_INTERVAL);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut again = tokio::time::interval(RETRY_DELAY);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counts: HashMap<NodeId, u64> = HashMap::new();
        loop {
            tokio::select! {
                said = heard.recv() => match said {
                    None => return,
                    Some(Heard::Message(bytes)) => {
                        let Some(frame) = relay_frame::read(&bytes) else {
                            // Perhaps of a newer version; what it is about is in the database.
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
                    Some(Heard::Gap) => self.resync_all(),
                    Some(Heard::Forgotten) => {
                        self.renew().await;
                        // Only now: what was stored before is in a read that begins after this, and
                        // what is told from here on waits until it has ended.
                        self.resync_all();
                    }
                },
                change = changed.recv() => {
                    let Some(change) = change else { return };
                    self.put_down(change, &mut changed).await;
                }
                _ = renew.tick() => self.renew().await,
                _ = again.tick() => {
                    if self.relay.inner.overrun.load(Ordering::Acquire) {
                        self.renew().await;
                    }
                }
            }
        }
    }

    /// Something may have been lost on the way here: every connection reads again before it is sent
    /// anything more, so that nothing overtakes what was lost.
    fn resync_all(&self) {
        self.registry.send_all(&Outbound::Nudge(None));
        self.relay.inner.gap.notify_one();
    }

    /// Everything of this process, again.
    async fn renew(&mut self) {
        self.relay.inner.overrun.store(false, Ordering::Release);
        self.seat(self.registry.registrations()).await;
        match self.relay.redis().leave(&self.gone).await {
            Ok(()) => self.gone.clear(),
            Err(error) => tracing::debug!(%error, "departures could not be put down"),
        }
    }

    /// Puts connections down. Those that were not known may have missed something, and read again before
    /// they are sent what comes from now on.
    async fn seat(&self, seats: Vec<(Party, u64)>) {
        let named: Vec<(String, u64)> =
            seats.iter().map(|(party, id)| (party.key(), *id)).collect();
        let put = self.relay.redis().seat(&named).await;
        let unknown = match put {
            Ok(unknown) => unknown,
            // When it is found again, everything is put down and reads.
            Err(_) if !self.relay.redis().state().up => return,
            Err(error) => {
                tracing::debug!(%error, "connections could not be put down");
                self.relay.inner.overrun.store(true, Ordering::Release);
                vec![true; seats.len()]
            }
        };
        for ((party, _), unknown) in seats.iter().zip(unknown) {
            if unknown {
                self.registry.send(party, &Outbound::Nudge(None));
            }
        }
    }

    async fn put_down(&mut self, first: Change, changed: &mut mpsc::Receiver<Change>) {
        let (mut came, mut left) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(change) = next {
            match change {
                Change::Connected(party, seat) => came.push((party, seat)),
                Change::Disconnected(party, seat) => left.push((party.key(), seat)),
            }
            next =
                if came.len() + left.len() < BATCH_SIZE { changed.try_recv().ok() } else { None };
        }
        // A seat is never taken twice: what left came before.
        if !came.is_empty() {
            self.seat(came).await;
        }
        let failed = self.relay.redis().leave(&left).await.is_err();
        if failed {
            let room = MAX_PENDING_CHANGES.saturating_sub(self.gone.len());
            self.gone.extend(left.into_iter().take(room));
        }
    }
}

/// Whether something that the same process said before this was lost.
fn is_gap(frame: &RelayFrame, counts: &mut HashMap<NodeId, u64>) -> bool {
    let RelayFrame { from, n, .. } = *frame;
    let expected = counts.insert(from, n).map_or(n, |last| last + 1);
    let gap = n == RENEW_REQUEST || (n != expected && n != 1);
    if gap {
        tracing::debug!(expected, n, "messages of another process were lost");
        metrics::counter!("esh3ar_relay_gaps_total").increment(1);
    }
    gap
}

/// Looks up and tells.
struct RelaySender {
    redis: Redis,
    /// How many frames each process was sent.
    counts: HashMap<NodeId, u64>,
}

impl RelaySender {
    async fn run(mut self, mut asked: mpsc::Receiver<RelayRequest>) {
        while let Some(first) = asked.recv().await {
            let mut count = first.told().len();
            let mut asks = vec![first];
            while count < BATCH_SIZE {
                let Ok(next) = asked.try_recv() else { break };
                count += next.told().len();
                asks.push(next);
            }
            let reached = match self.round(&asks).await {
                Ok(reached) => reached,
                Err(error) => {
                    tracing::debug!(%error, "other processes could not be told");
                    HashMap::new()
                }
            };
            for ask in asks {
                if let RelayRequest::Route(told, reply) = ask {
                    let reach = |(party, _): &Told| {
                        reached.get(party).copied().unwrap_or(RouteOutcome::Unknown)
                    };
                    let _ = reply.send(told.iter().map(reach).collect());
                }
            }
        }
    }

    async fn round(
        &mut self,
        asks: &[RelayRequest],
    ) -> Result<HashMap<Party, RouteOutcome>, Error> {
        let told: Vec<&Told> = asks.iter().flat_map(RelayRequest::told).collect();
        let parties: Vec<&Party> =
            told.iter().map(|(party, _)| party).collect::<HashSet<_>>().into_iter().collect();
        let names: Vec<String> = parties.iter().map(|party| party.key()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = self.redis.nodes_of(&names).await?;
        let of: HashMap<&Party, &Vec<NodeId>> = parties.iter().copied().zip(&found).collect();
        let mut by_node: BTreeMap<NodeId, Vec<&Told>> = BTreeMap::new();
        for told in &told {
            for node in of.get(&told.0).into_iter().copied().flatten() {
                by_node.entry(*node).or_default().push(told);
            }
        }
        let mut frames = Vec::new();
        for (node, told) in &by_node {
            for part in parts(told) {
                let count = self.counts.entry(*node).or_default();
                if let Some(frame) = relay_frame::write(self.redis.node(), *count + 1, &part) {
                    *count += 1;
                    frames.push((*node, frame));
                }
            }
        }
        let mut reached: HashMap<Party, RouteOutcome> =
            parties.iter().map(|party| ((*party).clone(), RouteOutcome::Offline)).collect();
        if frames.is_empty() {
            return Ok(reached);
        }
        let nodes: Vec<NodeId> = frames.iter().map(|(node, _)| *node).collect();
        let heard = self.redis.tell(frames).await?;
        let mut deaf: Vec<NodeId> =
            nodes.iter().zip(&heard).filter(|(_, heard)| !**heard).map(|(node, _)| *node).collect();
        deaf.dedup();
        let dead = self.dead(deaf).await?;
        for (party, nodes) in &of {
            if nodes.iter().any(|node| !dead.contains(node)) {
                reached.insert((*party).clone(), RouteOutcome::Delivered);
            }
        }
        for node in dead {
            let left: Vec<String> = of
                .iter()
                .filter(|(_, nodes)| nodes.contains(&node))
                .map(|(party, _)| party.key())
                .collect();
            let left: Vec<&str> = left.iter().map(String::as_str).collect();
            self.counts.remove(&node);
            let forgotten = self.redis.forget_node(node, &left).await;
            self.call(node).await?;
            forgotten?;
        }
        Ok(reached)
    }

    /// If a process came back while its connections were forgotten, it has to put them down again.
    async fn call(&self, node: NodeId) -> Result<(), Error> {
        if self.redis.alive(&[node]).await? == [true]
            && let Some(frame) = relay_frame::write(self.redis.node(), RENEW_REQUEST, &[])
        {
            self.redis.tell(vec![(node, frame)]).await?;
        }
        Ok(())
    }

    /// Who does not listen and gives no sign of life. One that only lost its connection to Redis
    /// comes back and looks everything up.
    async fn dead(&self, deaf: Vec<NodeId>) -> Result<HashSet<NodeId>, Error> {
        if deaf.is_empty() {
            return Ok(HashSet::new());
        }
        let alive = self.redis.alive(&deaf).await?;
        Ok(deaf.into_iter().zip(alive).filter(|(_, alive)| !alive).map(|(node, _)| node).collect())
    }
}

/// What fits in a frame each.
fn parts<'a>(told: &[&'a Told]) -> Vec<Vec<(&'a Party, &'a Outbound)>> {
    let mut parts = vec![Vec::new()];
    let mut size = 0;
    for (party, outbound) in told.iter().copied() {
        let weight = match outbound {
            Outbound::Deliver(delivery) | Outbound::Own { delivery, .. } => {
                delivery.message.content.len() + 400
            }
            _ => 200,
        };
        if size > 0 && size + weight > MAX_FRAME_LEN {
            parts.push(Vec::new());
            size = 0;
        }
        size += weight;
        if let Some(part) = parts.last_mut() {
            part.push((party, outbound));
        }
    }
    parts
}
