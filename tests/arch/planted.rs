//! Planted sources: what breaks a rule is found, and what is right is left alone.

use std::path::PathBuf;

use crate::{FORBIDDEN, LONGEST_FILE, SINGLE, Source, judge, judge_lock, read};

fn planted(path: &str, text: &str) -> Source {
    Source { path: PathBuf::from(path), text: text.to_owned() }
}

#[test]
fn every_rule_bites() {
    let long = "fn a() {}\n".repeat(LONGEST_FILE + 1);
    let long_after_tests = format!("#[cfg(test)]\nmod tests;\n{long}");
    for (path, text, wanted) in [
        // rooms, by every way of naming them
        ("domain/a.rs", "use crate::store::Store;", "domain may not look into store (only: none)"),
        ("domain/a.rs", "fn a() { let _ = crate::app::x(); }", "domain may not look into app"),
        ("app/a.rs", "use crate::server::Gate;", "app may not look into server"),
        ("app/mod.rs", "use super::server::Gate;", "app may not look into server"),
        ("app/a/b.rs", "use super::super::super::cli;", "app may not look into cli"),
        ("app/a.rs", "mod b { use super::super::super::cli::C; }", "app may not look into cli"),
        ("app/a.rs", "fn a() { info!(x = %crate::cli::b()); }", "app may not look into cli"),
        ("app/a.rs", "#[derive(crate::cli::D)] struct A;", "app may not look into cli"),
        ("app/a.rs", "#[cfg(not(test))] use crate::cli::C;", "app may not look into cli"),
        ("app/tests.rs", "use crate::cli::C;", "app may not look into cli"),
        ("app/a.rs", "use crate as root;", "takes in the whole crate"),
        ("app/a.rs", "use crate::*;", "takes in the whole crate"),
        ("worker/a.rs", "use crate::{app::App, store::Store};", "worker may not look into store"),
        ("server/a.rs", "use crate::store::messages::list;", "runs no statements"),
        ("server/a.rs", "use crate::store::messages::MessageFiltering;", "runs no statements"),
        ("cellar/a.rs", "", "no room cellar"),
        // wings of app
        ("app/delivery/a.rs", "use crate::app::chat::A;", "delivery may not look into chat"),
        ("app/delivery/mod.rs", "use super::{Core, messages::A};", "may not look into messages"),
        ("app/limits/a/b.rs", "use super::super::super::process::A;", "limits may not look into"),
        ("app/process/a.rs", "fn a(b: &crate::app::App) {}", "process may not look into App"),
        ("app/clock.rs", "use super::identity::A;", "clock may not look into identity"),
        ("app/clock.rs", "use crate::app::Caller;", "clock may not look into Caller"),
        // rooms within a room
        (
            "server/hub/protocol/a.rs",
            "use crate::server::hub::transport::Transport;",
            "protocol may not look into transport",
        ),
        (
            "server/hub/hubs/a.rs",
            "use super::super::connection::A;",
            "hubs may not look into connection",
        ),
        (
            "server/hub/transport/mod.rs",
            "fn a() { super::endpoint::b(); }",
            "transport may not look into endpoint",
        ),
        ("server/hub/connection/a.rs", "use crate::server::hub::Hub;", "that has Hub"),
        ("server/hub/connection/a.rs", "use crate::server::hub::*;", "that has *"),
        ("server/hub/wire/a.rs", "", "no room wire in server/hub"),
        ("presence/registry.rs", "use super::presence_sync::A;", "may not look into presence_sync"),
        ("server/hub/protocol/a.rs", "use tokio::net::TcpStream;", "no I/O and no clock"),
        (
            "server/hub/protocol/b/a.rs",
            "fn a() { std::time::Instant::now(); }",
            "no I/O and no clock",
        ),
        // crates
        ("app/a.rs", "use tokio_postgres::Row;", "tokio_postgres belongs to store, not to app"),
        ("app/a.rs", "use tokio_postgres as pg;", "tokio_postgres belongs to store"),
        ("app/a.rs", "extern crate warp;", "warp belongs to server"),
        ("app/a.rs", "fn a(b: &::reqwest::Client) {}", "reqwest belongs to client"),
        ("app/a.rs", "#[derive(clap::Parser)] struct A;", "clap belongs to cli"),
        ("app/a.rs", "fn a() { select! { _ = redis::cmd(b) => {} } }", "redis belongs to redis"),
        ("cli/a.rs", "use ::config::Config;", "config belongs to config"),
        ("cli/a.rs", "fn a() { config::Config::builder(); }", "config belongs to config"),
        ("domain/a.rs", "use serde::Serialize;", "serde belongs to"),
        ("domain/a.rs", "use tokio::time::sleep;", "is pure (only: std, core"),
        ("domain/a.rs", "fn a() { subtle::b(); }", "not subtle"),
        ("domain/a.rs", "use std::fs;", "not std::fs"),
        // time and chance
        ("domain/a.rs", "fn a() { std::time::Instant::now(); }", "has no clock"),
        ("domain/a.rs", "use std::time::Instant as I; fn a() { I::now(); }", "has no clock"),
        ("domain/a.rs", "use uuid::Uuid; fn a() { Uuid::new_v4(); }", "no clock or chance"),
        ("app/a.rs", "fn a() { time::OffsetDateTime::now_utc(); }", "app/clock.rs"),
        ("app/a.rs", "use std::time::SystemTime; fn a() { b(SystemTime::now) }", "app/clock.rs"),
        // panics
        ("app/a.rs", "fn a() { b.unwrap(); }", "unwrap() may panic"),
        ("app/a.rs", "fn a() { b.expect(\"c\"); }", "expect() may panic"),
        ("app/a.rs", "fn a() { c(b.map(Option::unwrap)); }", "unwrap() may panic"),
        ("app/a.rs", "fn a() { vec![b.unwrap()]; }", "unwrap() may panic"),
        ("bin/a.rs", "fn a() { b.unwrap(); }", "unwrap() may panic"),
        ("lib.rs", "fn a() { b.unwrap(); }", "unwrap() may panic"),
        // SQL
        ("server/a.rs", "const A: &str = \"select a from b\";", "SQL belongs to store"),
        ("app/a.rs", "const A: &str = \"SELECT 1\";", "SQL belongs to store"),
        ("app/a.rs", "const A: &str = \"Insert\n into a values (1)\";", "SQL belongs to store"),
        ("app/a.rs", "const A: &str = \"update a\nset b = 1\";", "SQL belongs to store"),
        ("app/a.rs", "const A: &[u8] = b\"delete from a\";", "SQL belongs to store"),
        ("app/a.rs", "fn a() { format!(\"create table {b} ()\"); }", "SQL belongs to store"),
        // shape
        ("app/utils.rs", "", "name utils for what it does"),
        ("app/helpers/a.rs", "", "name helpers for what it does"),
        ("app/a.rs", "mod common {}", "name common for what it does"),
        ("app/a.rs", &long, "lines; files are at most"),
        ("app/a.rs", &long_after_tests, "lines; files are at most"),
        // words
        ("app/a.rs", "struct Desk;", "no type is called Desk"),
        ("app/a.rs", "mod b { enum Desk {} }", "no type is called Desk"),
        ("queue/a.rs", "pub(super) type Roster = u8;", "no type is called Roster"),
        ("queue/a.rs", "trait Pulse {}", "no type is called Pulse"),
        ("queue/mod.rs", "mod greeting;", "no module is called greeting"),
        ("queue/a.rs", "const PATIENCE: u8 = 1;", "no constant is called PATIENCE"),
        ("queue/a.rs", "fn a() { const AT_ONCE: u8 = 1; }", "no constant is called AT_ONCE"),
        ("queue/a.rs", "static LATELY: u8 = 1;", "no constant is called LATELY"),
        ("queue/a.rs", "impl A { pub const AGAIN: u8 = 1; }", "no constant is called AGAIN"),
        (
            "queue/a.rs",
            "pub struct A; mod b { pub struct A; }",
            "several public types are called A",
        ),
    ] {
        let broken = judge(&[planted(path, text)]);
        assert!(broken.iter().any(|b| b.contains(wanted)), "{text}: {wanted}: {broken:?}");
    }
}

