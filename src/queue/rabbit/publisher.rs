//! Publishes frames, many at once. Each is confirmed or counted as lost.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, poll, stream};
use lapin::{
    BasicProperties, Channel, Confirmation, Event,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    BrokerSettings, BrokerState, Error,
    broker_connection::BrokerConnection,
    frame::{self, WakeUp},
    pending::{Frame, Pending},
    supervisor::Supervisor,
    topology::{self, LANES, WorkQueue},
};
use crate::domain::Priority;

/// Unconfirmed frames at once.
const MAX_UNCONFIRMED: usize = 256;
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stop waits for unconfirmed frames.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
const DEPTH_INTERVAL: Duration = Duration::from_secs(5);
/// Queues whose depth is read at once.
const MAX_CONCURRENCY: usize = 16;
/// Delivery mode of messages that the broker keeps in memory. A confirmation that waits for the broker's disk
/// takes hundreds of milliseconds under load, and the sender waits for it. The sweeper finds what a broker
/// loses when it dies.
const TRANSIENT: u8 = 1;

/// Wake-ups since the start, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishCounts {
    pub confirmed: u64,
    /// The queue of this process was full.
    pub no_room: u64,
    /// The broker returned them: no queue is bound.
    pub returned: u64,
    /// The broker rejected them: a queue is full.
    pub refused: u64,
    pub timed_out: u64,
    pub cut_off: u64,
}

/// Publishes wake-ups. Cheap to clone.
#[derive(Clone)]
pub struct Rabbit {
    inner: Arc<Inner>,
    state: watch::Receiver<BrokerState>,
}

/// The pending confirmation of offered wake-ups.
pub struct PublisherConfirm {
    settled: oneshot::Receiver<()>,
}

impl PublisherConfirm {
    /// Waits until the broker has confirmed all of them, or cannot any more. Returns whether it has.
    pub async fn settled(self) -> bool {
        self.settled.await.is_ok()
    }
}

/// Keeps the connection; see [`PublisherTask::run`].
pub struct PublisherTask {
    settings: BrokerSettings,
    inner: Arc<Inner>,
    state: watch::Sender<BrokerState>,
}

struct Inner {
    pending: Pending,
    counters: OutcomeCounters,
    /// Frames in the broker's queues, by lane.
    depths: [AtomicUsize; 3],
}

#[derive(Default)]
struct OutcomeCounters([AtomicU64; 6]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PublishOutcome {
    Confirmed,
    NoRoom,
    Returned,
    Refused,
    TimedOut,
    CutOff,
}

impl PublishOutcome {
    const fn name(self) -> &'static str {
        match self {
            PublishOutcome::Confirmed => "confirmed",
            PublishOutcome::NoRoom => "no_room",
            PublishOutcome::Returned => "returned",
            PublishOutcome::Refused => "refused",
            PublishOutcome::TimedOut => "timed_out",
            PublishOutcome::CutOff => "cut_off",
        }
    }
}

impl OutcomeCounters {
    fn count(&self, outcome: PublishOutcome, wake_ups: usize) {
        let wake_ups = u64::try_from(wake_ups).unwrap_or(u64::MAX);
        if wake_ups > 0 {
            self.0[outcome as usize].fetch_add(wake_ups, Ordering::Relaxed);
            metrics::counter!("esh3ar_wake_ups_published_total", "outcome" => outcome.name())
                .increment(wake_ups);
        }
    }

    fn of(&self, outcome: PublishOutcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}

impl Rabbit {
    /// A publisher, and the task that has to run for anything to be published.
    pub fn new(settings: &BrokerSettings) -> (Rabbit, PublisherTask) {
        let inner = Arc::new(Inner {
            pending: Pending::new(settings.partitions),
            counters: OutcomeCounters::default(),
            depths: Default::default(),
        });
        let (sender, state) = watch::channel(BrokerState::new());
        let work =
            PublisherTask { settings: settings.clone(), inner: Arc::clone(&inner), state: sender };
        (Rabbit { inner, state }, work)
    }

    /// Publishes wake-ups of messages of one lane and one stored partition, in this order. Returns at once:
    /// wake-ups that do not fit are dropped and counted, and the sweeper finds their messages. The result can
    /// be awaited.
    pub fn offer(&self, lane: Priority, partition: i16, wake_ups: Vec<WakeUp>) -> PublisherConfirm {
        let (confirm_sender, settled) = oneshot::channel();
        let dropped = self.inner.pending.push(lane, partition, wake_ups, confirm_sender);
        self.inner.counters.count(PublishOutcome::NoRoom, dropped);
        PublisherConfirm { settled }
    }

    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.clone()
    }

