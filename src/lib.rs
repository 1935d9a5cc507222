//! esh3ar: a self-hosted messaging appliance. This is the map of its rooms.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`cli`] | the commands, and the only place that puts the rooms together |
//! | [`server`] | the HTTP API and the hub (SignalR) |
//! | [`worker`] | the background loops: delivery, sweeping, jobs, membership, maintenance, counters |
//! | [`app`] | the use cases: who may do what, and what happens then |
//! | [`store`] | Postgres, the only SQL |
//! | [`queue`] | wake-ups by priority, in this process or through RabbitMQ |
//! | [`presence`] | who is connected, here and on other gateways |
//! | [`cache`], [`redis`] | pages that are read often; connections to Redis for presence, rate limits and cache |
//! | [`mail`], [`sms`] | SMTP; gateways for SMS |
//! | [`outbound`], [`tls`] | HTTP requests to servers of others; certificates the system trusts |
//! | [`secrets`] | the installation's keys, and what is sealed with them |
//! | [`domain`] | the rules as values and functions: no I/O, no clock, no randomness |
//! | [`config`], [`telemetry`] | configuration keys; logs, metrics and traces |
//! | [`bench`], [`client`] | load and its history checker; a client as a stranger would write it |
//!
//! Imports go downward only: `cli` → `server`, `worker` → `app` → `store`, `queue`, `presence`, `cache`, `mail`, `sms` →
//! `redis`, `outbound`, `tls` → `domain`. `tests/arch.rs` holds that, and that modules of a room import in no circle.
//!
//! The way of a message:
//!
//! 1. `server/pipeline` authenticates the request and reads its body, `server/routes` has a row for every route,
//!    `server/http/messages` turns JSON into a request to send.
//! 2. `app` checks permission and rules, and stores messages in batches: `store/messages`. The sender is
//!    answered after COMMIT. From here on everything outside Postgres is a hint that may be lost.
//! 3. `queue` wakes the loop `worker/deliver` of the message's partition, which hands the message to delivery in
//!    `app`, and that to `presence`.
//! 4. `presence` passes it to every connection of the recipient, here or on another gateway. In each of these
//!    `server/hub` sends it, in the order that `domain/feed` decides.
//! 5. The acknowledgement comes back through one function of `app`, which writes the statuses of many messages in
//!    one statement: `store`. What is not acknowledged is retried, or found by `worker/sweep`.
#![forbid(unsafe_code)]
// Names and types say what most items are; comments say why. Only what others may build upon is documented item by
// item: the rules and the client.
#![allow(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod app;
pub mod bench;
pub mod cache;
pub mod cli;
#[warn(missing_docs)]
pub mod client;
pub mod config;
#[warn(missing_docs)]
pub mod domain;
pub mod mail;
pub mod outbound;
pub mod presence;
pub mod queue;
pub mod redis;
pub mod secrets;
pub mod server;
pub mod sms;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod worker;
