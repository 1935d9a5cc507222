//! One connection of the consumer: its channels, the deliveries on them, and their settlement.

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
    BrokerSettings, Error,
    assignment_plan::{AssignmentPlan, Step},
    broker_connection::BrokerConnection,
    frame::{self, UnreadableFrame},
    partition_channel::{self, ChannelEvent, EventStream, PREFETCH, PartitionChannel},
    received::Received,
    topology::{LANES, WorkQueue},
    unacked::{DeadFrame, Item, Origin, SettledDelivery, Settlement, UnackedDelivery},
};
use crate::domain::Priority;

/// How long a stop waits for unacknowledged deliveries.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Channels that are opened or closed at once.
const MAX_CONCURRENCY: usize = 32;

pub(super) struct ConsumerSession<'a> {
    received: &'a Received,
    connection: &'a BrokerConnection,
    pub(super) streams: SelectAll<EventStream>,
    settle: mpsc::Sender<SettledDelivery>,
    pub(super) settlements: mpsc::Receiver<SettledDelivery>,
    /// By partition; the last one is for unreadable frames.
    channels: Vec<PartitionChannel>,
    plan: AssignmentPlan,
    requeues: VecDeque<SettledDelivery>,
    closing_since: Option<Instant>,
}

impl<'a> ConsumerSession<'a> {
    pub(super) async fn open(
        connection: &'a BrokerConnection,
        settings: &BrokerSettings,
        received: &'a Received,
    ) -> Result<Self, Error> {
        let dead = usize::from(settings.partitions);
        // Every delivery is settled once, and prefetch bounds how many there are.
        let unanswered = usize::from(PREFETCH) * (dead * LANES.len() + 1);
        let (settle, settlements) = mpsc::channel(unanswered);
        let mut session = ConsumerSession {
            received,
            connection,
            streams: SelectAll::new(),
            settle,
            settlements,
            channels: (0..=dead).map(|_| PartitionChannel::default()).collect(),
            plan: AssignmentPlan::new(settings.partitions, Instant::now()),
            requeues: VecDeque::new(),
            closing_since: None,
        };
        let entry = partition_channel::open_dead_letters(
            connection,
            dead,
            session.channels[dead].next_epoch(),
        )
        .await?;
        session.streams.extend(session.channels[dead].attach(entry));
        Ok(session)
    }

    pub(super) fn set_assigned(&mut self, assigned: &[u16]) {
        self.plan.assign(assigned, Instant::now());
    }