    pub fn counts(&self) -> PublishCounts {
        let of = |outcome| self.inner.counters.of(outcome);
        PublishCounts {
            confirmed: of(PublishOutcome::Confirmed),
            no_room: of(PublishOutcome::NoRoom),
            returned: of(PublishOutcome::Returned),
            refused: of(PublishOutcome::Refused),
            timed_out: of(PublishOutcome::TimedOut),
            cut_off: of(PublishOutcome::CutOff),
        }
    }

    /// Frames of a lane in the broker's queues, as of a few seconds ago, plus wake-ups that are not published
    /// yet.
    pub fn depth(&self, lane: Priority) -> usize {
        self.inner.depths[lane as usize].load(Ordering::Relaxed) + self.inner.pending.depth(lane)
    }
}

impl PublisherTask {
    /// Publishes until `stop`, and for a grace period after that what is queued already.
    pub async fn run(self, stop: CancellationToken) {
        let mut supervisor =
            Supervisor::new(&self.settings, "publisher", self.state.clone(), stop.clone());
        while let Some(connection) = supervisor.connect().await {
            let ended = tokio::select! {
                ended = self.publish(&connection, &stop) => ended,
                error = self.watch_depths(&connection) => Err(error),
            };
            for depth in &self.inner.depths {
                depth.store(0, Ordering::Relaxed);
            }
            match ended {
                Ok(()) => return connection.close().await,
                Err(error) => supervisor.failed(&error),
            }
            connection.close().await;
        }
    }

    /// Returns when the connection ends, or when everything is published after `stop`.
    async fn publish(
        &self,
        connection: &BrokerConnection,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut events = connection.events();
        let mut channel = open_confirm_channel(connection).await?;
        let mut unconfirmed = Unconfirmed::new(&self.inner.counters);
        let mut look = tokio::time::interval(CHECK_INTERVAL);
        let mut stopping_since = None;
        loop {
            let blocked = matches!(*self.state.borrow(), BrokerState::Blocked { .. });
            while !blocked
                && unconfirmed.has_room()
                && let Some(frame) = self.inner.pending.take()
            {
                unconfirmed.publish(&channel, frame).await;
            }
            if stop.is_cancelled() {
                let stopping_since = *stopping_since.get_or_insert_with(Instant::now);
                if blocked || unconfirmed.is_empty() || stopping_since.elapsed() >= SHUTDOWN_GRACE {
                    return Ok(());
                }
            }
            tokio::select! {
                Some(outcome) = unconfirmed.next() => match outcome {
                    PublishOutcome::Returned => return Err(Error::Missing),
                    PublishOutcome::TimedOut if !blocked => return Err(Error::Unconfirmed),
                    _ => {}
                },
                () = self.inner.pending.pushed(), if !blocked && unconfirmed.has_room() => {}
                event = events.next() => {
                    if self.handle_event(connection, event)? {
                        // Frames from before the alarm stay unconfirmed on the old channel.
                        channel = open_confirm_channel(connection).await?;
                    }
                }
                _ = look.tick() => {
                    if !connection.is_up() {
                        return Err(Error::Unreachable("the connection ended".to_owned()));
                    }
                }
                () = stop.cancelled(), if stopping_since.is_none() => {}
            }
        }
    }

    /// Handles an event of the connection. Returns whether an alarm has ended.
    fn handle_event(
        &self,
        connection: &BrokerConnection,
        event: Option<Event>,
    ) -> Result<bool, Error> {
        match event {
            Some(Event::ConnectionBlocked(why)) => {
                tracing::warn!(why, "RabbitMQ blocks publishes");
                self.state.send_replace(BrokerState::Blocked { since: Instant::now(), why });
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("RabbitMQ accepts publishes again");
                let (version, cluster_name) =
                    (connection.broker.version.clone(), connection.broker.cluster_name.clone());
                self.state.send_replace(BrokerState::Connected { version, cluster_name });
                return Ok(true);
            }
            Some(Event::Error(error)) => return Err(error.into()),
            Some(_) => {}
            None => return Err(Error::Unreachable("the connection ended".to_owned())),
        }
        Ok(false)
    }

