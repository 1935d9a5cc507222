//! Taking: all queues on one connection, into lanes by share.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    future::ready,
    stream::{self, BoxStream, SelectAll},
};
use lapin::{
    Channel, Event,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions,
        BasicQosOptions, BasicRejectOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Settings, State,
    frame::{self, Refused},
    hold::{DeadFrame, Hold, Part, Settled, Taken, Verdict},
    link::Link,
    outstanding::Outstanding,
    roster::{Roster, Step},
    supervisor::Supervisor,
    topology::{self, LANES, Place},
};
use crate::{domain::Priority, queue::LocalQueue};

/// Frames that a queue sends before one of them is acknowledged.
const PREFETCH: u16 = 100;
/// The same for unreadable frames, which may be large.
const DEAD_PREFETCH: u16 = 10;
/// How often the roster is looked at, and what was dropped is given back: not at once, because it might
/// be dropped again at once.
const LOOK: Duration = Duration::from_millis(100);
/// How long a stop waits for what is in hand.
const LAST: Duration = Duration::from_secs(5);
/// Words to the broker under way at once.
const AT_ONCE: usize = 32;

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

struct Inner {
    /// How often it has connected.
    lives: AtomicU64,
    waiting: LocalQueue<Part>,
    dead: LocalQueue<DeadFrame>,
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
        let mut desk = Desk::open(link, &self.settings, &self.inner).await?;
        let mut look = tokio::time::interval(LOOK);
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
                event = events.next() => match event {
                    Some(Event::Error(error)) => return Err(error.into()),
                    Some(_) => {}
                    None => return Err(Error::Unreachable("the connection ended".to_owned())),
                },
                () = stop.cancelled(), if !desk.is_closing() => {
                    desk.close().await?;
                    self.inner.waiting.clear();
                    self.inner.dead.clear();
                }
            }
        }
    }
}

/// Something on one of the streams: a delivery, or that it has ended, by our wish or not.
struct Arrival {
    queue: usize,
    tag: ShortString,
    delivery: Option<Result<Delivery, lapin::Error>>,
}

/// The queue of unreadable frames, behind all others.
fn dead_queue(settings: &Settings) -> usize {
    usize::from(settings.partitions) * LANES.len()
}

/// One connection's deliveries and what is said about them.
struct Desk<'a> {
    inner: &'a Inner,
    channel: Channel,
    /// Unreadable frames have a channel of their own: their prefetch is another.
    dead_channel: Channel,
    streams: SelectAll<BoxStream<'static, Arrival>>,
    settle: mpsc::Sender<Settled>,
    settlements: mpsc::Receiver<Settled>,
    outstanding: Outstanding,
    /// By queue: the name of our consumer, and what is in hand.
    queues: Vec<Queue>,
    roster: Roster,
    again: VecDeque<Settled>,
    closing: Option<Instant>,
    places: Vec<Place>,
}

#[derive(Clone, Default)]
struct Queue {
    tag: Option<ShortString>,
    in_hand: usize,
}

impl<'a> Desk<'a> {
    async fn open(link: &Link, settings: &Settings, inner: &'a Inner) -> Result<Self, Error> {
        let channel = link.channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let dead_channel = link.channel().await?;
        dead_channel.basic_qos(DEAD_PREFETCH, BasicQosOptions::default()).await?;
        let dead = dead_queue(settings);
        // Each delivery says one word, and the broker sends no more than this unanswered: twice the
        // prefetch where we left a line and stand in it again.
        let unanswered = 2 * usize::from(PREFETCH) * (dead + 1);
        let (settle, settlements) = mpsc::channel(unanswered);
        let mut desk = Desk {
            inner,
            channel,
            dead_channel,
            streams: SelectAll::new(),
            settle,
            settlements,
            outstanding: Outstanding::new(),
            queues: vec![Queue::default(); dead + 1],
            roster: Roster::new(settings.partitions, Instant::now()),
            again: VecDeque::new(),
            closing: None,
            places: Place::all(settings.partitions).collect(),
        };
        let (tag, stream) = consume(&desk.dead_channel, topology::DEAD_LETTERS, dead).await?;
        desk.streams.push(Box::pin(stream));
        desk.queues[dead].tag = Some(tag);
        Ok(desk)
    }