#[test]
fn every_rule_over_several_files_bites() {
    for (sources, wanted) in [
        (
            &[("queue/a.rs", "use super::b::B;"), ("queue/b.rs", "use crate::queue::a::A;")][..],
            "queue: a, b import each other in a circle",
        ),
        (
            &[
                ("queue/a.rs", "fn a() { super::b::b(); }"),
                ("queue/b/mod.rs", "use super::c::d::D;"),
                ("queue/c/d.rs", "fn a() { select! { _ = crate::queue::a::a() => {} } }"),
            ],
            "queue: a, b, c import each other in a circle",
        ),
        (
            &[
                ("queue/b/mod.rs", "mod c; mod d;"),
                ("queue/b/c.rs", "use super::d;"),
                ("queue/b/d.rs", "use super::c::C;"),
            ],
            "queue/b: c, d import each other in a circle",
        ),
        // What another module re-exports counts for the one that declares it.
        (
            &[
                ("queue/mod.rs", "mod a; mod b; pub use a::A;"),
                ("queue/a.rs", "use super::b::B; pub struct A;"),
                ("queue/b.rs", "use super::A;"),
            ],
            "queue: a, b import each other in a circle",
        ),
        (
            &[("queue/a.rs", "pub struct A;"), ("mail/a.rs", "pub enum A {}")],
            "several public types are called A",
        ),
    ] {
        let sources: Vec<_> = sources.iter().map(|(path, text)| planted(path, text)).collect();
        let broken = judge(&sources);
        assert!(broken.iter().any(|b| b.contains(wanted)), "{wanted}: {broken:?}");
    }
}

