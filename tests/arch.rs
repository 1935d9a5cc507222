//! The layering test: which room may look into which, which crate belongs to which room, and a few
//! rules that no compiler keeps. The tables are those of docs/ARCHITECTURE.md.
//!
//! It reads names, not types: a path is followed through `use`, `as`, `self` and `super` and into
//! the tokens of macros, but not through what another room re-exports.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{Meta, Token, punctuated::Punctuated, spanned::Spanned as _, visit::Visit};

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
    // Of the store only the types that use cases take and give: see `STORE_TYPES`.
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

/// What the server may name of the store, and why: types that use cases take or give, no statement.
const STORE_TYPES: &[(&[&str], &str)] = &[
    (&["messages", "Filter"], "the query of a list, filled from the URL"),
    (&["story", "Event"], "the history of a message, turned into JSON"),
    (&["idempotency", "Earlier"], "the answer to a repeated request"),
];

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
    ("config", &["config"]),
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
const PURE: &[&str] = &["std", "core", "alloc", "uuid", "time", "thiserror", "phonenumber"];

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

/// The crates that a path can begin with: the language's and the manifest's.
fn crates() -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
    let section = rest.split("\n[").next().unwrap();
    let keys = section.lines().filter(|line| !line.starts_with('#'));
    let named = keys.filter_map(|line| line.split_once(" = ")).map(|(key, _)| match key {
        "rust-s3" => "s3".to_owned(),
        other => other.replace('-', "_"),
    });
    named.chain(["std", "core", "alloc"].map(str::to_owned)).collect()
}

/// A path as it is written, and the module it is written in.
struct Written {
    global: bool,
    path: Vec<String>,
    module: Vec<String>,
    line: usize,
}

/// What a file names outside its tests.
#[derive(Default)]
struct Names {
    module: Vec<String>,
    paths: Vec<Written>,
    aliases: BTreeMap<String, Vec<String>>,
    modules: Vec<(String, usize)>,
    test_modules: Vec<Vec<String>>,
    test_lines: usize,
    calls: Vec<(String, usize)>,
    literals: Vec<(String, usize)>,
}

/// Whether what carries these is compiled for tests only.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    fn only_tests(meta: &Meta) -> bool {
        let Meta::List(list) = meta else { return meta.path().is_ident("test") };
        let inner = list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .unwrap_or_default();
        if list.path.is_ident("any") {
            !inner.is_empty() && inner.iter().all(only_tests)
        } else {
            (list.path.is_ident("all") || list.path.is_ident("cfg")) && inner.iter().any(only_tests)
        }
    }
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let marked = path.segments.last().is_some_and(|last| last.ident == "test");
        marked || (path.is_ident("cfg") && only_tests(&attribute.meta))
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item;
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Each path that a `use` brings in, with the name it goes by from there on.
fn flatten(tree: &syn::UseTree, prefix: &[String], out: &mut Vec<(Vec<String>, String)>) {
    let with = |name: &syn::Ident| match name.to_string().as_str() {
        "self" if !prefix.is_empty() => prefix.to_vec(),
        name => [prefix, &[name.to_owned()]].concat(),
    };
    match tree {
        syn::UseTree::Path(path) => flatten(&path.tree, &with(&path.ident), out),
        syn::UseTree::Name(name) => {
            let path = with(&name.ident);
            let last = path.last().cloned().unwrap_or_default();
            out.push((path, last));
        }
        syn::UseTree::Rename(name) => out.push((with(&name.ident), name.rename.to_string())),
        syn::UseTree::Glob(_) => out.push(([prefix, &["*".to_owned()]].concat(), String::new())),
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|item| flatten(item, prefix, out));
        }
    }
}

impl Names {
    fn of(source: &Source) -> Self {
        let file = syn::parse_file(&source.text).unwrap();
        let mut names = Self { module: source.module(), ..Self::default() };
        names.visit_file(&file);
        names
    }

    fn write(&mut self, global: bool, path: Vec<String>, line: usize) {
        self.paths.push(Written { global, path, module: self.module.clone(), line });
    }

