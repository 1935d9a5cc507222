//! `cache.*`: Redis, by which the processes of an installation find each other.

use crate::config::{
    Secret,
    key::unset,
    parse::{login, optional, secret},
    reader::Reader,
    sections::{key, section::section},
};

section! {
    /// Redis; its URL is set exactly when that of the queue is.
    pub struct CacheConfig in "cache." {
        /// URL of Redis 7 or newer, through which gateways and workers find each other: redis:// or rediss://,
        /// redis+sentinel://host:26379,host:26379/mymaster or redis+cluster://host:6379,host:6379. Put the
        /// login before the first host. Required with queue.url, not allowed without it.
        url: Option<Secret> =
            unset("redis://:secret@cache.example.com:6379").secret() => optional(secret),
    }
    checked by check
}

fn check(cache: &CacheConfig, reader: &mut Reader) {
    let Some(url) = &cache.url else { return };
    let key = key!("cache.url");
    login::check(reader, key, std::iter::once(url.expose()));
    if !reader.is_set(key!("queue.url")) {
        reader.problem(key, "needs queue.url: a single process does not use Redis");
        // Where the queue is set as well, it is told there.
        if !reader.is_set(key!("database.url")) {
            let why = "needs database.url: the private Postgres serves one process only";
            reader.problem(key, why);
        }
    }
    let schemes = ["redis://", "rediss://", "redis+", "rediss+"];
    if !schemes.iter().any(|scheme| url.expose().starts_with(scheme)) {
        // Without the value: it may hold a password.
        let why = "must be redis://host:6379, rediss://…, redis+sentinel://… or redis+cluster://…";
        reader.problem(key, why);
    }
}
