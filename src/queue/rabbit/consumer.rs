//! Taking: all queues on one connection, into lanes by share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use lapin::Event;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Settings, State,
    desk::Desk,
    frame,
    hold::{DeadFrame, Part, Taken},
    line::{DEAD_PREFETCH, PREFETCH},
    link::{Depths, Link},
    supervisor::Supervisor,
    topology::LANES,
};
use crate::{domain::Priority, queue::LocalQueue};

/// How often the roster is looked at, and what was dropped is given back: not at once, because it might
/// be dropped again at once.
const LOOK: Duration = Duration::from_millis(100);

/// How often what waits at the broker is counted, for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// What comes from the broker. Cheap to clone.
#[derive(Clone)]
pub struct Consumer {
    inner: Arc<Inner>,
    state: watch::Receiver<State>,
}

/// What does the taking; see [`ConsumerWork::run`].
pub struct ConsumerWork {
    settings: Settings,
    inner: Arc<Inner>,
    plan: watch::Receiver<Vec<u16>>,
    state: watch::Sender<State>,
}

/// What has been taken and waits for a worker.
pub(super) struct Inner {
    /// How often it has connected.
    lives: AtomicU64,
    pub(super) waiting: LocalQueue<Part>,
    pub(super) dead: LocalQueue<DeadFrame>,
}

impl Consumer {
    /// What comes from the broker, in so many shares, and the work that has to be run for anything to
    /// come. `plan` names the partitions that this worker should lead; it stands by for all others.
    pub fn new(
        settings: &Settings,
        shares: usize,
        plan: watch::Receiver<Vec<u16>>,
    ) -> (Consumer, ConsumerWork) {
        // The broker's prefetch bounds it already; this is what that comes to in one share.
        let capacity = usize::from(settings.partitions) * 3 * usize::from(PREFETCH) * frame::MOST;
        let inner = Arc::new(Inner {
            lives: AtomicU64::new(0),
            waiting: LocalQueue::new(shares, capacity),
            dead: LocalQueue::new(1, usize::from(DEAD_PREFETCH)),
        });
        let (sender, state) = watch::channel(State::new());
        let (settings, shared) = (settings.clone(), Arc::clone(&inner));
        let work = ConsumerWork { settings, inner: shared, plan, state: sender };
        (Consumer { inner, state }, work)
    }

    /// How many shares there are; a partition always belongs to the same one.
    pub fn shares(&self) -> usize {
        self.inner.waiting.shares()
    }

    /// Wake-ups of a share, at least one. Safe to drop while it waits.
    pub async fn next(&self, share: usize) -> Taken {
        Taken::new(self.inner.waiting.next(share, frame::MOST).await)
    }

    /// How often it has connected. After each time wake-ups may have been lost with the broker, and what
    /// comes now may be later than they are.
    pub fn lives(&self) -> u64 {
        self.inner.lives.load(Ordering::Acquire)
    }

    /// The next frame that nobody can read. Safe to drop while it waits.
    pub async fn next_dead(&self) -> DeadFrame {
        loop {
            if let Some(dead) = self.inner.dead.next(0, 1).await.pop() {
                return dead;
            }
        }
    }

    /// How the connection is.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// How many wake-ups of a lane have been taken from the broker and wait here.
    pub fn depth(&self, lane: Priority) -> usize {
        self.inner.waiting.depth(lane)
    }
}

impl ConsumerWork {
    /// Takes until `stop`; then what is in hand may be finished for a moment.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut supervisor =
            Supervisor::new(&self.settings, "consumer", self.state.clone(), stop.clone());
        while let Some(link) = supervisor.connect().await {
            self.inner.lives.fetch_add(1, Ordering::AcqRel);
            let ended = self.consume(&link, &stop).await;
            // It comes again, if anybody wants it still.
            self.inner.waiting.clear();
            self.inner.dead.clear();
            match ended {
                Ok(()) => return link.close().await,
                Err(error) => supervisor.failed(&error),
            }
            link.close().await;
        }
    }

    async fn consume(&mut self, link: &Link, stop: &CancellationToken) -> Result<(), Error> {
        let mut events = link.events();
        let settings = self.settings.clone();
        let mut desk = Desk::open(link, &self.settings, &self.inner).await?;
        let mut look = tokio::time::interval(LOOK);
        let mut count = tokio::time::interval(COUNT_EVERY);
        // Beside the rest: an answer of the broker's must not keep deliveries waiting.
        let mut counting: Option<BoxFuture<'_, Result<Depths, Error>>> = None;
        let mut settled = Vec::new();
        let mut planned = true;
        desk.plan(&self.plan.borrow_and_update());
        loop {
            tokio::select! {
                Some(arrival) = desk.streams.next() => desk.arrived(arrival).await?,
                _ = desk.settlements.recv_many(&mut settled, 1000) => {
                    desk.settle(settled.drain(..)).await?;
                }
                changed = self.plan.changed(), if planned => {
                    // When nobody makes plans any more, it stays as it is.
                    planned = changed.is_ok();
                    desk.plan(&self.plan.borrow_and_update());
                    desk.stand().await?;
                }
                _ = look.tick() => {
                    if !link.is_up() {
                        return Err(Error::Unreachable("the connection ended".to_owned()));
                    }
                    desk.give_back().await?;
                    desk.stand().await?;
                    if desk.is_finished() {
                        return Ok(());
                    }
                }
                _ = count.tick(), if counting.is_none() => {
                    counting = Some(link.depths(&settings).boxed());
                }
                depths = counted(&mut counting) => {
                    counting = None;
                    tell(depths);
                }
                event = events.next() => match event {
                    Some(Event::Error(error)) => return Err(error.into()),
                    Some(_) => {}
                    None => return Err(Error::Unreachable("the connection ended".to_owned())),
                },
                () = stop.cancelled(), if !desk.is_closing() => {
                    desk.close();
                    self.inner.waiting.clear();
                    self.inner.dead.clear();
                }
            }
        }
    }
}

/// Waits for a count that is under way; for ever while there is none.
async fn counted(
    counting: &mut Option<BoxFuture<'_, Result<Depths, Error>>>,
) -> Result<Depths, Error> {
    match counting {
        Some(counting) => counting.await,
        None => std::future::pending().await,
    }
}

fn tell(depths: Result<Depths, Error>) {
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
