//! The layering test: which room may look into which, which crate belongs to which room, that modules import in
//! no circle, which names are used, and a few rules that no compiler keeps. The tables are those of
//! docs/ARCHITECTURE.md.
//!
//! It reads names, not types: a path is followed through `use`, `as`, `self` and `super` and into
//! the tokens of macros, but not through what another room re-exports.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

#[path = "arch/circles.rs"]
mod circles;
#[path = "arch/names.rs"]
mod names;
#[path = "arch/planted.rs"]
mod planted;
#[path = "arch/threats.rs"]
mod threats;
#[path = "arch/words.rs"]
mod words;

use names::{Names, Way};

/// Each room and the rooms it may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("config", &["domain"]),
    ("tls", &[]),
    ("bench", &["domain", "tls"]),
    ("outbound", &["domain", "tls"]),
    ("secrets", &[]),
    ("sms", &["domain", "outbound"]),
    ("telemetry", &["domain", "outbound"]),
    ("client", &[]),
    ("store", &["domain", "tls"]),
    ("queue", &["domain"]),
    ("presence", &["domain", "redis"]),
    ("mail", &["domain"]),
    ("redis", &["domain"]),
    ("cache", &["domain", "redis"]),
    ("app", &["domain", "store", "queue", "presence", "mail", "cache", "redis", "secrets", "sms"]),
    // Of the store only the types that use cases take and give: see `STORE_TYPES`.
    ("server", &["domain", "app", "presence", "store", "tls"]),
    ("worker", &["domain", "app", "queue", "presence"]),
    (
        "cli",
        &[
            "domain",
            "bench",
            "config",
            "telemetry",
            "client",
            "store",
            "queue",
            "presence",
            "mail",
            "cache",
            "redis",
            "secrets",
            "sms",
            "app",
            "server",
            "worker",
        ],
    ),
];

/// Rooms within a room, lowest first: each may use only those before it.
const INNER_ROOMS: &[(&[&str], &[&str])] = &[
    (&["server", "hub"], &["protocol", "transport", "hubs", "connection", "forward", "endpoint"]),
    (
        &["presence"],
        &[
            "outbound",
            "outbox",
            "relay_frame",
            "absence",
            "relay",
            "relay_sender",
            "registry",
            "presence_sync",
        ],
    ),
];

/// Inner rooms without I/O and without a clock.
const INNER_PURE: &[&[&str]] = &[&["server", "hub", "protocol"]];

/// The crates that do I/O.
const IO_CRATES: &[&str] = &[
    "tokio",
    "tokio_util",
    "tokio_tungstenite",
    "hyper",
    "hyper_util",
    "http",
    "http_body_util",
    "warp",
];

/// The wings of `app`. Each may use those before it, and the files beside them; those use none.
const WINGS: &[&str] = &[
    "identity",
    "limits",
    "process",
    "delivery",
    "messages",
    "chat",
    "admin",
    "registration",
    "jobs",
];

/// What the server may name of the store, and why: types that use cases take or give, no statement.
const STORE_TYPES: &[(&[&str], &str)] = &[
    (&["messages", "MessageFilter"], "the query of a list, filled from the URL"),
    (&["dead_letters", "DeadLetterFilter"], "which dead letters, filled from the URL or a body"),
    (&["conversations", "ConversationFilter"], "which conversations, filled from the URL"),
    (&["audit", "AuditFilter"], "which entries of the audit log, filled from the URL"),
    (&["accounts", "MobileStatus"], "whether a number counts as proved, from a body"),
    (&["accounts", "BusinessUser"], "a business user, turned into JSON"),
    (&["accounts", "MobileUser"], "a mobile user, turned into JSON"),
    (&["tokens", "TokenInfo"], "a token without itself, turned into JSON"),
    (&["audit", "AuditRecord"], "an entry of the audit log, turned into JSON"),
    (&["dead_letters", "DeadLetter"], "a dead letter, turned into JSON"),
    (&["timeline", "MessageTimeline"], "the history of a message, turned into JSON"),
    (&["idempotency", "StoredResponse"], "the answer to a repeated request"),
    (&["ListPage"], "a page of a list, turned into JSON"),
    (&["ScanPosition"], "the row up to which a list was scanned, turned into a cursor"),
];