    /// Reads the depths of the queues periodically. Returns the error when a queue is missing.
    async fn watch_depths(&self, connection: &BrokerConnection) -> Error {
        let mut often = tokio::time::interval(DEPTH_INTERVAL);
        loop {
            often.tick().await;
            match depths(connection, self.settings.partitions).await {
                Ok(depths) => {
                    for (shown, depth) in self.inner.depths.iter().zip(depths) {
                        shown.store(depth, Ordering::Relaxed);
                    }
                }
                Err(error) => return error,
            }
        }
    }
}

async fn open_confirm_channel(connection: &BrokerConnection) -> Result<Channel, Error> {
    let channel = connection.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

async fn depths(connection: &BrokerConnection, partitions: u16) -> Result<[usize; 3], Error> {
    let channel = connection.channel().await?;
    let channel = &channel;
    let asked = stream::iter(WorkQueue::all(partitions)).map(async |work_queue| {
        let options = QueueDeclareOptions::durable().passive();
        let name = work_queue.name();
        let queue = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
        let count = queue.await.map_err(Error::from)?.message_count();
        Ok::<_, Error>((work_queue.lane, usize::try_from(count).unwrap_or(usize::MAX)))
    });
    let mut depths = [0; LANES.len()];
    let mut answers = pin!(asked.buffered(MAX_CONCURRENCY));
    while let Some((lane, count)) = answers.try_next().await? {
        depths[lane as usize] += count;
    }
    Ok(depths)
}

type PendingConfirm = Pin<Box<dyn Future<Output = (PublishOutcome, usize)> + Send>>;

/// Frames that are published and not confirmed yet. On drop, the rest counts as cut off.
struct Unconfirmed<'a> {
    counters: &'a OutcomeCounters,
    frames: stream::FuturesUnordered<PendingConfirm>,
    wake_ups: usize,
}

impl<'a> Unconfirmed<'a> {
    fn new(counters: &'a OutcomeCounters) -> Self {
        Unconfirmed { counters, frames: stream::FuturesUnordered::new(), wake_ups: 0 }
    }

    fn has_room(&self) -> bool {
        self.frames.len() < MAX_UNCONFIRMED
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    async fn publish(&mut self, channel: &Channel, frame: Frame) {
        let Frame { work_queue, wake_ups, confirms } = frame;
        let (channel, count) = (channel.clone(), wake_ups.len());
        let body = frame::write(&wake_ups);
        let mut publishing: PendingConfirm = Box::pin(async move {
            let confirmed =
                tokio::time::timeout(CONFIRM_TIMEOUT, confirm(&channel, work_queue, &body)).await;
            let outcome = confirmed.unwrap_or(PublishOutcome::TimedOut);
            if outcome == PublishOutcome::Confirmed {
                for confirm_sender in confirms {
                    let _ = confirm_sender.send(());
                }
            }
            (outcome, count)
        });
        self.wake_ups += count;
        // The first poll appends the frame to the connection's buffer, so frames go out in the order of these
        // polls.
        match poll!(&mut publishing) {
            std::task::Poll::Ready(ended) => {
                self.frames.push(Box::pin(std::future::ready(ended)));
            }
            std::task::Poll::Pending => self.frames.push(publishing),
        }
    }

    /// Waits for the next outcome; `None` while there is no frame.
    async fn next(&mut self) -> Option<PublishOutcome> {
        let (outcome, count) = self.frames.next().await?;
        self.wake_ups -= count;
        self.counters.count(outcome, count);
        Some(outcome)
    }
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        self.counters.count(PublishOutcome::CutOff, self.wake_ups);
    }
}

async fn confirm(channel: &Channel, work_queue: WorkQueue, body: &[u8]) -> PublishOutcome {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default()
        .with_delivery_mode(TRANSIENT)
        .with_content_type("application/json".into());
    let name = work_queue.name();
    let published = channel.basic_publish(
        topology::EXCHANGE.into(),
        name.as_str().into(),
        options,
        body,
        properties,
    );
    let confirmation = match published.await {
        Ok(confirmation) => confirmation.await,
        Err(error) => Err(error),
    };
    match confirmation {
        // A frame without a queue is confirmed, too, and returned inside the confirmation.
        Ok(Confirmation::Ack(None)) => PublishOutcome::Confirmed,
        Ok(Confirmation::Ack(Some(_))) => PublishOutcome::Returned,
        Ok(Confirmation::Nack(_)) => PublishOutcome::Refused,
        Ok(Confirmation::NotRequested) | Err(_) => PublishOutcome::CutOff,
    }
}