    /// Macros take tokens, which are no paths or calls yet.
    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, mark: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == mark);
        let joined = |at: usize| is(at, ':') && is(at + 1, ':');
        let mut at = 0;
        while at < tokens.len() {
            let line = tokens[at].span().start().line;
            match &tokens[at] {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Literal(literal) => self.keep(&syn::Lit::new(literal.clone()), line),
                TokenTree::Ident(first) => {
                    if at > 0 && is(at - 1, '.') {
                        self.calls.push((first.to_string(), line));
                    }
                    let global = at > 1 && joined(at - 2);
                    let mut path = vec![first.to_string()];
                    while joined(at + 1)
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if path.len() > 1 {
                        self.write(global, path, line);
                    }
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }

    fn keep(&mut self, literal: &syn::Lit, line: usize) {
        match literal {
            syn::Lit::Str(text) => self.literals.push((text.value(), line)),
            syn::Lit::ByteStr(text) => {
                self.literals.push((String::from_utf8_lossy(&text.value()).into_owned(), line));
            }
            _ => {}
        }
    }

    /// Where a path leads: rooms and what they hold (after `crate`), or a crate and what it holds.
    fn resolve(&self, written: &Written, crates: &BTreeSet<String>) -> Option<Way> {
        let (first, rest) = written.path.split_first()?;
        if written.global {
            return Some(Way::Out(written.path.clone()));
        }
        match first.as_str() {
            "crate" => return Some(Way::In(rest.to_vec())),
            "self" | "super" => {
                let mut module = written.module.clone();
                let mut rest = written.path.as_slice();
                while let [first, others @ ..] = rest
                    && matches!(first.as_str(), "self" | "super")
                {
                    if first == "super" {
                        module.pop();
                    }
                    rest = others;
                }
                return Some(Way::In([&module, rest].concat()));
            }
            _ => {}
        }
        if let Some(meant) = self.aliases.get(first)
            && meant.first() != Some(first)
        {
            let path = [meant.as_slice(), rest].concat();
            // An alias of an alias is judged where it is made.
            if path.first().is_some_and(|first| !self.aliases.contains_key(first)) {
                let module = written.module.clone();
                return self.resolve(&Written { global: false, path, module, line: 0 }, crates);
            }
        }
        if self.modules.iter().any(|(name, _)| name == first) {
            return Some(Way::In([&written.module, written.path.as_slice()].concat()));
        }
        crates.contains(first).then(|| Way::Out(written.path.clone()))
    }
}

#[derive(Debug)]
enum Way {
    In(Vec<String>),
    Out(Vec<String>),
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test(attributes(item)) {
            return syn::visit::visit_item(self, item);
        }
        self.test_lines += item.span().end().line + 1 - item.span().start().line;
        if let syn::Item::Mod(item) = item
            && item.content.is_none()
        {
            self.test_modules.push([&self.module[..], &[item.ident.to_string()]].concat());
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_test(&item.attrs) {
            self.test_lines += item.span().end().line + 1 - item.span().start().line;
        } else {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.modules.push((item.ident.to_string(), item.span().start().line));
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.write(true, vec![item.ident.to_string()], item.span().start().line);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut found = Vec::new();
        flatten(&item.tree, &[], &mut found);
        for (path, alias) in found {
            if !alias.is_empty() {
                self.aliases.insert(alias, path.clone());
            }
            self.write(item.leading_colon.is_some(), path, item.span().start().line);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if names.len() > 1 {
            self.write(path.leading_colon.is_some(), names, path.span().start().line);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        if let Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
        syn::visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.scan(called.tokens.clone());
        syn::visit::visit_macro(self, called);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.calls.push((call.method.to_string(), call.method.span().start().line));
        syn::visit::visit_expr_method_call(self, call);
    }

    fn visit_lit(&mut self, literal: &'ast syn::Lit) {
        self.keep(literal, literal.span().start().line);
    }
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
        for written in &names.paths {
            let place = format!("{name}:{}", written.line);
            match names.resolve(written, &crates) {
                Some(Way::In(path)) => judge_room(&place, &room, allowed, &path, &mut broken),
                Some(Way::Out(path)) => judge_crate(&place, &room, &path, &mut broken),
                None => {}
            }
        }
    }
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
fn one_tls_stack_and_one_of_each_engine() {
    let broken = judge_lock(&read("Cargo.lock"));
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// An exception that nobody needs any more, or a crate that is gone, would only hide a mistake.
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
    for clock in CLOCKS {
        assert!(sources.iter().any(|source| source.name() == *clock), "no file {clock}");
    }
}

fn planted(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.to_owned() }
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
        ("server/a.rs", "use crate::store::messages::Filtering;", "runs no statements"),
        ("cellar/a.rs", "", "no room cellar"),
        // crates
        ("app/a.rs", "use tokio_postgres::Row;", "tokio_postgres belongs to store, not to app"),
        ("app/a.rs", "use tokio_postgres as pg;", "tokio_postgres belongs to store"),
        ("app/a.rs", "extern crate warp;", "warp belongs to server"),
        ("app/a.rs", "fn a(b: &::reqwest::Client) {}", "reqwest belongs to client"),
        ("app/a.rs", "#[derive(clap::Parser)] struct A;", "clap belongs to cli"),
        ("app/a.rs", "fn a() { select! { _ = redis::cmd(b) => {} } }", "redis belongs to presence"),
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
    ] {
        let broken = judge(&[planted(path, text)]);
        assert!(broken.iter().any(|b| b.contains(wanted)), "{text}: {wanted}: {broken:?}");
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
        vec![planted("cli/a.rs", "use crate::config; fn a() { config::load(); }")],
        vec![planted("cli/mod.rs", "mod config; fn a() { config::load(); }")],
        vec![planted("config/a.rs", "use config::Config;")],
        vec![planted("server/a.rs", "use crate::store::messages::{Filter};")],
        vec![planted("store/a.rs", "const A: &str = \"select 1\";")],
        vec![planted("app/a.rs", "/// Select a message from `b`.unwrap()\nfn a() {}")],
        vec![planted("app/a.rs", "const A: &str = \"nothing to select or update\";")],
        vec![planted("app/commons.rs", "use super::auth::A; use std::time::Instant;")],
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
