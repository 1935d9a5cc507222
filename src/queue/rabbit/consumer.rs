//! Taking: all queues on one connection, into lanes by share.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use lapin::Event;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    BrokerSettings, BrokerState, Error,
    broker_connection::{BrokerConnection, Depths},
    consumer_session::ConsumerSession,
    frame,
    partition_channel::PREFETCH,
    received::Received,
    supervisor::Supervisor,
    topology::LANES,
    unacked::{DeadFrame, Item, WakeUpBatch},
};
use crate::domain::Priority;

/// How often the roster is looked at, and what was dropped is given back: not at once, because it might
/// be dropped again at once.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How often what waits at the broker is counted, for the metrics.
const DEPTH_INTERVAL: Duration = Duration::from_secs(5);

/// What comes from the broker. Cheap to clone.
#[derive(Clone)]
pub struct Consumer {
    received: Arc<Received>,
    state: watch::Receiver<BrokerState>,
}

/// What does the taking; see [`ConsumerTask::run`].
pub struct ConsumerTask {
    settings: BrokerSettings,
    received: Arc<Received>,
    plan: watch::Receiver<Vec<u16>>,
    state: watch::Sender<BrokerState>,
}

impl Consumer {
    /// What comes from the broker, in so many shares, and the work that has to be run for anything to
    /// come. `plan` names the partitions that this worker should lead; it stands by for all others.
    pub fn new(
        settings: &BrokerSettings,
        shares: usize,
        plan: watch::Receiver<Vec<u16>>,
    ) -> (Consumer, ConsumerTask) {
        // The broker's prefetch bounds it already; this is what that comes to in one share.
        let capacity =
            usize::from(settings.partitions) * 3 * usize::from(PREFETCH) * frame::MAX_WAKE_UPS;
        let received = Arc::new(Received::new(shares, capacity));
        let (sender, state) = watch::channel(BrokerState::new());
        let (settings, shared) = (settings.clone(), Arc::clone(&received));
        let task = ConsumerTask { settings, received: shared, plan, state: sender };
        (Consumer { received, state }, task)
    }

    /// How many shares there are; a partition always belongs to the same one.
    pub fn shares(&self) -> usize {
        self.received.waiting.shares()
    }

    /// Wake-ups of a share, at least one. Safe to drop while it waits.
    pub async fn next(&self, share: usize) -> WakeUpBatch {
        WakeUpBatch::new(self.received.waiting.next(share, frame::MAX_WAKE_UPS).await)
    }

    /// How often it has connected. After each time wake-ups may have been lost with the broker, and what
    /// comes now may be later than they are.
    pub fn connection_count(&self) -> u64 {
        self.received.connections.load(Ordering::Acquire)
    }

    /// The next frame that nobody can read. Safe to drop while it waits.
    pub async fn next_dead(&self) -> DeadFrame {
        loop {
            if let Some(dead) = self.received.dead.next(0, 1).await.pop() {
                return dead;
            }
        }
    }

    /// How the connection is.
    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.clone()
    }

    /// How many wake-ups of a lane have been taken from the broker and wait here.
    pub fn depth(&self, lane: Priority) -> usize {
        self.received.waiting.depth(lane)
    }
}

impl ConsumerTask {
    /// Takes until `stop`; then what is in hand may be finished for a moment.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut supervisor =
            Supervisor::new(&self.settings, "consumer", self.state.clone(), stop.clone());
        while let Some(connection) = supervisor.connect().await {
            self.received.connections.fetch_add(1, Ordering::AcqRel);
            let ended = self.consume(&connection, &stop).await;
            // It comes again, if anybody wants it still.
            self.received.waiting.clear();
            self.received.dead.clear();
            match ended {
                Ok(()) => return connection.close().await,
                Err(error) => supervisor.failed(&error),
            }
            connection.close().await;
        }
    }

    async fn consume(
        &mut self,
        connection: &BrokerConnection,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut changes = connection.events();
        let settings = self.settings.clone();
        let mut session = ConsumerSession::open(connection, &self.settings, &self.received).await?;
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        let mut count = tokio::time::interval(DEPTH_INTERVAL);
        // Beside the rest: an answer of the broker's must not keep deliveries waiting.
        let mut counting: Option<BoxFuture<'_, Result<Depths, Error>>> = None;
        let mut settled = Vec::new();
        let mut planned = true;
        session.set_assigned(&self.plan.borrow_and_update());
        loop {
            tokio::select! {
                Some(event) = session.streams.next() => session.handle_event(event).await?,
                _ = session.settlements.recv_many(&mut settled, 1000) => {
                    session.settle(settled.drain(..)).await?;
                }
                changed = self.plan.changed(), if planned => {
                    // When nobody makes plans any more, it stays as it is.
                    planned = changed.is_ok();
                    session.set_assigned(&self.plan.borrow_and_update());
                    session.apply_plan().await?;
                }
                _ = check.tick() => {
                    if !connection.is_up() {
                        return Err(Error::Unreachable("the connection ended".to_owned()));
                    }
                    session.requeue().await?;
                    session.apply_plan().await?;
                    if session.is_finished() {
                        return Ok(());
                    }
                }
                _ = count.tick(), if counting.is_none() => {
                    counting = Some(connection.depths(&settings).boxed());
                }
                depths = next_depths(&mut counting) => {
                    counting = None;
                    report_depths(depths);
                }
                change = changes.next() => match change {
                    Some(Event::Error(error)) => return Err(error.into()),
                    Some(_) => {}
                    None => return Err(Error::Unreachable("the connection ended".to_owned())),
                },
                () = stop.cancelled(), if !session.is_closing() => {
                    session.close();
                    self.received.waiting.clear();
                    self.received.dead.clear();
                }
            }
        }
    }
}

/// Waits for a count that is under way; for ever while there is none.
async fn next_depths(
    counting: &mut Option<BoxFuture<'_, Result<Depths, Error>>>,
) -> Result<Depths, Error> {
    match counting {
        Some(counting) => counting.await,
        None => std::future::pending().await,
    }
}

fn report_depths(depths: Result<Depths, Error>) {
    match depths {
        Ok(depths) => {
            let lanes = LANES.into_iter().zip(depths.lanes);
            let lanes = lanes.map(|(lane, waiting)| (lane.name(), waiting));
            for (lane, waiting) in lanes.chain([("dead_letter", depths.dead)]) {
                metrics::gauge!("esh3ar_broker_queue_depth", "lane" => lane).set(waiting as f64);
            }
        }
        Err(error) => tracing::debug!(%error, "what waits at the broker could not be counted"),
    }
}
