//! The integration tests: the real binary, a real Postgres, real clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs
)]

mod access;
mod access_changes;
mod admin_api;
mod administration;
mod api;
mod attack;
mod audit_log;
mod backup;
mod backup_log;
mod bad_input;
mod balancers;
mod bench;
mod chat;
mod chat_commands;
mod chat_history;
mod chat_machine;
mod clocks;
mod commands;
mod content_policy;
mod cors;
mod crash;
mod dead_letters;
mod deletion;
mod delivery;
mod drain;
mod embedded;
mod erase;
mod fault;
mod foreign_clients;
mod forward;
mod guards;
mod health;
mod hints;
mod hub;
mod hub_abuse;
mod import;
mod init;
mod jobs;
mod keys;
mod legacy;
mod lifecycle;
mod limits;
mod listen;
mod machine;
mod migrations;
mod names;
mod numbers;
mod observability;
mod openapi;
mod packages;
mod peers;
mod properties;
mod rabbit;
mod registration;
mod reload;
mod remote;
mod remote_data;
mod remote_watch;
mod replicas;
mod requests;
mod retention;
mod roles;
mod service;
mod shared;
mod siblings;
mod sms;
mod soak;
mod statements;
mod support;
mod top;
mod traces;
mod transports;
