//! esh3ar: a self-hosted messaging appliance.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod app;
pub mod bench;
pub mod cache;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod mail;
pub mod outbound;
pub mod presence;
pub mod queue;
pub mod redis;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod worker;