#[test]
fn what_is_right_is_left_alone() {
    let long = "fn a() { b.unwrap(); }\n".repeat(LONGEST_FILE);
    for sources in [
        vec![planted("app/a.rs", &format!("#[cfg(test)]\nmod tests {{ {long} }}"))],
        vec![planted("app/a.rs", "#[cfg(all(test, unix))] use crate::cli::C;")],
        vec![planted("app/a.rs", "impl A { #[cfg(test)] fn a() { b.unwrap(); } }")],
        vec![planted("app/a.rs", "#[tokio::test] async fn a() { b.unwrap(); }")],
        vec![planted("app/a.rs", "#[cfg(test)] mod tests;"), planted("app/a/tests.rs", &long)],
        vec![planted("app/mod.rs", "#[cfg(test)] mod tests;"), planted("app/tests/b.rs", &long)],
        vec![planted(
            "server/hub/endpoint/a.rs",
            "use super::super::{connection::A, protocol::B};",
        )],
        vec![planted("server/hub/mod.rs", "mod endpoint; pub use endpoint::Hub;")],
        vec![planted("server/gate.rs", "use super::hub::{Hub, hubs::service::A};")],
        vec![planted("app/chat/a.rs", "use crate::app::{Caller, Core, delivery::A};")],
        vec![planted("app/chat/a.rs", "use super::ChatService; use crate::app::chat::b::C;")],
        vec![planted("app/mod.rs", "pub use jobs::A; use self::identity::B;")],
        vec![planted("cli/a.rs", "use crate::config; fn a() { config::load(); }")],
        vec![planted("cli/mod.rs", "mod config; fn a() { config::load(); }")],
        vec![planted("config/a.rs", "use config::Config;")],
        vec![planted("server/a.rs", "use crate::store::messages::{MessageFilter};")],
        vec![planted("store/a.rs", "const A: &str = \"select 1\";")],
        vec![planted("app/a.rs", "/// Select a message from `b`.unwrap()\nfn a() {}")],
        vec![planted("app/a.rs", "const A: &str = \"nothing to select or update\";")],
        vec![planted("app/commons.rs", "use super::auth::A; use std::time::Instant;")],
        // Each of a folder may use what the folder declares, and the folder each of them.
        vec![
            planted("queue/mod.rs", "mod a; mod b; use a::A; struct B;"),
            planted("queue/a.rs", "use super::{B, b::C};"),
            planted("queue/b.rs", "#[cfg(test)] mod tests { use super::super::a::A; }"),
        ],
        vec![planted("queue/a.rs", "pub struct A;"), planted("mail/a.rs", "pub(crate) struct A;")],
        vec![planted("queue/a.rs", "pub enum Error {}"), planted("mail/a.rs", "pub struct Error;")],
        vec![planted("queue/a.rs", "#[cfg(test)] mod tests { const AGAIN: u8 = 1; struct Desk; }")],
        vec![planted("queue/a.rs", "struct Deskless; const AGAIN_AT: u8 = 1;")],
    ] {
        assert_eq!(judge(&sources), Vec::<String>::new(), "{:?}", sources[0].name());
    }
}

#[test]
fn every_rule_of_the_lock_bites() {
    let lock = read("Cargo.lock");
    for forbidden in FORBIDDEN {
        let text = format!("{lock}\n[[package]]\nname = \"{forbidden}\"\nversion = \"1.0.0\"\n");
        let broken = judge_lock(&text);
        assert!(broken.iter().any(|b| b.starts_with(&format!("{forbidden} has entered"))));
    }
    for single in SINGLE {
        let text = format!("{lock}\n[[package]]\nname = \"{single}\"\nversion = \"0.0.1\"\n");
        let wanted = format!("{single} is there in 2 versions");
        assert!(judge_lock(&text).iter().any(|b| b.starts_with(&wanted)), "{wanted}");
    }
    assert_eq!(judge_lock("").len(), SINGLE.len());
}
