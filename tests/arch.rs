//! The layering test: which room may look into which, which crate belongs to which room, and a few
//! rules that no compiler keeps. The tables are those of docs/ARCHITECTURE.md.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{spanned::Spanned as _, visit::Visit};

/// Each room and the rooms it may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("config", &["domain"]),
    ("telemetry", &[]),
    ("client", &[]),
    ("store", &["domain"]),
    ("queue", &["domain"]),
    ("presence", &["domain"]),
    ("app", &["domain", "store", "queue", "presence"]),
    // Of the store only the types that use cases take and give.
    ("server", &["domain", "app", "presence", "store"]),
    ("worker", &["domain", "app"]),
    (
        "cli",
        &[
            "domain",
            "config",
            "telemetry",
            "client",
            "store",
            "queue",
            "presence",
            "app",
            "server",
            "worker",
        ],
    ),
];

/// The rooms of the store that the server may name: types, no statements.
const STORE_TYPES: &[&str] = &["messages::Filter", "story::Event", "idempotency::Earlier"];

/// Crates that only these rooms may name.
const OWNED: &[(&str, &[&str])] = &[
    ("tokio_postgres", &["store"]),
    ("deadpool_postgres", &["store"]),
    ("tokio_postgres_rustls", &["store"]),
    ("warp", &["server"]),
    ("hyper", &["server"]),
    ("hyper_util", &["server"]),
    ("http_body_util", &["server"]),
    ("tower_service", &["server"]),
    ("tokio_rustls", &["server"]),
    ("tokio_tungstenite", &["server", "client"]),
    ("reqwest", &["client"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("ratatui", &["cli"]),
    ("indicatif", &["cli"]),
    ("tracing_subscriber", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("sd_notify", &["telemetry"]),
    ("phonenumber", &["domain"]),
    ("nix", &["cli", "store"]),
    ("lapin", &["queue"]),
    ("redis", &["presence"]),
    ("s3", &["blob"]),
    ("lettre", &["mail"]),
    ("serde", &["server", "cli", "client"]),
    ("serde_json", &["server", "cli", "client"]),
];

/// All that the pure room may name besides itself.
const PURE: &[&str] =
    &["std", "uuid", "time", "thiserror", "phonenumber", "crate", "super", "self"];

/// The only places that read the time of day; moments (`Instant`) are read by whoever waits.
const CLOCKS: &[&str] = &["app/clock.rs"];

const LONGEST_FILE: usize = 500;

struct Source {
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
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(&root).unwrap().to_owned(), text });
            }
        }
    }
    assert!(found.len() > 30, "the sources were not found");
    found
}

/// What a file names outside its tests.
#[derive(Default)]
struct Names {
    paths: Vec<(Vec<String>, usize)>,
    calls: Vec<(String, usize)>,
    literals: Vec<(String, usize)>,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            syn::Meta::Path(path) => path.get_ident().map(ToString::to_string).unwrap_or_default(),
            syn::Meta::NameValue(_) => String::new(),
        };
        (attribute.path().is_ident("cfg") || attribute.path().is_ident("test"))
            && text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
    })
}

fn flatten(tree: &syn::UseTree, prefix: &[String], out: &mut Vec<Vec<String>>) {
    let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => flatten(&path.tree, &with(&path.ident), out),
        syn::UseTree::Name(name) => out.push(with(&name.ident)),
        syn::UseTree::Rename(name) => out.push(with(&name.ident)),
        syn::UseTree::Glob(_) => out.push(prefix.to_vec()),
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|item| flatten(item, prefix, out));
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut found = Vec::new();
        flatten(&item.tree, &[], &mut found);
        let line = item.span().start().line;
        self.paths.extend(found.into_iter().map(|path| (path, line)));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if names.len() > 1 {
            self.paths.push((names, path.span().start().line));
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.calls.push((call.method.to_string(), call.method.span().start().line));
        syn::visit::visit_expr_method_call(self, call);
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        self.literals.push((literal.value(), literal.span().start().line));
    }
}

/// Every rule that the sources break.
fn judge(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let is_test_file = source.path.ends_with("tests.rs");
        if is_test_file {
            continue;
        }
        let file = syn::parse_file(&source.text).unwrap();
        let mut names = Names::default();
        names.visit_file(&file);
        let name = source.name();
        let lines = source.text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
        if lines > LONGEST_FILE {
            broken.push(format!("{name} has {lines} lines; rooms are at most {LONGEST_FILE}"));
        }
        if ["utils", "common", "helpers"].iter().any(|word| name.contains(word)) {
            broken.push(format!("{name}: name the file for what it does"));
        }
        let Some(room) = source.room().filter(|room| room != "bin") else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(other, _)| *other == room) else {
            broken.push(format!("{name}: there is no room {room} in the table"));
            continue;
        };
        judge_paths(&name, &room, allowed, &names, &mut broken);
        judge_text(&name, &room, &names, &mut broken);
    }
    broken
}