    /// Opens and closes channels as the plan says.
    pub(super) async fn apply_plan(&mut self) -> Result<(), Error> {
        if self.is_closing() {
            return Ok(());
        }
        let channels = &mut self.channels;
        let steps = self.plan.steps(Instant::now(), |partition| channels[at(partition)].in_flight);
        let (mut closed, mut joined) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Leave(partition) => closed.extend(channels[at(partition)].detach()),
                Step::Join(partition) => {
                    joined.push((partition, channels[at(partition)].next_epoch()));
                }
            }
        }
        stream::iter(closed)
            .map(async |channel| channel.close(200, "stepping back".into()).await)
            .buffered(MAX_CONCURRENCY)
            .try_collect::<()>()
            .await?;
        let connection = self.connection;
        let entries: Vec<_> = stream::iter(joined)
            .map(async |(partition, epoch)| {
                partition_channel::open(connection, partition, epoch).await
            })
            .buffered(MAX_CONCURRENCY)
            .try_collect()
            .await?;
        for entry in entries {
            self.streams.extend(self.channels[entry.index].attach(entry));
        }
        Ok(())
    }

    pub(super) async fn handle_event(&mut self, event: ChannelEvent) -> Result<(), Error> {
        let ChannelEvent { index, epoch, work_queue, delivery } = event;
        if !self.channels[index].is_current(epoch) {
            // The channel was closed since: the frame is back in its queue.
            return Ok(());
        }
        // The broker cancels a consumer whose queue is gone.
        let delivery = delivery.ok_or(Error::Missing)??;
        if self.is_left_to_broker(work_queue) {
            return Ok(());
        }
        let tag = delivery.delivery_tag;
        self.channels[index].received(tag);
        let origin = Origin { index, epoch, tag };
        match work_queue {
            Some(work_queue) => self.handle_frame(work_queue, origin, delivery).await,
            None => {
                self.handle_dead_letter(origin, delivery);
                Ok(())
            }
        }
    }

    /// Whether a delivery is ignored, so that the broker gives it to the next consumer when the channel closes.
    fn is_left_to_broker(&self, work_queue: Option<WorkQueue>) -> bool {
        self.is_closing()
            || work_queue.is_some_and(|work_queue| self.plan.is_leaving(work_queue.partition))
    }

    async fn handle_frame(
        &mut self,
        work_queue: WorkQueue,
        from: Origin,
        got: Delivery,
    ) -> Result<(), Error> {
        self.plan.delivered(work_queue.partition, Instant::now());
        match frame::read(&got.data) {
            Ok(wake_ups) => {
                let unacked = UnackedDelivery::new(from, wake_ups.len(), &self.settle);
                let part =
                    |wake_up| (work_queue.lane, Item { wake_up, unacked: Arc::clone(&unacked) });
                // Items that do not fit are dropped, which requeues the delivery.
                let share = work_queue.partition.cast_signed();
                drop(self.received.waiting.push(share, wake_ups.into_iter().map(part)));
                Ok(())
            }
            Err(reason) => {
                tracing::warn!(%reason, queue = work_queue.name(), "unreadable frame");
                metrics::counter!("esh3ar_unreadable_frames_total").increment(1);
                self.channels[from.index].reject(from.tag).await
            }
        }
    }

    fn handle_dead_letter(&mut self, from: Origin, delivery: Delivery) {
        let unacked = UnackedDelivery::new(from, 1, &self.settle);
        match frame::read(&delivery.data) {
            Err(reason) => {
                let dead = dead(delivery, &reason, unacked);
                drop(self.received.dead.push(0, [(Priority::Normal, dead)]));
            }
            // Newer brokers dead-letter a frame that was redelivered too often.
            Ok(wake_ups) => {
                tracing::debug!(count = wake_ups.len(), "left to the sweeper");
                dead(delivery, &UnreadableFrame::Messages, unacked).ack();
            }
        }
    }

    /// Acknowledges settled deliveries. Those to be requeued wait for [`ConsumerSession::requeue`].
    pub(super) async fn settle(
        &mut self,
        settled: impl Iterator<Item = SettledDelivery>,
    ) -> Result<(), Error> {
        let mut done: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for end in settled {
            let Origin { index, epoch, tag } = end.origin;
            match end.settlement {
                Settlement::Requeue => self.requeues.push_back(end),
                Settlement::Ack => {
                    self.channels[index].in_flight -= 1;
                    if self.channels[index].is_current(epoch) {
                        done.entry(index).or_default().push(tag);
                    }
                }
            }
        }
        for (index, done) in done {
            self.channels[index].acknowledge(&done).await?;
        }
        if self.plan.is_leaving_any() {
            // The next consumer waits for this channel to close.
            self.apply_plan().await?;
        }
        Ok(())
    }

    pub(super) async fn requeue(&mut self) -> Result<(), Error> {
        while let Some(end) = self.requeues.pop_front() {
            let Origin { index, epoch, tag } = end.origin;
            self.channels[index].in_flight -= 1;
            let leaving = u16::try_from(index).is_ok_and(|index| self.plan.is_leaving(index));
            // Otherwise it is requeued when the channel closes, with all that came after it.
            if self.channels[index].is_current(epoch) && !leaving && !self.is_closing() {
                self.channels[index].requeue(tag).await?;
            }
        }
        Ok(())
    }

    /// Takes no more deliveries. The channels close with the connection, when all deliveries are settled: the
    /// next consumer starts with what was not acknowledged, and must not start before that.
    pub(super) fn close(&mut self) {
        self.closing_since = Some(Instant::now());
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing_since.is_some()
    }

    /// Whether a closing session has no unacknowledged deliveries, or has waited long enough.
    pub(super) fn is_finished(&self) -> bool {
        let quiet = self.channels.iter().all(|channel| channel.in_flight == 0);
        self.closing_since.is_some_and(|since| quiet || since.elapsed() >= SHUTDOWN_GRACE)
    }
}

fn at(partition: u16) -> usize {
    usize::from(partition)
}

fn dead(delivery: Delivery, reason: &UnreadableFrame, unacked: Arc<UnackedDelivery>) -> DeadFrame {
    let queue = queue_before(&delivery).unwrap_or_else(|| delivery.routing_key.to_string());
    DeadFrame { body: delivery.data, reason: reason.to_string(), queue, unacked }
}

/// The queue that a dead letter was in, from the header that the broker added.
fn queue_before(delivery: &Delivery) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    match death.inner().get("queue")? {
        AMQPValue::LongString(name) => Some(String::from_utf8_lossy(name.as_bytes()).into_owned()),
        _ => None,
    }
}
