//! What one connection brings, and what is said about it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, SelectAll},
};
use lapin::{message::Delivery, types::AMQPValue};
use tokio::sync::mpsc;

use super::{
    Error, Settings,
    consumer::Inner,
    frame::{self, Refused},
    hold::{DeadFrame, Hold, Origin, Part, Settled, Verdict},
    line::{self, Arrival, Arrivals, Line, PREFETCH},
    link::Link,
    roster::{Roster, Step},
    topology::{LANES, Place},
};
use crate::domain::Priority;

/// How long a stop waits for what is in hand.
const LAST: Duration = Duration::from_secs(5);
/// Words to the broker under way at once.
const AT_ONCE: usize = 32;

/// One connection's deliveries and what is said about them.
pub(super) struct Desk<'a> {
    inner: &'a Inner,
    link: &'a Link,
    pub(super) streams: SelectAll<Arrivals>,
    settle: mpsc::Sender<Settled>,
    pub(super) settlements: mpsc::Receiver<Settled>,
    /// By partition, and behind them that of the unreadable frames.
    lines: Vec<Line>,
    roster: Roster,
    again: VecDeque<Settled>,
    closing: Option<Instant>,
}

impl<'a> Desk<'a> {
    pub(super) async fn open(
        link: &'a Link,
        settings: &Settings,
        inner: &'a Inner,
    ) -> Result<Self, Error> {
        let dead = usize::from(settings.partitions);
        // Each delivery says one word, and the broker sends no more than this unanswered.
        let unanswered = usize::from(PREFETCH) * (dead * LANES.len() + 1);
        let (settle, settlements) = mpsc::channel(unanswered);
        let mut desk = Desk {
            inner,
            link,
            streams: SelectAll::new(),
            settle,
            settlements,
            lines: (0..=dead).map(|_| Line::default()).collect(),
            roster: Roster::new(settings.partitions, Instant::now()),
            again: VecDeque::new(),
            closing: None,
        };
        let entry = line::stand_for_the_dead(link, dead, desk.lines[dead].next_life()).await?;
        desk.streams.extend(desk.lines[dead].enter(entry));
        Ok(desk)
    }

    pub(super) fn plan(&mut self, ours: &[u16]) {
        self.roster.plan(ours, Instant::now());
    }

    /// Takes and leaves places in line.
    pub(super) async fn stand(&mut self) -> Result<(), Error> {
        if self.is_closing() {
            return Ok(());
        }
        let lines = &mut self.lines;
        let steps = self.roster.steps(Instant::now(), |partition| lines[at(partition)].in_hand);
        let (mut left, mut entered) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Leave(partition) => left.extend(lines[at(partition)].leave()),
                Step::Register(partition) => {
                    entered.push((partition, lines[at(partition)].next_life()));
                }
            }
        }
        stream::iter(left)
            .map(async |channel| channel.close(200, "stepping back".into()).await)
            .buffered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let link = self.link;
        let entries: Vec<_> = stream::iter(entered)
            .map(async |(partition, life)| line::stand(link, partition, life).await)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for entry in entries {
            self.streams.extend(self.lines[entry.line].enter(entry));
        }
        Ok(())
    }

    pub(super) async fn arrived(&mut self, arrival: Arrival) -> Result<(), Error> {
        let Arrival { line, life, place, delivery } = arrival;
        if !self.lines[line].stands(life) {
            // Of a line that was left: it has gone back to the queue.
            return Ok(());
        }
        // The broker cancels a consumer whose queue is gone.
        let delivery = delivery.ok_or(Error::Missing)??;
        if self.stays(place) {
            return Ok(());
        }
        let tag = delivery.delivery_tag;
        self.lines[line].took(tag);
        let origin = Origin { line, life, tag };
        match place {
            Some(place) => self.received(place, origin, delivery).await,
            None => {
                self.received_dead(origin, delivery);
                Ok(())
            }
        }
    }

    /// Whether what comes stays the broker's, who gives it to the next in line when we have left.
    fn stays(&self, place: Option<Place>) -> bool {
        self.is_closing() || place.is_some_and(|place| self.roster.is_leaving(place.partition))
    }

    async fn received(&mut self, place: Place, from: Origin, got: Delivery) -> Result<(), Error> {
        self.roster.delivered(place.partition, Instant::now());
        match frame::read(&got.data) {
            Ok(wake_ups) => {
                let hold = Hold::new(from, wake_ups.len(), &self.settle);
                let part = |wake_up| (place.lane, Part { wake_up, hold: Arc::clone(&hold) });
                // What does not fit is dropped, and so comes again.
                let share = place.partition.cast_signed();
                drop(self.inner.waiting.push(share, wake_ups.into_iter().map(part)));
                Ok(())
            }
            Err(reason) => {
                tracing::warn!(%reason, queue = place.queue(), "a frame cannot be read");
                metrics::counter!("esh3ar_unreadable_frames_total").increment(1);
                self.lines[from.line].reject(from.tag).await
            }
        }
    }

    fn received_dead(&mut self, from: Origin, delivery: Delivery) {
        let hold = Hold::new(from, 1, &self.settle);
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
    pub(super) async fn settle(
        &mut self,
        settled: impl Iterator<Item = Settled>,
    ) -> Result<(), Error> {
        let mut done: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for end in settled {
            let Origin { line, life, tag } = end.origin;
            match end.verdict {
                Verdict::Again => self.again.push_back(end),
                Verdict::Done => {
                    self.lines[line].in_hand -= 1;
                    if self.lines[line].stands(life) {
                        done.entry(line).or_default().push(tag);
                    }
                }
            }
        }
        for (line, done) in done {
            self.lines[line].acknowledge(&done).await?;
        }
        if self.roster.has_leaving() {
            // The next in line waits for us.
            self.stand().await?;
        }
        Ok(())
    }

    pub(super) async fn give_back(&mut self) -> Result<(), Error> {
        while let Some(end) = self.again.pop_front() {
            let Origin { line, life, tag } = end.origin;
            self.lines[line].in_hand -= 1;
            let leaving = u16::try_from(line).is_ok_and(|line| self.roster.is_leaving(line));
            // Otherwise it goes back with all that came after it.
            if self.lines[line].stands(life) && !leaving && !self.is_closing() {
                self.lines[line].give_back(tag).await?;
            }
        }
        Ok(())
    }

    /// Takes nothing more. The lines are left with the connection, when what is in hand is finished: whoever
    /// is next begins with what was not, and must not begin before that.
    pub(super) fn close(&mut self) {
        self.closing = Some(Instant::now());
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether a closed desk has nothing in hand any more, or has waited long enough.
    pub(super) fn is_finished(&self) -> bool {
        let quiet = self.lines.iter().all(|line| line.in_hand == 0);
        self.closing.is_some_and(|since| quiet || since.elapsed() >= LAST)
    }
}

fn at(partition: u16) -> usize {
    usize::from(partition)
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
