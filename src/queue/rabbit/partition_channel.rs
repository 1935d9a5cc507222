//! The channel that consumes the queues of one partition, or the queue of unreadable frames.
//!
//! When a channel closes, the broker puts unacknowledged frames back in their place before it gives anything to
//! the next consumer. After `basic.cancel` it does not: the cancelled consumer keeps those frames, also those
//! still in transit, while the next one continues behind them. So each partition has a channel of its own, and
//! stepping back from the partition closes that channel.

use futures_util::{
    StreamExt as _,
    future::ready,
    stream::{self, BoxStream},
};
use lapin::{
    Channel,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
    },
    types::FieldTable,
};

use super::{
    Error,
    broker_connection::BrokerConnection,
    outstanding::Outstanding,
    topology::{DEAD_LETTERS, LANES, WorkQueue},
};

/// Unacknowledged frames per queue.
pub(super) const PREFETCH: u16 = 100;
/// The same for unreadable frames, which may be large.
pub(super) const DEAD_PREFETCH: u16 = 10;

/// A delivery, or the end of the stream.
pub(super) struct ChannelEvent {
    pub(super) index: usize,
    pub(super) epoch: u32,
    /// `None` for the queue of unreadable frames.
    pub(super) work_queue: Option<WorkQueue>,
    pub(super) delivery: Option<Result<Delivery, lapin::Error>>,
}

pub(super) type EventStream = BoxStream<'static, ChannelEvent>;

#[derive(Default)]
pub(super) struct PartitionChannel {
    /// How often the channel was opened. Deliveries of an earlier epoch are back in their queue.
    epoch: u32,
    open: Option<OpenChannel>,
    /// Deliveries that are not settled, of this epoch and of those before.
    pub(super) in_flight: usize,
}

struct OpenChannel {
    channel: Channel,
    outstanding: Outstanding,
}

/// A channel that is open and not attached yet.
pub(super) struct NewChannel {
    pub(super) index: usize,
    epoch: u32,
    open: OpenChannel,
    pub(super) arrivals: Vec<EventStream>,
}

impl PartitionChannel {
    pub(super) fn next_epoch(&self) -> u32 {
        self.epoch.wrapping_add(1)
    }

    pub(super) fn attach(&mut self, entry: NewChannel) -> Vec<EventStream> {
        self.epoch = entry.epoch;
        self.open = Some(entry.open);
        entry.arrivals
    }

    /// Gives up the channel. Deliveries that still arrive on it are ignored.
    pub(super) fn detach(&mut self) -> Option<Channel> {
        self.open.take().map(|open| open.channel)
    }

    /// Whether the channel is open, and still the one of this epoch.
    pub(super) fn is_current(&self, epoch: u32) -> bool {
        self.open.is_some() && self.epoch == epoch
    }

    pub(super) fn received(&mut self, tag: u64) {
        self.in_flight += 1;
        if let Some(open) = &mut self.open {
            open.outstanding.add(tag);
        }
    }

    /// Acknowledges deliveries of this epoch.
    pub(super) async fn acknowledge(&mut self, done: &[u64]) -> Result<(), Error> {
        let Some(open) = &mut self.open else { return Ok(()) };
        for ack in open.outstanding.finish(done) {
            let options = BasicAckOptions { multiple: ack.multiple };
            open.channel.basic_ack(ack.tag, options).await?;
        }
        Ok(())
    }

    /// Puts a delivery back into its queue.
    pub(super) async fn requeue(&mut self, tag: u64) -> Result<(), Error> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.outstanding.forget(tag);
        let options = BasicNackOptions { requeue: true, multiple: false };
        Ok(open.channel.basic_nack(tag, options).await?)
    }

    /// Rejects a delivery: the broker moves it to the dead letters.
    pub(super) async fn reject(&mut self, tag: u64) -> Result<(), Error> {
        self.in_flight -= 1;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.outstanding.forget(tag);
        Ok(open.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await?)
    }
}

/// Consumes the queues of a partition.
pub(super) async fn open(
    connection: &BrokerConnection,
    partition: u16,
    epoch: u32,
) -> Result<NewChannel, Error> {
    let index = usize::from(partition);
    let channel = open_channel(connection, PREFETCH).await?;
    let mut arrivals = Vec::with_capacity(LANES.len());
    for lane in LANES {
        let work_queue = WorkQueue { lane, partition };
        arrivals
            .push(consume(&channel, &work_queue.name(), (index, epoch, Some(work_queue))).await?);
    }
    Ok(NewChannel {
        index,
        epoch,
        open: OpenChannel { channel, outstanding: Outstanding::new() },
        arrivals,
    })
}

/// Consumes the queue of unreadable frames.
pub(super) async fn open_dead_letters(
    connection: &BrokerConnection,
    index: usize,
    epoch: u32,
) -> Result<NewChannel, Error> {
    let channel = open_channel(connection, DEAD_PREFETCH).await?;
    let arrivals = vec![consume(&channel, DEAD_LETTERS, (index, epoch, None)).await?];
    Ok(NewChannel {
        index,
        epoch,
        open: OpenChannel { channel, outstanding: Outstanding::new() },
        arrivals,
    })
}

async fn open_channel(connection: &BrokerConnection, prefetch: u16) -> Result<Channel, Error> {
    let channel = connection.channel().await?;
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    Ok(channel)
}

async fn consume(
    channel: &Channel,
    name: &str,
    (index, epoch, work_queue): (usize, u32, Option<WorkQueue>),
) -> Result<EventStream, Error> {
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(name.into(), "".into(), options, FieldTable::default());
    let arrival = move |delivery| ChannelEvent { index, epoch, work_queue, delivery };
    let deliveries = consumer.await?.map(move |delivery| arrival(Some(delivery)));
    Ok(Box::pin(deliveries.chain(stream::once(ready(arrival(None))))))
}
