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

use super::{Outbound, Registry, wire};
use crate::{
    domain::{NodeId, Party},
    redis::{Error, Redis, RedisEvent},
};

/// What may wait to be told.
const WAITING: usize = 16_384;
/// Told in one round.
const AT_ONCE: usize = 512;
/// Content in one frame, in bytes; Redis copies a frame for each receiver.
const FRAME: usize = 256 * 1024;
/// How often the connections of this process are put down again; they count for 5 minutes.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// The number of a frame from who believed this process to be dead and forgot its connections.
const CALL: u64 = 0;
/// How soon it is tried again to put down what Redis refused.
const AGAIN: Duration = Duration::from_secs(2);
/// Arrivals and departures that may wait to be put down; past that everything is put down anew.
const CHANGES: usize = 8192;

/// Whether a message found connections anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It was handed to at least one process that has the recipient.
    Handed,
    /// The recipient is connected nowhere.
    Nowhere,
    /// Nobody can say.
    Unknown,
}

type Told = (Party, Outbound);

enum Ask {
    Tell(Told),
    Hand(Vec<Told>, oneshot::Sender<Vec<Reach>>),
}

impl Ask {
    fn told(&self) -> &[Told] {
        match self {
            Ask::Tell(told) => std::slice::from_ref(told),
            Ask::Hand(told, _) => told,
        }
    }
}

enum Change {
    Came(Party, u64),
    Left(Party, u64),
}

/// The way to other processes. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    redis: Redis,
    asks: mpsc::Sender<Ask>,
    changes: mpsc::Sender<Change>,
    overrun: AtomicBool,
    doubt: Notify,
}