/// Crates that only these rooms may name.
const OWNED: &[(&str, &[&str])] = &[
    ("tokio_postgres", &["store"]),
    ("deadpool_postgres", &["store"]),
    ("deadpool", &["store"]),
    ("tokio_postgres_rustls", &["store"]),
    ("warp", &["server"]),
    ("hyper", &["server", "bench"]),
    ("hyper_util", &["server", "bench"]),
    ("http_body_util", &["server", "bench"]),
    ("tower_service", &["server"]),
    ("tokio_rustls", &["server", "bench"]),
    ("rustls_native_certs", &["tls"]),
    ("x509_parser", &["server"]),
    ("ppp", &["server"]),
    ("rfc7239", &["server"]),
    ("tokio_tungstenite", &["server", "client", "bench"]),
    ("reqwest", &["client", "outbound"]),
    ("utoipa", &["server"]),
    ("clap", &["cli"]),
    ("tar", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("ratatui", &["cli"]),
    ("indicatif", &["cli"]),
    ("config", &["config"]),
    ("tracing_subscriber", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("procfs", &["telemetry"]),
    ("sd_notify", &["telemetry"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_http", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("phonenumber", &["domain"]),
    ("strsim", &["domain"]),
    ("regex", &["domain"]),
    ("idna", &["domain"]),
    ("unicode_normalization", &["domain"]),
    ("nix", &["cli", "store"]),
    ("lapin", &["queue"]),
    ("redis", &["redis"]),
    ("lettre", &["mail"]),
    ("serde", &["server", "cli", "client", "bench", "presence"]),
    ("hdrhistogram", &["bench"]),
    // The store keeps work as JSON, and wake-ups travel as JSON; nobody else below the borders knows a
    // wire format.
    ("serde_json", &["server", "cli", "client", "bench", "store", "queue", "sms"]),
];

/// All that the pure room may name besides itself.
const PURE: &[&str] = &[
    "std",
    "core",
    "alloc",
    "uuid",
    "time",
    "thiserror",
    "phonenumber",
    "strsim",
    "unicode_normalization",
    "regex",
    "idna",
];

/// Of `std` what the pure room may not name either.
const IMPURE_STD: &[&str] = &["env", "fs", "io", "net", "process", "thread"];

/// Reading the time of day; moments (`Instant`) are read by whoever waits.
const TIMES: &[&str] = &[
    "OffsetDateTime::now_utc",
    "OffsetDateTime::now_local",
    "UtcDateTime::now",
    "SystemTime::now",
];

/// The only places that read the time of day.
const CLOCKS: &[&str] = &["app/clock.rs"];

/// Time and chance that the domain takes as arguments.
const GIVEN: &[&str] = &["Instant::now", "Uuid::now_v7", "Uuid::new_v4"];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["utils", "common", "helpers"];

/// In lines, without the tests inside the file.
const LONGEST_FILE: usize = 500;

/// A second TLS stack or crypto provider.
const FORBIDDEN: &[&str] = &["openssl-sys", "openssl", "native-tls", "aws-lc-sys", "aws-lc-rs"];

/// Of these a second version would be a second engine, or types that do not fit each other.
const SINGLE: &[&str] = &["rustls", "hyper", "tokio", "http", "ring", "tungstenite", "reqwest"];

struct Source {
    /// Below `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn room(&self) -> Option<String> {
        let mut parts = self.path.iter().map(|part| part.to_string_lossy().into_owned());
        let first = parts.next()?;
        parts.next().is_some().then_some(first)
    }

    /// The path of the file as a module: `app/mod.rs` is `app`, `app/auth.rs` is `app::auth`.
    fn module(&self) -> Vec<String> {
        let whole = self.path.with_extension("");
        let mut parts: Vec<String> =
            whole.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib")) {
            parts.pop();
        }
        parts
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The path and the text of every Rust file below a folder of the project.
fn files_under(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("node_modules") && !path.ends_with(".venv") {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let found: Vec<Source> = files_under("src")
        .into_iter()
        .map(|(path, text)| Source { path: path.strip_prefix(&root).unwrap().to_owned(), text })
        .collect();
    assert!(found.len() > 30, "the sources were not found");
    found
}

/// The crates that a path can begin with: the language's and the manifest's.
fn crates() -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
    let section = rest.split("\n[").next().unwrap();
    let keys = section.lines().filter(|line| !line.starts_with('#'));
    let named =
        keys.filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.replace('-', "_"));
    named.chain(["std", "core", "alloc"].map(str::to_owned)).collect()
}

/// Every rule that the sources break.
fn judge(sources: &[Source]) -> Vec<String> {
    let crates = crates();
    let read: Vec<(&Source, Names)> = sources.iter().map(|s| (s, Names::of(s))).collect();
    let tests: Vec<&Vec<String>> = read.iter().flat_map(|(_, names)| &names.test_modules).collect();
    let mut broken = Vec::new();
    for (source, names) in &read {
        if tests.iter().any(|test| source.module().starts_with(test)) {
            continue;
        }
        let name = source.name();
        judge_shape(source, names, &mut broken);
        judge_text(&name, source.room().as_deref(), names, &mut broken);
        // What puts the library together names the rooms and nothing else.
        let Some(room) = source.room().filter(|room| room != "bin") else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(other, _)| *other == room) else {
            broken.push(format!("{name}: there is no room {room} in the table"));
            continue;
        };
        judge_inner_room(&name, &source.module(), &mut broken);
        for written in &names.paths {
            let place = format!("{name}:{}", written.line);
            match names.resolve(written, &crates) {
                Some(Way::In(path)) => {
                    judge_room(&place, &room, allowed, &path, &mut broken);
                    judge_inner_import(&place, &source.module(), &path, &mut broken);
                    judge_wing(&place, &source.module(), &path, &mut broken);
                }
                Some(Way::Out(path)) => {
                    judge_crate(&place, &room, &path, &mut broken);
                    judge_inner_crate(&place, &source.module(), &path, &mut broken);
                }
                None => {}
            }
        }
    }
    broken.extend(circles::judge(&read, &crates));
    broken.extend(words::judge(&read));
    broken
}

fn judge_shape(source: &Source, names: &Names, broken: &mut Vec<String>) {
    let name = source.name();
    let lines = source.text.lines().count().saturating_sub(names.test_lines);
    if lines > LONGEST_FILE {
        broken.push(format!("{name} has {lines} lines; files are at most {LONGEST_FILE}: part it"));
    }
    let declared = names.modules.iter().map(|(name, _)| name.as_str());
    for word in source.module().iter().map(String::as_str).chain(declared) {
        if EMPTY_NAMES.contains(&word) {
            broken.push(format!("{name}: name {word} for what it does"));
        }
    }
}

fn judge_room(place: &str, room: &str, allowed: &[&str], path: &[String], out: &mut Vec<String>) {
    let other = path.first().map_or("*", String::as_str);
    if other == "*" {
        out.push(format!("{place}: {room} takes in the whole crate; name the room it needs"));
    } else if other == room || !ROOMS.iter().any(|(known, _)| *known == other) {
    } else if !allowed.contains(&other) {
        let rooms = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        out.push(format!("{place}: {room} may not look into {other} (only: {rooms})"));
    } else if room == "server" && other == "store" {
        let known = STORE_TYPES
            .iter()
            .any(|(known, _)| path[1..].iter().take(known.len()).eq(known.iter()));
        if !known {
            let rest = path[1..].join("::");
            out.push(format!("{place}: the server runs no statements ({rest}); app does"));
        }
    }
}

/// The rest of a path below a room.
fn below<'a>(path: &'a [String], outer: &[&str]) -> Option<&'a [String]> {
    let inside = path.iter().take(outer.len()).eq(outer.iter());
    inside.then(|| path.get(outer.len()..)).flatten()
}

