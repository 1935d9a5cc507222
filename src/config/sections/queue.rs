//! `queue.*`: RabbitMQ, which wakes the processes of an installation.

use crate::config::{
    Secret,
    key::{default, unset},
    parse::{login, one_of, optional, secret, whole},
    reader::Reader,
    sections::{key, section::section},
};

section! {
    /// RabbitMQ; without its URL there is a queue inside the process.
    pub struct QueueConfig in "queue." {
        /// amqp:// or amqps:// URL of RabbitMQ 3.10 or newer, required for more than one process. Separate the
        /// nodes of a cluster with commas; name a private CA with ?cacertfile=/etc/esh3ar/ca.pem. Unset: an
        /// in-process queue.
        url: Option<Secret> =
            unset("amqp://esh3ar:secret@mq.example.com:5672/esh3ar").secret() => optional(secret),
        /// Number of queues in each of the three lanes, 1 to 64; must be the same on every node.
        partitions: u16 = default("16") => whole(1..=64),
        /// Queue type: classic, quorum or auto. auto keeps the type of existing queues, else uses quorum if
        /// queue.url names three or more nodes, else classic.
        kind as "type": QueueKind = default("auto") => one_of(&[
            ("auto", QueueKind::Auto),
            ("classic", QueueKind::Classic),
            ("quorum", QueueKind::Quorum),
        ]),
    }
    checked by check
}

/// How the broker keeps queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// As they are there already, else quorum where three nodes or more are named, else classic.
    Auto,
    /// On one node.
    Classic,
    /// On a majority of the nodes.
    Quorum,
}

fn check(queue: &QueueConfig, reader: &mut Reader) {
    let Some(url) = &queue.url else { return };
    let key = key!("queue.url");
    login::check(reader, key, url.expose().split(','));
    let is_url = |url: &str| ["amqp://", "amqps://"].iter().any(|s| url.trim().starts_with(s));
    if !url.expose().split(',').all(is_url) {
        // Without the value: it holds a password.
        reader.problem(key, "must be amqp://user:password@host:port/vhost or amqps://…");
    }
    // Several processes need all three: the truth, wake-ups, and the way to each other.
    if !reader.is_set(key!("cache.url")) {
        let why = "needs cache.url: gateways and workers find each other through Redis";
        reader.problem(key, why);
    }
    if !reader.is_set(key!("database.url")) {
        let why = "needs database.url: the private Postgres serves one process only";
        reader.problem(key, why);
    }
}
