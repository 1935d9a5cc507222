//! What connects this process to the others of its installation, put together from the configuration.

use std::time::Duration;

use super::{
    appliance::Part,
    exit::{Failure, Kind},
};
use crate::{
    app::{App, Settings, Ways, new_node},
    config::{Config, QueueKind},
    presence::{Presence, Registry, Relay},
    queue::{Consumer, Queue, Rabbit, rabbit},
    redis::{Redis, RedisSettings, RedisTarget},
};

/// How long the start waits for Redis. Without it everything works, later.
const REDIS_PATIENCE: Duration = Duration::from_secs(3);
/// Shares of a worker's delivering. Two cores are kept busy by four.
const SHARES: usize = 4;

/// Where the broker is, if there is one.
pub(super) fn broker(config: &Config) -> Result<Option<rabbit::BrokerSettings>, Failure> {
    let Some(url) = &config.queue.url else { return Ok(None) };
    let choice = match config.queue.kind {
        QueueKind::Auto => rabbit::QueueTypeChoice::Auto,
        QueueKind::Classic => rabbit::QueueTypeChoice::Fixed(rabbit::QueueType::Classic),
        QueueKind::Quorum => rabbit::QueueTypeChoice::Fixed(rabbit::QueueType::Quorum),
    };
    rabbit::BrokerSettings::new(url.expose(), config.queue.partitions, choice)
        .map(Some)
        .map_err(|error| Failure::new(Kind::Config, error.to_string()))
}

/// Where Redis is, if there is one.
pub(super) fn target(config: &Config) -> Result<Option<RedisTarget>, Failure> {
    let Some(url) = &config.cache.url else { return Ok(None) };
    let wrong = |why: String| {
        Failure::new(Kind::Config, format!("cache.url {why}")).hint("run: esh3ar config check")
    };
    url.expose().parse().map(Some).map_err(wrong)
}

/// The ways to the other processes; what keeps them open runs in `part`.
pub(super) async fn ways(
    config: &Config,
    settings: &Settings,
    part: &Part,
) -> Result<Ways, Failure> {
    let (Some(broker), Some(target)) = (broker(config)?, target(config)?) else {
        return Ok(Ways::embedded(settings));
    };
    let node = new_node();
    let redis_settings = RedisSettings { target, node };
    let (redis, heard) = Redis::start(redis_settings, &part.tracker, &part.stop);
    let registry = Registry::new(settings.live.limits);
    let relay = Relay::start(redis.clone(), heard, &registry, &part.tracker, &part.stop);
    let (rabbit, publishing) = Rabbit::new(&broker);
    part.tracker.spawn(publishing.run(part.stop.clone()));
    if redis.ready(REDIS_PATIENCE).await.is_err() {
        tracing::warn!(why = redis.why_down(), "Redis does not answer; starting without it");
    }
    Ok(Ways { node, presence: Presence::Shared(registry, relay), queue: Queue::Rabbit(rabbit) })
}

/// What a worker takes from the broker, in `part`.
pub(super) fn consumer(app: &App, broker: &rabbit::BrokerSettings, part: &Part) -> Consumer {
    let (consumer, taking) = Consumer::new(broker, SHARES, app.led_queues());
    part.tracker.spawn(taking.run(part.stop.clone()));
    consumer
}