/// Every file below such a room is in one of its rooms.
fn judge_inner_room(name: &str, module: &[String], broken: &mut Vec<String>) {
    for (outer, rooms) in INNER_ROOMS {
        if let Some([inner, ..]) = below(module, outer)
            && !rooms.contains(&inner.as_str())
        {
            broken.push(format!("{name}: there is no room {inner} in {}", outer.join("/")));
        }
    }
}

fn judge_inner_import(place: &str, module: &[String], path: &[String], broken: &mut Vec<String>) {
    for (outer, rooms) in INNER_ROOMS {
        let (Some([from, ..]), Some(to)) = (below(module, outer), below(path, outer)) else {
            continue;
        };
        let rank = |room: &str| rooms.iter().position(|other| *other == room);
        let to = to.first().map_or("*", String::as_str);
        match (rank(from), rank(to)) {
            (Some(from_rank), Some(to_rank)) if to_rank > from_rank => {
                let order = rooms.join(", ");
                broken
                    .push(format!("{place}: {from} may not look into {to} (from below: {order})"));
            }
            (Some(_), None) => {
                let outer = outer.join("/");
                broken.push(format!("{place}: name the room of {outer} that has {to}"));
            }
            _ => {}
        }
    }
}

fn judge_inner_crate(place: &str, module: &[String], path: &[String], broken: &mut Vec<String>) {
    let Some(pure) = INNER_PURE.iter().find(|pure| below(module, pure).is_some()) else { return };
    let last_two = path[path.len().saturating_sub(2)..].join("::");
    let io = IO_CRATES.contains(&path[0].as_str());
    if io || GIVEN.contains(&last_two.as_str()) {
        broken.push(format!("{place}: {} has no I/O and no clock, not {last_two}", pure.join("/")));
    }
}

