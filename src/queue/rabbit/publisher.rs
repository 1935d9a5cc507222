//! Publishing: many frames under way at once, each confirmed or counted as lost.

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
    Error, Settings, State,
    frame::{self, WakeUp},
    link::Link,
    pending::{Frame, Pending},
    supervisor::Supervisor,
    topology::{self, LANES, Place},
};
use crate::domain::Priority;

/// Frames that wait for their confirmations.
const UNDER_WAY: usize = 256;
/// How long a confirmation may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stop waits for what is under way.
const LAST: Duration = Duration::from_secs(2);
/// How often the connection is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often the depths of the queues are asked for.
const DEPTHS: Duration = Duration::from_secs(5);
/// Questions for depths under way at once.
const AT_ONCE: usize = 16;
/// Kept in memory. A confirmation that waits for the broker's disk takes hundreds of milliseconds under
/// load, and whoever sends waits for it; what a broker loses when it dies, the sweeper finds.
const TRANSIENT: u8 = 1;

/// Wake-ups by what became of them, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The broker has them.
    pub confirmed: u64,
    /// No room in front of the broker.
    pub no_room: u64,
    /// No queue took them.
    pub returned: u64,
    /// The broker refused them, because a queue is full.
    pub refused: u64,
    /// No confirmation in time.
    pub timed_out: u64,
    /// The connection ended before the confirmation.
    pub cut_off: u64,
}

/// The way to the broker. Cheap to clone.
#[derive(Clone)]
pub struct Rabbit {
    inner: Arc<Inner>,
    state: watch::Receiver<State>,
}

/// Wake-ups that were offered.
pub struct Offered {
    settled: oneshot::Receiver<()>,
}

impl Offered {
    /// Waits until the broker has all of them, or will not get them. Whether it has.
    pub async fn settled(self) -> bool {
        self.settled.await.is_ok()
    }
}

/// What does the publishing; see [`Publishing::run`].
pub struct Publishing {
    settings: Settings,
    inner: Arc<Inner>,
    state: watch::Sender<State>,
}

struct Inner {
    pending: Pending,
    tally: Tally,
    /// Frames that wait at the broker, by lane.
    depths: [AtomicUsize; 3],
}

#[derive(Default)]
struct Tally([AtomicU64; 6]);

/// What became of wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Confirmed,
    NoRoom,
    Returned,
    Refused,
    TimedOut,
    CutOff,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Outcome::Confirmed => "confirmed",
            Outcome::NoRoom => "no_room",
            Outcome::Returned => "returned",
            Outcome::Refused => "refused",
            Outcome::TimedOut => "timed_out",
            Outcome::CutOff => "cut_off",
        }
    }
}

impl Tally {
    fn count(&self, outcome: Outcome, wake_ups: usize) {
        let wake_ups = u64::try_from(wake_ups).unwrap_or(u64::MAX);
        if wake_ups > 0 {
            self.0[outcome as usize].fetch_add(wake_ups, Ordering::Relaxed);
            metrics::counter!("esh3ar_wake_ups_published_total", "outcome" => outcome.name())
                .increment(wake_ups);
        }
    }

    fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}

impl Rabbit {
    /// The way to the broker, and the work that has to be run for anything to happen.
    pub fn new(settings: &Settings) -> (Rabbit, Publishing) {
        let inner = Arc::new(Inner {
            pending: Pending::new(settings.partitions),
            tally: Tally::default(),
            depths: Default::default(),
        });
        let (sender, state) = watch::channel(State::new());
        let work =
            Publishing { settings: settings.clone(), inner: Arc::clone(&inner), state: sender };
        (Rabbit { inner, state }, work)
    }

