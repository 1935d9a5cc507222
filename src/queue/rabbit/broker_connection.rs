//! Opens a connection: version check, login, and the declaration of exchanges and queues.

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

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A broker with an alarm does not read the close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Declarations in flight at once, so that a new broker has all of them after a few round trips.
const MAX_CONCURRENCY: usize = 32;

pub(super) struct BrokerConnection {
    connection: Connection,
    pub(super) broker: Broker,
}

impl BrokerConnection {
    /// Connects to a node and declares the exchange and queues.
    ///
    /// # Errors
    /// No connection, or queues with other properties.
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

    /// Connects to a node and declares nothing.
    async fn log_in(address: &Address, name: &str) -> Result<BrokerConnection, Error> {
        let tls = trusted(address).await?;
        let broker = version_probe::probe(&address.uri, &tls).await?;
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connect(address, tls, name))
            .await
            .unwrap_or_else(|_| Err(Error::silent(CONNECT_TIMEOUT)))?;
        Ok(BrokerConnection { connection, broker })
    }

    /// Each use has a channel of its own, because an error closes the channel.
    pub(super) async fn channel(&self) -> Result<Channel, Error> {
        Ok(self.connection.create_channel().await?)
    }

    /// Alarms and the end of the connection. Must be called before they happen.
    pub(super) fn events(&self) -> impl Stream<Item = Event> + Send + Unpin {
        Box::pin(self.connection.events_listener())
    }

    /// Also checked without an event, which a listener could miss.
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

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

    /// The type of queue that exists or is wanted. The queue of dead letters decides for all: it exists
    /// whatever the number of partitions, so one broker never has both types.
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

    /// Has a channel of its own, because a mismatch closes it.
    async fn declare_dead_letters(&self, kind: QueueType) -> Result<(), Error> {
        let channel = self.channel().await?;
        let arguments = table(&topology::dead_letter_arguments(kind));
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(topology::DEAD_LETTERS.into(), options, arguments).await?;
        Ok(())
    }
}

/// Logs in and out. Returns the broker's version.
pub(super) async fn check(address: &Address) -> Result<String, Error> {
    let link = BrokerConnection::log_in(address, "esh3ar doctor").await?;
    let version = link.broker.version.clone();
    link.close().await;
    Ok(version)
}

/// Frames in the broker's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depths {
    /// By lane, lowest first.
    pub(super) lanes: [u64; 3],
    /// Unreadable frames.
    pub(super) dead: u64,
}

impl BrokerConnection {
    /// Has a channel of its own: asking for a missing queue closes it.
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
    // Read for every connection, so that a renewed file is used.
    let pem = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| Error::Unreachable(format!("{}: {error}", path.display())))?;
    Ok(OwnedTLSConfig { identity: None, cert_chain: Some(pem) })
}

async fn connect(address: &Address, tls: OwnedTLSConfig, name: &str) -> Result<Connection, Error> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    // The library's thread waits for this and cannot be cancelled, so a silent network needs a timeout here.
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
