//! Connects this process to the others of its installation, as the configuration says.

use std::time::Duration;

use super::task_group::TaskGroup;
use crate::{
    app::{App, Backends, Settings, identity, new_node},
    cli::io::exit::{ExitStatus, Failure},
    config::{Config, QueueKind},
    presence::{Presence, Registry, Relay},
    queue::{Consumer, Queue, Rabbit, rabbit},
    redis::{Redis, RedisSealer, RedisSettings, RedisTarget},
    store::Store,
};

/// How long the start waits for Redis. Without Redis messages are delayed, not lost.
const REDIS_TIMEOUT: Duration = Duration::from_secs(3);
/// Parallel consumers of a worker. Four keep two cores busy.
const CONSUMER_SHARES: usize = 4;

/// The broker's settings, if one is configured.
pub(crate) fn broker(config: &Config) -> Result<Option<rabbit::BrokerSettings>, Failure> {
    let Some(url) = &config.queue.url else { return Ok(None) };
    let choice = match config.queue.kind {
        QueueKind::Auto => rabbit::QueueTypeChoice::Auto,
        QueueKind::Classic => rabbit::QueueTypeChoice::Fixed(rabbit::QueueType::Classic),
        QueueKind::Quorum => rabbit::QueueTypeChoice::Fixed(rabbit::QueueType::Quorum),
    };
    rabbit::BrokerSettings::new(url.expose(), config.queue.partitions, choice)
        .map(Some)
        .map_err(|error| Failure::new(ExitStatus::Config, error.to_string()))
}

/// The address of Redis, if one is configured.
pub(crate) fn redis_target(config: &Config) -> Result<Option<RedisTarget>, Failure> {
    let Some(url) = &config.cache.url else { return Ok(None) };
    let wrong = |why: String| {
        Failure::new(ExitStatus::Config, format!("cache.url {why}"))
            .hint("run: esh3ar config check")
    };
    url.expose().parse().map(Some).map_err(wrong)
}

/// The queue and presence of the cluster; the tasks of their connections run in `group`.
pub(crate) async fn backends(
    config: &Config,
    settings: &Settings,
    store: &Store,
    group: &TaskGroup,
) -> Result<Backends, Failure> {
    let (Some(broker), Some(target)) = (broker(config)?, redis_target(config)?) else {
        return Ok(Backends::embedded(settings));
    };
    let node = new_node();
    let secret =
        identity::connection_secret(store, settings.keys.as_ref(), settings.clock.now()).await?;
    let sealer = RedisSealer::new(&secret, node)
        .map_err(|error| Failure::new(ExitStatus::Failed, error.to_string()))?;
    let redis_settings = RedisSettings { target, node, sealer: Some(sealer) };
    let (redis, heard) = Redis::start(redis_settings, &group.tracker, &group.stop);
    let registry = Registry::new(settings.runtime.limits);
    let relay = Relay::start(redis.clone(), heard, &registry, &group.tracker, &group.stop);
    let (rabbit, publishing) = Rabbit::new(&broker);
    group.tracker.spawn(publishing.run(group.stop.clone()));
    if redis.ready(REDIS_TIMEOUT).await.is_err() {
        tracing::warn!(why = redis.why_down(), "Redis does not answer; starting without it");
    }
    Ok(Backends { node, presence: Presence::Shared(registry, relay), queue: Queue::Rabbit(rabbit) })
}

/// The consumer of a worker; its task runs in `group`.
pub(crate) fn consumer(app: &App, broker: &rabbit::BrokerSettings, group: &TaskGroup) -> Consumer {
    let (consumer, consuming) = Consumer::new(broker, CONSUMER_SHARES, app.process.led_queues());
    group.tracker.spawn(consuming.run(group.stop.clone()));
    consumer
}