    /// Publishes wake-ups of messages of one lane and one stored partition, in this order. Never waits:
    /// what there is no room for is dropped and counted, and the sweeper makes up for it. Who does want
    /// to wait may do so by what is returned.
    pub fn offer(&self, lane: Priority, partition: i16, wake_ups: Vec<WakeUp>) -> Offered {
        let (ticket, settled) = oneshot::channel();
        let dropped = self.inner.pending.push(lane, partition, wake_ups, ticket);
        self.inner.tally.count(Outcome::NoRoom, dropped);
        Offered { settled }
    }

    /// How the connection is.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// What became of the wake-ups.
    pub fn counts(&self) -> Counts {
        let of = |outcome| self.inner.tally.of(outcome);
        Counts {
            confirmed: of(Outcome::Confirmed),
            no_room: of(Outcome::NoRoom),
            returned: of(Outcome::Returned),
            refused: of(Outcome::Refused),
            timed_out: of(Outcome::TimedOut),
            cut_off: of(Outcome::CutOff),
        }
    }

    /// Frames of a lane that wait at the broker, as of a few seconds ago, and wake-ups that wait here
    /// for it.
    pub fn depth(&self, lane: Priority) -> usize {
        self.inner.depths[lane as usize].load(Ordering::Relaxed) + self.inner.pending.depth(lane)
    }
}

impl Publishing {
    /// Publishes until `stop`; then what waits is published still, for a moment.
    pub async fn run(self, stop: CancellationToken) {
        let mut supervisor =
            Supervisor::new(&self.settings, "publisher", self.state.clone(), stop.clone());
        while let Some(link) = supervisor.connect().await {
            let ended = tokio::select! {
                ended = self.publish(&link, &stop) => ended,
                error = self.watch_depths(&link) => Err(error),
            };
            for depth in &self.inner.depths {
                depth.store(0, Ordering::Relaxed);
            }
            match ended {
                Ok(()) => return link.close().await,
                Err(error) => supervisor.failed(&error),
            }
            link.close().await;
        }
    }

    /// Until the connection ends, or all is out after `stop`.
    async fn publish(&self, link: &Link, stop: &CancellationToken) -> Result<(), Error> {
        let mut events = link.events();
        let mut channel = confirming(link).await?;
        let mut under_way = UnderWay::new(&self.inner.tally);
        let mut look = tokio::time::interval(LOOK);
        let mut last = None;
        loop {
            let blocked = matches!(*self.state.borrow(), State::Blocked { .. });
            while !blocked
                && under_way.has_room()
                && let Some(frame) = self.inner.pending.take()
            {
                under_way.publish(&channel, frame).await;
            }
            if stop.is_cancelled() {
                let last = *last.get_or_insert_with(Instant::now);
                if blocked || under_way.is_empty() || last.elapsed() >= LAST {
                    return Ok(());
                }
            }
            tokio::select! {
                Some(outcome) = under_way.next() => match outcome {
                    Outcome::Returned => return Err(Error::Missing),
                    Outcome::TimedOut if !blocked => return Err(Error::Unconfirmed),
                    _ => {}
                },
                () = self.inner.pending.pushed(), if !blocked && under_way.has_room() => {}
                event = events.next() => {
                    if self.note(link, event)? {
                        // Unconfirmed frames of before the alarm would stay with the channel.
                        channel = confirming(link).await?;
                    }
                }
                _ = look.tick() => {
                    if !link.is_up() {
                        return Err(Error::Unreachable("the connection ended".to_owned()));
                    }
                }
                () = stop.cancelled(), if last.is_none() => {}
            }
        }
    }

    /// Takes note of what happened to the connection. Returns whether an alarm has ended.
    fn note(&self, link: &Link, event: Option<Event>) -> Result<bool, Error> {
        match event {
            Some(Event::ConnectionBlocked(why)) => {
                tracing::warn!(why, "RabbitMQ takes no publishes");
                self.state.send_replace(State::Blocked { since: Instant::now(), why });
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("RabbitMQ takes publishes again");
                let (version, cluster_name) =
                    (link.broker.version.clone(), link.broker.cluster_name.clone());
                self.state.send_replace(State::Connected { version, cluster_name });
                return Ok(true);
            }
            Some(Event::Error(error)) => return Err(error.into()),
            Some(_) => {}
            None => return Err(Error::Unreachable("the connection ended".to_owned())),
        }
        Ok(false)
    }

