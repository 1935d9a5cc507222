//! What several processes need to find each other.

use super::Reader;
use crate::config::{Queue, QueueKind, Secret};

impl Reader {
    pub(super) fn queue(&mut self) -> Option<Queue> {
        let url = self.text("queue.url");
        // Without the value: it holds a password.
        let is_url = |url: &str| ["amqp://", "amqps://"].iter().any(|s| url.trim().starts_with(s));
        if !url.is_empty() && !url.split(',').all(is_url) {
            let wanted = "must be amqp://user:password@host:port/vhost or amqps://…";
            self.fault("queue.url", wanted.to_owned());
        }
        let partitions = self.value("queue.partitions", "a whole number from 1 to 64", |text| {
            text.parse().ok().filter(|n| (1..=64).contains(n))
        });
        let kind = self.value("queue.type", "auto, classic or quorum", |text| match text {
            "auto" => Some(QueueKind::Auto),
            "classic" => Some(QueueKind::Classic),
            "quorum" => Some(QueueKind::Quorum),
            _ => None,
        });
        (!url.is_empty()).then(|| Queue {
            url: Secret::new(url),
            partitions: partitions.unwrap_or(1),
            kind: kind.unwrap_or(QueueKind::Auto),
        })
    }

    /// Several processes need all three: the truth, wake-ups, and the way to each other.
    pub(super) fn cache_url(&mut self) -> Option<Secret> {
        let [database, queue, cache] =
            ["database.url", "queue.url", "cache.url"].map(|key| !self.text(key).is_empty());
        if queue && !cache {
            let why = "needs cache.url: gateways and workers find each other through Redis";
            self.fault("queue.url", why.to_owned());
        }
        if cache && !queue {
            let why = "needs queue.url: one process alone has no use for Redis";
            self.fault("cache.url", why.to_owned());
        }
        if (queue || cache) && !database {
            let key = if queue { "queue.url" } else { "cache.url" };
            let why = "needs database.url: the private Postgres serves one process only";
            self.fault(key, why.to_owned());
        }
        let url = self.text("cache.url");
        let schemes = ["redis://", "rediss://", "redis+", "rediss+"];
        if cache && !schemes.iter().any(|scheme| url.starts_with(scheme)) {
            // Without the value: it may hold a password.
            let wanted =
                "must be redis://host:6379, rediss://…, redis+sentinel://… or redis+cluster://…";
            self.fault("cache.url", wanted.to_owned());
        }
        cache.then(|| Secret::new(url))
    }

    /// Where other gateways reach this one, if somebody says so.
    pub(super) fn cluster_address(&mut self) -> Option<String> {
        let address = self.text("cluster.address");
        if address.is_empty() {
            return None;
        }
        let host = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '@'])) {
            self.fault(
                "cluster.address",
                "must be http://host:port or https://host:port".to_owned(),
            );
        }
        Some(address)
    }
}
