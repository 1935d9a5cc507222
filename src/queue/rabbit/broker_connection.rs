//! One connection, from nothing to declared.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use lapin::{
    Channel, Connection, ConnectionProperties, Event, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    tcp::{AMQPUriTcpExt as _, OwnedTLSConfig},
    types::{AMQPValue, FieldTable},
};

use super::{
    BrokerSettings, Error,
    settings::Address,
    topology::{self, ArgumentValue, QueueType, QueueTypeChoice, WorkQueue},
    version_probe::{self, Broker},
};

/// For connecting and logging in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// For a goodbye; an alarmed broker reads none.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Declarations under way at once; all that a new broker needs are there after a few round trips.
const MAX_CONCURRENCY: usize = 32;

/// A connection on which everything is declared.
pub(super) struct BrokerConnection {
    connection: Connection,
    /// Which broker this is.
    pub(super) broker: Broker,
}

impl BrokerConnection {
    /// Connects to a node and declares what is ours.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub(super) async fn open(
        settings: &BrokerSettings,
        address: &Address,
        name: &str,
    ) -> Result<BrokerConnection, Error> {
        let link = BrokerConnection::log_in(address, name).await?;
        let declared = tokio::time::timeout(CONNECT_TIMEOUT, link.declare(settings)).await;
        declared.unwrap_or_else(|_| Err(Error::silent(CONNECT_TIMEOUT)))?;
        Ok(link)
    }

    /// Connects to a node, and declares nothing.
    async fn log_in(address: &Address, name: &str) -> Result<BrokerConnection, Error> {
        let tls = trusted(address).await?;
        let broker = version_probe::probe(&address.uri, &tls).await?;
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connect(address, tls, name))
            .await
            .unwrap_or_else(|_| Err(Error::silent(CONNECT_TIMEOUT)))?;
        Ok(BrokerConnection { connection, broker })
    }

    /// A channel of its own for each role, so that one's error is not the other's.
    pub(super) async fn channel(&self) -> Result<Channel, Error> {
        Ok(self.connection.create_channel().await?)
    }

    /// What happens to the connection: alarms and its end. To be asked for before they happen.
    pub(super) fn events(&self) -> impl Stream<Item = Event> + Send + Unpin {
        Box::pin(self.connection.events_listener())
    }

    /// Whether it is still there, which a listener could in theory have missed.
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        let closed = self.connection.close(200, "stopping".into());
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
    }

    async fn declare(&self, settings: &BrokerSettings) -> Result<(), Error> {
        let kind = self.settle_kind(settings).await?;
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(
                topology::EXCHANGE.into(),
                ExchangeKind::Direct,
                options,
                FieldTable::default(),
            )
            .await?;
        stream::iter(WorkQueue::all(settings.partitions))
            .map(|work_queue| declare_work(&channel, work_queue, kind))
            .buffered(MAX_CONCURRENCY)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    /// Which kind of queue is there or is wanted. The queue of dead letters decides for all, because it
    /// is there whatever the number of partitions: one broker never has both kinds of ours.
    async fn settle_kind(&self, settings: &BrokerSettings) -> Result<QueueType, Error> {
        let first = settings.choice.first(settings.addresses.len());
        match self.declare_dead_letters(first).await {
            Ok(()) => Ok(first),
            Err(error) if error.is_mismatch() && settings.choice == QueueTypeChoice::Auto => {
                self.declare_dead_letters(first.other()).await?;
                Ok(first.other())
            }
            Err(error) => Err(error),
        }
    }

    /// On a channel of its own, which a mismatch would close.
    async fn declare_dead_letters(&self, kind: QueueType) -> Result<(), Error> {
        let channel = self.channel().await?;
        let arguments = table(&topology::dead_letter_arguments(kind));
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(topology::DEAD_LETTERS.into(), options, arguments).await?;
        Ok(())
    }
}

/// Logs in and out again; gives the broker's version.
pub(super) async fn check(address: &Address) -> Result<String, Error> {
    let link = BrokerConnection::log_in(address, "esh3ar doctor").await?;
    let version = link.broker.version.clone();
    link.close().await;
    Ok(version)
}

/// How many frames wait at the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depths {
    /// In the queues of each lane, lowest first.
    pub(super) lanes: [u64; 3],
    /// Of those that nobody can read.
    pub(super) dead: u64,
}

impl BrokerConnection {
    /// Counts what waits, on a channel of its own: asking for a queue that is not there ends it.
    pub(super) async fn depths(&self, settings: &BrokerSettings) -> Result<Depths, Error> {
        let channel = self.channel().await?;
        let count = async |queue: String| {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
            let found =
                channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
            Ok::<u64, Error>(found.await?.message_count().into())
        };
        let mut counted = stream::iter(WorkQueue::all(settings.partitions))
            .map(|work_queue| {
                let count = &count;
                async move { Ok::<_, Error>((work_queue, count(work_queue.name()).await?)) }
            })
            .buffered(MAX_CONCURRENCY);
        let mut depths = Depths::default();
        while let Some((work_queue, waiting)) = counted.try_next().await? {
            depths.lanes[work_queue.lane as usize] += waiting;
        }
        drop(counted);
        depths.dead = count(topology::DEAD_LETTERS.to_owned()).await?;
        let _ = channel.close(200, "counted".into()).await;
        Ok(depths)
    }
}

async fn declare_work(
    channel: &Channel,
    work_queue: WorkQueue,
    kind: QueueType,
) -> Result<(), Error> {
    let name = work_queue.name();
    let arguments = table(&topology::work_queue_arguments(kind));
    let declared =
        channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments);
    let bound = channel.queue_bind(
        name.as_str().into(),
        topology::EXCHANGE.into(),
        name.as_str().into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    declared.await?;
    bound.await?;
    Ok(())
}

fn table(arguments: &[(&'static str, ArgumentValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            ArgumentValue::Text(text) => AMQPValue::LongString((*text).into()),
            ArgumentValue::Number(number) => AMQPValue::LongLongInt(*number),
            ArgumentValue::Flag(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert((*name).into(), value);
    }
    table
}

async fn trusted(address: &Address) -> Result<OwnedTLSConfig, Error> {
    let Some(path) = &address.trusted else { return Ok(OwnedTLSConfig::default()) };
    // Read each time, so that a renewed file is taken up.
    let pem = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| Error::Unreachable(format!("{}: {error}", path.display())))?;
    Ok(OwnedTLSConfig { identity: None, cert_chain: Some(pem) })
}

async fn connect(address: &Address, tls: OwnedTLSConfig, name: &str) -> Result<Connection, Error> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    // The library's own thread waits for this, and nobody could call it back from a silent network.
    let opened = Connection::connector(
        address.uri.clone(),
        runtime,
        async move |uri, runtime| {
            let stream = uri.connect_with_config_async(tls.as_ref(), &runtime);
            match tokio::time::timeout(CONNECT_TIMEOUT, stream).await {
                Ok(stream) => Ok(stream?),
                Err(elapsed) => Err(std::io::Error::other(elapsed).into()),
            }
        },
        properties,
    );
    Ok(opened.await?)
}
