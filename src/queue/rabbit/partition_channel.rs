//! Our place in the lines of one partition, or in that of the unreadable frames.
//!
//! A frame that is not acknowledged when its channel ends goes back to its place in the queue before the
//! next in line is given anything. Who leaves a line by `basic.cancel` keeps such frames instead, also
//! those that are still on the way here, while the next in line goes on with what comes after them. So a
//! partition has a channel of its own, and is left by closing that.

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

/// Frames that a queue sends before one of them is acknowledged.
pub(super) const PREFETCH: u16 = 100;
/// The same for unreadable frames, which may be large.
pub(super) const DEAD_PREFETCH: u16 = 10;

/// Something on one of the streams: a delivery, or that it has ended, by our wish or not.
pub(super) struct ChannelEvent {
    pub(super) index: usize,
    pub(super) epoch: u32,
    /// The queue; none for that of the unreadable frames.
    pub(super) work_queue: Option<WorkQueue>,
    pub(super) delivery: Option<Result<Delivery, lapin::Error>>,
}

pub(super) type EventStream = BoxStream<'static, ChannelEvent>;

/// A place in line, each time that we stand there.
#[derive(Default)]
pub(super) struct PartitionChannel {
    /// How often we have stood here.
    epoch: u32,
    open: Option<OpenChannel>,
    /// What is neither done nor given back, of this life and of those before.
    pub(super) in_flight: usize,
}

struct OpenChannel {
    channel: Channel,
    outstanding: Outstanding,
}

/// A place in line that is about to be taken.
pub(super) struct NewChannel {
    pub(super) index: usize,
    epoch: u32,
    open: OpenChannel,
    pub(super) arrivals: Vec<EventStream>,
}

impl PartitionChannel {
    /// Where we stand next, of how many times.
    pub(super) fn next_epoch(&self) -> u32 {
        self.epoch.wrapping_add(1)
    }

    pub(super) fn attach(&mut self, entry: NewChannel) -> Vec<EventStream> {
        self.epoch = entry.epoch;
        self.open = Some(entry.open);
        entry.arrivals
    }

    /// Leaves the line. What comes of it from now on is the broker's.
    pub(super) fn detach(&mut self) -> Option<Channel> {
        self.open.take().map(|open| open.channel)
    }

    /// Whether we stand here, and have since then.
    pub(super) fn is_current(&self, epoch: u32) -> bool {
        self.open.is_some() && self.epoch == epoch
    }

    /// A frame has come.
    pub(super) fn received(&mut self, tag: u64) {
        self.in_flight += 1;
        if let Some(open) = &mut self.open {
            open.outstanding.add(tag);
        }
    }

    /// These are done. Only of this life.
    pub(super) async fn acknowledge(&mut self, done: &[u64]) -> Result<(), Error> {
        let Some(open) = &mut self.open else { return Ok(()) };
        for ack in open.outstanding.finish(done) {
            let options = BasicAckOptions { multiple: ack.multiple };
            open.channel.basic_ack(ack.tag, options).await?;
        }
        Ok(())
    }

    /// Somebody shall have it again.
    pub(super) async fn requeue(&mut self, tag: u64) -> Result<(), Error> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.outstanding.forget(tag);
        let options = BasicNackOptions { requeue: true, multiple: false };
        Ok(open.channel.basic_nack(tag, options).await?)
    }

    /// Nobody shall have it again; the broker moves it to the dead letters.
    pub(super) async fn reject(&mut self, tag: u64) -> Result<(), Error> {
        self.in_flight -= 1;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.outstanding.forget(tag);
        Ok(open.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await?)
    }
}

/// Stands in the lines of a partition.
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

/// Stands in the line of unreadable frames, behind those of so many partitions.
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
