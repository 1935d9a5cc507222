//! Consumes all queues on one connection, into lanes by share.

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
    unacked::{DeadFrame, WakeUpBatch},
};
use crate::domain::Priority;

/// How often the plan is applied and dropped deliveries are requeued. Not at once, because a requeued delivery might
/// be dropped again at once.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How often the depths of the queues are read, for metrics.
const DEPTH_INTERVAL: Duration = Duration::from_secs(5);

/// Wake-ups from the broker. Cheap to clone.
#[derive(Clone)]
pub struct Consumer {
    received: Arc<Received>,
    state: watch::Receiver<BrokerState>,
}

/// Keeps the connection; see [`ConsumerTask::run`].
pub struct ConsumerTask {
    settings: BrokerSettings,
    received: Arc<Received>,
    plan: watch::Receiver<Vec<u16>>,
    state: watch::Sender<BrokerState>,
}

impl Consumer {
    /// A consumer with this many shares, and the task that has to run for anything to arrive. `plan` names the
    /// partitions that this worker should lead; it stands by for all others.
    pub fn new(
        settings: &BrokerSettings,
        shares: usize,
        plan: watch::Receiver<Vec<u16>>,
    ) -> (Consumer, ConsumerTask) {
        // Prefetch bounds what arrives; this is the most that it can be in one share.
        let capacity =
            usize::from(settings.partitions) * 3 * usize::from(PREFETCH) * frame::MAX_WAKE_UPS;
        let received = Arc::new(Received::new(shares, capacity));
        let (sender, state) = watch::channel(BrokerState::new());
        let (settings, shared) = (settings.clone(), Arc::clone(&received));
        let task = ConsumerTask { settings, received: shared, plan, state: sender };
        (Consumer { received, state }, task)
    }

    /// A partition always belongs to the same share.
    pub fn shares(&self) -> usize {
        self.received.waiting.shares()
    }

    /// Waits for wake-ups of a share: at least one. Cancel-safe.
    pub async fn next(&self, share: usize) -> WakeUpBatch {
        WakeUpBatch::new(self.received.waiting.next(share, frame::MAX_WAKE_UPS).await)
    }

    /// How often it has connected. Wake-ups may have been lost with the connection before, and later ones may
    /// arrive without them.
    pub fn connection_count(&self) -> u64 {
        self.received.connections.load(Ordering::Acquire)
    }

    /// Waits for the next unreadable frame. Cancel-safe.
    pub async fn next_dead(&self) -> DeadFrame {
        loop {
            if let Some(dead) = self.received.dead.next(0, 1).await.pop() {
                return dead;
            }
        }
    }

    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.clone()
    }

    /// Wake-ups of a lane that were delivered and not taken by a worker yet.
    pub fn depth(&self, lane: Priority) -> usize {
        self.received.waiting.depth(lane)
    }
}

impl ConsumerTask {
    /// Consumes until `stop`; then unacknowledged deliveries have a grace period.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut supervisor =
            Supervisor::new(&self.settings, "consumer", self.state.clone(), stop.clone());
        while let Some(connection) = supervisor.connect().await {
            self.received.connections.fetch_add(1, Ordering::AcqRel);
            let ended = self.consume(&connection, &stop).await;
            // The broker redelivers it.
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
        // Concurrently: waiting for the broker's answer must not delay deliveries.
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
                    // Without a sender the last plan stays.
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

/// Waits for a running count; forever while there is none.
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
        Err(error) => tracing::debug!(%error, "queue depths could not be read"),
    }
}