    /// Asks for the depths of the queues now and then; an error when one is missing.
    async fn watch_depths(&self, link: &Link) -> Error {
        let mut often = tokio::time::interval(DEPTHS);
        loop {
            often.tick().await;
            match depths(link, self.settings.partitions).await {
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

async fn confirming(link: &Link) -> Result<Channel, Error> {
    let channel = link.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

async fn depths(link: &Link, partitions: u16) -> Result<[usize; 3], Error> {
    let channel = link.channel().await?;
    let channel = &channel;
    let asked = stream::iter(Place::all(partitions)).map(async |place| {
        let options = QueueDeclareOptions::durable().passive();
        let name = place.queue();
        let queue = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
        let count = queue.await.map_err(Error::from)?.message_count();
        Ok::<_, Error>((place.lane, usize::try_from(count).unwrap_or(usize::MAX)))
    });
    let mut depths = [0; LANES.len()];
    let mut answers = pin!(asked.buffered(AT_ONCE));
    while let Some((lane, count)) = answers.try_next().await? {
        depths[lane as usize] += count;
    }
    Ok(depths)
}

type Confirming = Pin<Box<dyn Future<Output = (Outcome, usize)> + Send>>;

/// Frames that are published and not yet confirmed. Dropped, what is left counts as cut off.
struct UnderWay<'a> {
    tally: &'a Tally,
    frames: stream::FuturesUnordered<Confirming>,
    wake_ups: usize,
}

impl<'a> UnderWay<'a> {
    fn new(tally: &'a Tally) -> Self {
        UnderWay { tally, frames: stream::FuturesUnordered::new(), wake_ups: 0 }
    }

    fn has_room(&self) -> bool {
        self.frames.len() < UNDER_WAY
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    async fn publish(&mut self, channel: &Channel, frame: Frame) {
        let Frame { place, wake_ups, tickets } = frame;
        let (channel, count) = (channel.clone(), wake_ups.len());
        let body = frame::write(&wake_ups);
        let mut publishing: Confirming = Box::pin(async move {
            let confirmed = tokio::time::timeout(PATIENCE, confirm(&channel, place, &body)).await;
            let outcome = confirmed.unwrap_or(Outcome::TimedOut);
            if outcome == Outcome::Confirmed {
                for ticket in tickets {
                    let _ = ticket.send(());
                }
            }
            (outcome, count)
        });
        self.wake_ups += count;
        // The first poll puts the frame at the end of the connection's buffer: here is the order made.
        match poll!(&mut publishing) {
            std::task::Poll::Ready(ended) => {
                self.frames.push(Box::pin(std::future::ready(ended)));
            }
            std::task::Poll::Pending => self.frames.push(publishing),
        }
    }

    /// What became of the next frame; `None` while there is none.
    async fn next(&mut self) -> Option<Outcome> {
        let (outcome, count) = self.frames.next().await?;
        self.wake_ups -= count;
        self.tally.count(outcome, count);
        Some(outcome)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.tally.count(Outcome::CutOff, self.wake_ups);
    }
}

async fn confirm(channel: &Channel, place: Place, body: &[u8]) -> Outcome {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default()
        .with_delivery_mode(TRANSIENT)
        .with_content_type("application/json".into());
    let name = place.queue();
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
        // What no queue takes is confirmed as well, with the frame inside.
        Ok(Confirmation::Ack(None)) => Outcome::Confirmed,
        Ok(Confirmation::Ack(Some(_))) => Outcome::Returned,
        Ok(Confirmation::Nack(_)) => Outcome::Refused,
        Ok(Confirmation::NotRequested) | Err(_) => Outcome::CutOff,
    }
}