    fn plan(&mut self, ours: &[u16]) {
        self.roster.plan(ours, Instant::now());
    }

    /// Takes and leaves places in line.
    async fn stand(&mut self) -> Result<(), Error> {
        if self.closing.is_some() {
            return Ok(());
        }
        let queues = &self.queues;
        let in_hand = |partition: u16| lanes_of(partition).map(|queue| queues[queue].in_hand).sum();
        let steps = self.roster.steps(Instant::now(), in_hand);
        let left: Vec<usize> = steps
            .iter()
            .filter_map(
                |step| if let Step::Cancel(partition) = step { Some(partition) } else { None },
            )
            .flat_map(|partition| lanes_of(*partition))
            .collect();
        self.cancel(left).await?;
        let entered: Vec<usize> =
            steps
                .iter()
                .filter_map(|step| {
                    if let Step::Register(partition) = step { Some(partition) } else { None }
                })
                .flat_map(|partition| lanes_of(*partition))
                .collect();
        let channel = &self.channel;
        let places = &self.places;
        let entered: Vec<_> = stream::iter(entered)
            .map(async |queue| {
                let name = places[queue].queue();
                consume(channel, &name, queue).await.map(|(tag, stream)| (queue, tag, stream))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (queue, tag, stream) in entered {
            self.queues[queue].tag = Some(tag);
            self.streams.push(Box::pin(stream));
        }
        Ok(())
    }

    async fn cancel(&mut self, queues: Vec<usize>) -> Result<(), Error> {
        let tags: Vec<ShortString> =
            queues.into_iter().filter_map(|queue| self.queues[queue].tag.take()).collect();
        let channel = &self.channel;
        stream::iter(tags)
            .map(async |tag| channel.basic_cancel(tag, BasicCancelOptions::default()).await)
            .buffered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    async fn arrived(&mut self, arrival: Arrival) -> Result<(), Error> {
        let Arrival { queue, tag, delivery } = arrival;
        match delivery {
            // It stays the broker's, which gives it to the next in its turn.
            Some(Ok(_)) if self.is_closing() && queue < self.places.len() => Ok(()),
            Some(Ok(delivery)) => {
                self.queues[queue].in_hand += 1;
                match self.places.get(queue).copied() {
                    Some(place) => self.received(place, queue, delivery).await?,
                    None => self.received_dead(queue, delivery),
                }
                Ok(())
            }
            Some(Err(error)) => Err(error.into()),
            // The broker cancels a consumer whose queue is gone.
            None if self.queues[queue].tag.as_ref() == Some(&tag) => Err(Error::Missing),
            None => Ok(()),
        }
    }

    async fn received(&mut self, place: Place, queue: usize, got: Delivery) -> Result<(), Error> {
        let tag = got.delivery_tag;
        self.outstanding.add(tag);
        self.roster.delivered(place.partition, Instant::now());
        match frame::read(&got.data) {
            Ok(wake_ups) => {
                let hold = Hold::new(tag, queue, wake_ups.len(), &self.settle);
                let part = |wake_up| (place.lane, Part { wake_up, hold: Arc::clone(&hold) });
                // What does not fit is dropped, and so comes again.
                let share = place.partition.cast_signed();
                drop(self.inner.waiting.push(share, wake_ups.into_iter().map(part)));
                Ok(())
            }
            Err(reason) => {
                tracing::warn!(%reason, queue = place.queue(), "a frame cannot be read");
                metrics::counter!("esh3ar_unreadable_frames_total").increment(1);
                self.outstanding.forget(tag);
                self.queues[queue].in_hand -= 1;
                // The broker moves it to the dead letters.
                let options = BasicRejectOptions { requeue: false };
                Ok(self.channel.basic_reject(tag, options).await?)
            }
        }
    }

    fn received_dead(&mut self, queue: usize, delivery: Delivery) {
        let hold = Hold::new(delivery.delivery_tag, queue, 1, &self.settle);
        match frame::read(&delivery.data) {
            Err(reason) => {
                let dead = dead(delivery, &reason, hold);
                drop(self.inner.dead.push(0, [(Priority::Normal, dead)]));
            }
            // The broker gave up on a frame that came again too often, as newer ones do.
            Ok(wake_ups) => {
                tracing::debug!(count = wake_ups.len(), "left to the sweeper");
                dead(delivery, &Refused::Messages, hold).done();
            }
        }
    }

    /// Tells the broker what is done; what shall come again waits for [`Desk::give_back`].
    async fn settle(&mut self, settled: impl Iterator<Item = Settled>) -> Result<(), Error> {
        let mut done = Vec::new();
        for end in settled {
            match end.verdict {
                Verdict::Again => self.again.push_back(end),
                Verdict::Done => {
                    self.queues[end.queue].in_hand -= 1;
                    if end.queue < self.places.len() {
                        done.push(end.tag);
                    } else {
                        let options = BasicAckOptions::default();
                        self.dead_channel.basic_ack(end.tag, options).await?;
                    }
                }
            }
        }
        for ack in self.outstanding.finish(&done) {
            let options = BasicAckOptions { multiple: ack.multiple };
            self.channel.basic_ack(ack.tag, options).await?;
        }
        Ok(())
    }

    async fn give_back(&mut self) -> Result<(), Error> {
        while let Some(end) = self.again.pop_front() {
            self.queues[end.queue].in_hand -= 1;
            let options = BasicNackOptions { requeue: true, multiple: false };
            if end.queue < self.places.len() {
                if self.is_closing() {
                    continue;
                }
                self.outstanding.forget(end.tag);
                self.channel.basic_nack(end.tag, options).await?;
            } else {
                self.dead_channel.basic_nack(end.tag, options).await?;
            }
        }
        Ok(())
    }

    /// Takes nothing more. The lines are left with the channel, when what is in hand is finished: whoever is
    /// next begins with what was not, and must not begin before that.
    async fn close(&mut self) -> Result<(), Error> {
        self.closing = Some(Instant::now());
        if let Some(tag) = self.queues.last_mut().and_then(|queue| queue.tag.take()) {
            self.dead_channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
        }
        Ok(())
    }

    fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether a closed desk has nothing in hand any more, or has waited long enough.
    fn is_finished(&self) -> bool {
        let quiet = self.queues.iter().all(|queue| queue.in_hand == 0);
        self.closing.is_some_and(|since| quiet || since.elapsed() >= LAST)
    }
}

fn lanes_of(partition: u16) -> std::ops::Range<usize> {
    let first = usize::from(partition) * LANES.len();
    first..first + LANES.len()
}

async fn consume(
    channel: &Channel,
    name: &str,
    queue: usize,
) -> Result<(ShortString, impl Stream<Item = Arrival> + Send + use<>), Error> {
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(name.into(), "".into(), options, FieldTable::default());
    let consumer = consumer.await?;
    let tag = consumer.tag();
    let (each, last) = (tag.clone(), tag.clone());
    let deliveries = consumer.map(move |delivery| Arrival {
        queue,
        tag: each.clone(),
        delivery: Some(delivery),
    });
    let end = stream::once(ready(Arrival { queue, tag: last, delivery: None }));
    Ok((tag, deliveries.chain(end)))
}

fn dead(delivery: Delivery, reason: &Refused, hold: Arc<Hold>) -> DeadFrame {
    let queue = queue_before(&delivery).unwrap_or_else(|| delivery.routing_key.to_string());
    DeadFrame { body: delivery.data, reason: reason.to_string(), queue, hold }
}

/// The queue that a dead letter was in, by what the broker noted on it.
fn queue_before(delivery: &Delivery) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    match death.inner().get("queue")? {
        AMQPValue::LongString(name) => Some(String::from_utf8_lossy(name.as_bytes()).into_owned()),
        _ => None,
    }
}