impl Relay {
    /// Starts the tasks, which end with `stop`.
    pub fn start(
        redis: Redis,
        heard: mpsc::Receiver<RedisEvent>,
        registry: &Registry,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Relay {
        let (asks, asked) = mpsc::channel(WAITING);
        let (changes, changed) = mpsc::channel(CHANGES);
        let (overrun, doubt) = (AtomicBool::new(false), Notify::new());
        let relay = Relay { inner: Arc::new(Inner { redis, asks, changes, overrun, doubt }) };
        let keeper = Keeper { relay: relay.clone(), registry: registry.clone(), gone: Vec::new() };
        let teller = Teller { redis: relay.redis().clone(), counts: HashMap::new() };
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
    pub async fn doubt(&self) {
        self.inner.doubt.notified().await;
    }

    /// Tells the party's connections on other processes something, some time.
    pub(super) fn tell(&self, party: &Party, outbound: &Outbound) {
        if !self.redis().state().up {
            return;
        }
        if self.inner.asks.try_send(Ask::Tell((party.clone(), outbound.clone()))).is_err() {
            metrics::counter!("esh3ar_relay_dropped_total").increment(1);
        }
    }

    /// Hands messages to the processes that have their recipients, and says of each whether there was
    /// one.
    pub(super) async fn hand(&self, told: Vec<Told>) -> Vec<Reach> {
        let count = told.len();
        let unknown = || vec![Reach::Unknown; count];
        let (reply, answer) = oneshot::channel();
        if !self.redis().state().up || self.inner.asks.send(Ask::Hand(told, reply)).await.is_err() {
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
    pub(super) async fn came(&self, party: &Party, seat: u64) {
        if self.redis().register(&[(party.key(), seat)]).await.is_err() {
            self.note(Change::Came(party.clone(), seat));
        }
    }

    /// Notes that a connection has gone.
    pub(super) fn left(&self, party: &Party, seat: u64) {
        self.note(Change::Left(party.clone(), seat));
    }

    fn note(&self, change: Change) {
        if self.inner.changes.try_send(change).is_err() {
            self.inner.overrun.store(true, Ordering::Release);
        }
    }
}

/// Keeps in Redis who is here, and hands on what others say.
struct Keeper {
    relay: Relay,
    registry: Registry,
    /// Departures that could not be put down, up to [`CHANGES`] of them; the others end by themselves.
    gone: Vec<(String, u64)>,
}

impl Keeper {
    async fn keep(
        mut self,
        mut heard: mpsc::Receiver<RedisEvent>,
        mut changed: mpsc::Receiver<Change>,
    ) {
        let mut renew = tokio::time::interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut again = tokio::time::interval(AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counts: HashMap<NodeId, u64> = HashMap::new();
        loop {
            tokio::select! {
                said = heard.recv() => match said {
                    None => return,
                    Some(RedisEvent::Message(bytes)) => {
                        let Some(frame) = wire::read(&bytes) else {
                            // Perhaps of a newer version; what it is about is in the database.
                            metrics::counter!("esh3ar_relay_unread_total").increment(1);
                            self.doubt();
                            continue;
                        };
                        if frame.n == CALL {
                            self.renew().await;
                        }
                        if is_gap(&frame, &mut counts) {
                            self.doubt();
                        }
                        for (party, outbound) in frame.items {
                            self.registry.send(&party, &outbound);
                        }
                    }
                    Some(RedisEvent::Gap) => self.doubt(),
                    Some(RedisEvent::Forgotten) => {
                        self.renew().await;
                        // Only now: what was stored before is in a read that begins after this, and
                        // what is told from here on waits until it has ended.
                        self.doubt();
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
    fn doubt(&self) {
        self.registry.send_all(&Outbound::Nudge(None));
        self.relay.inner.doubt.notify_one();
    }

    /// Everything of this process, again.
    async fn renew(&mut self) {
        self.relay.inner.overrun.store(false, Ordering::Release);
        self.seat(self.registry.seats()).await;
        match self.relay.redis().deregister(&self.gone).await {
            Ok(()) => self.gone.clear(),
            Err(error) => tracing::debug!(%error, "departures could not be put down"),
        }
    }

    /// Puts connections down. Those that were not known may have missed something, and read again before
    /// they are sent what comes from now on.
    async fn seat(&self, seats: Vec<(Party, u64)>) {
        let named: Vec<(String, u64)> =
            seats.iter().map(|(party, id)| (party.key(), *id)).collect();
        let put = self.relay.redis().register(&named).await;
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
                Change::Came(party, seat) => came.push((party, seat)),
                Change::Left(party, seat) => left.push((party.key(), seat)),
            }
            next = if came.len() + left.len() < AT_ONCE { changed.try_recv().ok() } else { None };
        }
        // A seat is never taken twice: what left came before.
        if !came.is_empty() {
            self.seat(came).await;
        }
        let failed = self.relay.redis().deregister(&left).await.is_err();
        if failed {
            let room = CHANGES.saturating_sub(self.gone.len());
            self.gone.extend(left.into_iter().take(room));
        }
    }
}

/// Whether something that the same process said before this was lost.
fn is_gap(frame: &wire::Heard, counts: &mut HashMap<NodeId, u64>) -> bool {
    let wire::Heard { from, n, .. } = *frame;
    let expected = counts.insert(from, n).map_or(n, |last| last + 1);
    let gap = n == CALL || (n != expected && n != 1);
    if gap {
        tracing::debug!(expected, n, "messages of another process were lost");
        metrics::counter!("esh3ar_relay_gaps_total").increment(1);
    }
    gap
}

/// Looks up and tells.
struct Teller {
    redis: Redis,
    /// How many frames each process was sent.
    counts: HashMap<NodeId, u64>,
}

impl Teller {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        while let Some(first) = asked.recv().await {
            let mut count = first.told().len();
            let mut asks = vec![first];
            while count < AT_ONCE {
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
                if let Ask::Hand(told, reply) = ask {
                    let reach =
                        |(party, _): &Told| reached.get(party).copied().unwrap_or(Reach::Unknown);
                    let _ = reply.send(told.iter().map(reach).collect());
                }
            }
        }
    }

    async fn round(&mut self, asks: &[Ask]) -> Result<HashMap<Party, Reach>, Error> {
        let told: Vec<&Told> = asks.iter().flat_map(Ask::told).collect();
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
                if let Some(frame) = wire::write(self.redis.node(), *count + 1, &part) {
                    *count += 1;
                    frames.push((*node, frame));
                }
            }
        }
        let mut reached: HashMap<Party, Reach> =
            parties.iter().map(|party| ((*party).clone(), Reach::Nowhere)).collect();
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
                reached.insert((*party).clone(), Reach::Handed);
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
            && let Some(frame) = wire::write(self.redis.node(), CALL, &[])
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
        if size > 0 && size + weight > FRAME {
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