fn judge_paths(name: &str, room: &str, allowed: &[&str], names: &Names, broken: &mut Vec<String>) {
    for (path, line) in &names.paths {
        let first = path[0].as_str();
        let second = path.get(1).map(String::as_str).unwrap_or_default();
        if first == "crate" && ROOMS.iter().any(|(other, _)| *other == second) && second != room {
            if !allowed.contains(&second) {
                broken.push(format!("{name}:{line}: {room} may not look into {second}"));
            } else if room == "server" && second == "store" {
                let rest = path[2..].join("::");
                if !STORE_TYPES.iter().any(|known| rest.starts_with(known)) {
                    broken.push(format!("{name}:{line}: the server runs no statements ({rest})"));
                }
            }
        }
        // `config` is also the name of a crate, which only the room of that name may use.
        if first == "config"
            && second.chars().next().is_some_and(char::is_uppercase)
            && room != "config"
            && room != "cli"
        {
            broken.push(format!("{name}:{line}: the crate config belongs to the room config"));
        }
        if let Some((_, owners)) = OWNED.iter().find(|(krate, _)| *krate == first)
            && !owners.contains(&room)
        {
            broken.push(format!("{name}:{line}: {first} belongs to {}", owners.join(" and ")));
        }
        if room == "domain" {
            let krate = first.chars().next().is_some_and(char::is_lowercase);
            let known = PURE.contains(&first) || path.len() < 2 || !EXTERNAL.contains(&first);
            if krate && !known {
                broken.push(format!("{name}:{line}: the domain is pure; it may not name {first}"));
            }
        }
        let last_two = path[path.len().saturating_sub(2)..].join("::");
        if matches!(last_two.as_str(), "OffsetDateTime::now_utc" | "SystemTime::now")
            && !CLOCKS.contains(&name)
        {
            broken.push(format!("{name}:{line}: the time is read in app/clock.rs"));
        }
        if room == "domain" && last_two == "Instant::now" {
            broken.push(format!(
                "{name}:{line}: the domain has no clock; take the moment as an argument"
            ));
        }
    }
    for (call, line) in &names.calls {
        if matches!(call.as_str(), "unwrap" | "expect") {
            broken.push(format!("{name}:{line}: {call}() may panic; return an error"));
        }
    }
}

/// Crates whose names a path of the domain might begin with.
const EXTERNAL: &[&str] = &[
    "tokio",
    "serde",
    "serde_json",
    "rand",
    "ring",
    "bytes",
    "futures_util",
    "tracing",
    "metrics",
    "tokio_util",
    "anyhow",
    "http",
    "base64",
    "backon",
];

fn judge_text(name: &str, room: &str, names: &Names, broken: &mut Vec<String>) {
    if room == "store" {
        return;
    }
    for (literal, line) in &names.literals {
        let text = literal.to_uppercase();
        let has = |words: &[&str]| words.iter().all(|word| text.contains(word));
        if has(&["SELECT ", " FROM "])
            || has(&["INSERT INTO "])
            || has(&["UPDATE ", " SET "])
            || has(&["DELETE FROM "])
            || has(&["CREATE TABLE "])
        {
            broken.push(format!("{name}:{line}: SQL belongs to the store"));
        }
    }
}

#[test]
fn the_house_is_in_order() {
    let broken = judge(&sources());
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_rule_bites() {
    let long = "fn a() {}\n".repeat(LONGEST_FILE + 1);
    for (path, text, wanted) in [
        ("domain/a.rs", "use crate::store::Store;", "domain may not look into store"),
        ("domain/a.rs", "fn a() { let _ = crate::app::x(); }", "domain may not look into app"),
        ("domain/a.rs", "use tokio::time::sleep;", "may not name tokio"),
        ("domain/a.rs", "use serde::Serialize;", "serde belongs to"),
        ("domain/a.rs", "fn a() { std::time::Instant::now(); }", "has no clock"),
        ("app/a.rs", "use crate::server::Gate;", "app may not look into server"),
        ("app/a.rs", "use tokio_postgres::Row;", "tokio_postgres belongs to store"),
        ("app/a.rs", "fn a() { time::OffsetDateTime::now_utc(); }", "app/clock.rs"),
        ("app/a.rs", "fn a() { b.unwrap(); }", "may panic"),
        ("server/a.rs", "use crate::store::messages::list;", "runs no statements"),
        ("server/a.rs", "const A: &str = \"select a from b\";", "SQL belongs"),
        ("worker/a.rs", "use crate::{app::App, store::Store};", "worker may not look into store"),
        ("cellar/a.rs", "", "no room cellar"),
        ("app/utils.rs", "", "name the file"),
        ("app/a.rs", &long, "lines; rooms are"),
    ] {
        let source = Source { path: path.into(), text: text.to_owned() };
        let broken = judge(&[source]);
        assert!(broken.iter().any(|b| b.contains(wanted)), "{wanted} was not found: {broken:?}");
    }
    let tested = "#[cfg(test)] mod tests { fn a() { b.unwrap(); } }".to_owned();
    assert!(judge(&[Source { path: "app/a.rs".into(), text: tested }]).is_empty());
}

#[test]
fn one_tls_stack_and_one_of_each_engine() {
    let lock =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(text) = line.strip_prefix("name = ") {
            name = text.trim_matches('"');
        } else if let Some(text) = line.strip_prefix("version = ") {
            versions.entry(name).or_default().insert(text.trim_matches('"'));
        }
    }
    for forbidden in ["openssl-sys", "openssl", "native-tls", "aws-lc-sys", "aws-lc-rs"] {
        assert!(!versions.contains_key(forbidden), "{forbidden} has entered the tree");
    }
    for single in ["rustls", "hyper", "tokio", "http", "ring", "tungstenite", "reqwest"] {
        assert_eq!(versions[single].len(), 1, "{single}: {:?}", versions[single]);
    }
}