/// How high something of `app` stands: the files beside the wings are lowest, `App` is on top.
fn height(name: &str) -> usize {
    let name = match name {
        // Where `app` names again what belongs to a wing.
        "Caller" => "identity",
        "App" | "Wings" => return WINGS.len() + 1,
        name => name,
    };
    WINGS.iter().position(|wing| *wing == name).map_or(0, |place| place + 1)
}

fn judge_wing(place: &str, module: &[String], path: &[String], broken: &mut Vec<String>) {
    let [app, own, ..] = module else { return };
    let [other_app, other, ..] = path else { return };
    if app == "app" && other_app == "app" && height(own) < height(other) {
        broken.push(format!("{place}: {own} may not look into {other}, which is above it"));
    }
}

fn judge_crate(place: &str, room: &str, path: &[String], broken: &mut Vec<String>) {
    let first = path[0].as_str();
    if let Some((_, owners)) = OWNED.iter().find(|(krate, _)| *krate == first)
        && !owners.contains(&room)
    {
        let owners = owners.join(" and ");
        broken.push(format!("{place}: the crate {first} belongs to {owners}, not to {room}"));
    }
    let last_two = path[path.len().saturating_sub(2)..].join("::");
    let is_clock = CLOCKS.iter().any(|clock| place.starts_with(&format!("{clock}:")));
    if TIMES.contains(&last_two.as_str()) && !is_clock {
        broken.push(format!("{place}: {last_two}: the time is read in {}", CLOCKS.join(", ")));
    }
    if room != "domain" {
        return;
    }
    if GIVEN.contains(&last_two.as_str()) {
        broken
            .push(format!("{place}: the domain has no clock or chance; take {last_two} from app"));
    }
    let impure = first == "std" && path.get(1).is_some_and(|m| IMPURE_STD.contains(&m.as_str()));
    if impure || !PURE.contains(&first) {
        let named = path[..path.len().min(2)].join("::");
        broken
            .push(format!("{place}: the domain is pure (only: {}), not {named}", PURE.join(", ")));
    }
}

fn judge_text(name: &str, room: Option<&str>, names: &Names, broken: &mut Vec<String>) {
    let paths = names.paths.iter().filter(|written| written.path.len() > 1);
    let named = paths.filter_map(|written| Some((written.path.last()?, written.line)));
    for (call, line) in names.calls.iter().map(|(call, line)| (call, *line)).chain(named) {
        if matches!(call.as_str(), "unwrap" | "expect") {
            broken.push(format!("{name}:{line}: {call}() may panic; return an error"));
        }
    }
    for (literal, line) in &names.literals {
        if room != Some("store") && is_sql(literal) {
            broken.push(format!("{name}:{line}: SQL belongs to store"));
        }
    }
}

fn is_sql(literal: &str) -> bool {
    let words: Vec<String> =
        literal.split_whitespace().map(|word| word.trim_matches('(').to_uppercase()).collect();
    let first = |wanted: &str| words.iter().position(|word| word == wanted);
    let follows = |one: &str, other: &str| {
        first(one).is_some_and(|at| words[at..].iter().any(|word| word == other))
    };
    let beside =
        |one: &str, other: &str| words.windows(2).any(|two| two[0] == one && two[1] == other);
    // "select" and "update" are also words that people use.
    (words.len() > 1 && words[0] == "SELECT")
        || follows("SELECT", "FROM")
        || follows("UPDATE", "SET")
        || beside("INSERT", "INTO")
        || beside("DELETE", "FROM")
        || beside("CREATE", "TABLE")
}

fn judge_lock(lock: &str) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(text) = line.strip_prefix("name = ") {
            name = text.trim_matches('"');
        } else if let Some(text) = line.strip_prefix("version = ") {
            versions.entry(name).or_default().insert(text.trim_matches('"'));
        }
    }
    let mut broken = Vec::new();
    for forbidden in FORBIDDEN.iter().filter(|forbidden| versions.contains_key(**forbidden)) {
        broken.push(format!("{forbidden} has entered the tree; the one TLS stack is rustls, ring"));
    }
    for single in SINGLE {
        let found = versions.get(single).cloned().unwrap_or_default();
        if found.len() != 1 {
            broken.push(format!("{single} is there in {} versions: {found:?}", found.len()));
        }
    }
    broken
}

#[test]
fn the_house_is_in_order() {
    let broken = judge(&sources());
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_threat_has_a_test() {
    let broken = threats::judge();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn one_tls_stack_and_one_of_each_engine() {
    let broken = judge_lock(&read("Cargo.lock"));
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// An exception that nobody needs any more, or a crate that is gone, would only hide a mistake.
#[test]
fn every_dependency_is_used() {
    let sources = sources();
    let unused: Vec<String> = crates()
        .into_iter()
        .filter(|krate| !matches!(krate.as_str(), "std" | "core" | "alloc"))
        .filter(|krate| {
            let named = [format!("{krate}::"), format!("{krate}!")];
            !sources.iter().any(|source| named.iter().any(|name| source.text.contains(name)))
        })
        .collect();
    assert!(unused.is_empty(), "compiled, and used by nothing: {unused:?}");
}

#[test]
fn the_tables_hold_nothing_stale() {
    let crates = crates();
    for krate in OWNED.iter().map(|(krate, _)| *krate).chain(PURE.iter().copied()) {
        assert!(crates.contains(krate), "the tables name {krate}, which is no dependency");
    }
    let sources = sources();
    let used: Vec<Vec<String>> = sources
        .iter()
        .filter(|source| source.path.starts_with("server"))
        .flat_map(|source| Names::of(source).paths)
        .map(|written| written.path)
        .collect();
    for (exception, reason) in STORE_TYPES {
        let path = [&["crate", "store"], *exception].concat();
        assert!(used.iter().any(|used| used.iter().take(path.len()).eq(path.iter())), "{reason}");
    }
    for (room, _) in ROOMS {
        assert!(sources.iter().any(|source| source.path.starts_with(room)), "no room {room}");
    }
    for (outer, rooms) in INNER_ROOMS {
        for inner in *rooms {
            let module: Vec<&str> = outer.iter().chain([inner]).copied().collect();
            let found = sources.iter().any(|source| below(&source.module(), &module).is_some());
            assert!(found, "no room {inner} in {}", outer.join("/"));
        }
    }
    for wing in WINGS {
        let folder = Path::new("app").join(wing);
        assert!(sources.iter().any(|source| source.path.starts_with(&folder)), "no wing {wing}");
    }
    for clock in CLOCKS {
        assert!(sources.iter().any(|source| source.name() == *clock), "no file {clock}");
    }
}
