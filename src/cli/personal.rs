//! `mobile export` and `mobile erase`: everything of one phone number.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Setup,
    answer::{columns, read, unreadable},
    cluster,
    exit::{Failure, Kind, confirm_typed},
    opened, output,
    output::Format,
    remote::Admin,
    shown,
    why::Why,
    written::unwritten,
};
use crate::{
    app::new_node,
    cache::Cache,
    client::encode,
    redis::{Redis, RedisEvent, RedisSettings, RedisTarget},
    server::{
        reply::ProblemBody,
        view::privacy::{ErasedView, ErasureView, ProgressView},
    },
};

const ERASED: &[&str] = columns!(ErasedView<'_>: store, what, count);

/// Where the records go: a line each, or one JSON array.
struct Sink<'a> {
    setup: &'a Setup,
    file: Option<(BufWriter<File>, PathBuf)>,
    array: bool,
    count: u64,
}

impl Sink<'_> {
    fn put(&mut self, json: &str) -> Result<(), Failure> {
        let text = match (self.array, self.count) {
            (false, _) => format!("{json}\n"),
            (true, 0) => format!("[{json}"),
            (true, _) => format!(",\n{json}"),
        };
        self.count += 1;
        self.text(&text)
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        match &mut self.file {
            Some((file, path)) => {
                file.write_all(text.as_bytes()).map_err(|error| unwritten(path, &error))
            }
            None => {
                self.setup.output.text(&shown::json(text.to_owned()));
                Ok(())
            }
        }
    }

    fn end(mut self) -> Result<u64, Failure> {
        if self.array {
            self.text(if self.count == 0 { "[]\n" } else { "]\n" })?;
        }
        if let Some((file, path)) = &mut self.file {
            let done = file.flush().and_then(|()| file.get_ref().sync_all());
            done.map_err(|error| unwritten(path, &error))?;
        }
        Ok(self.count)
    }
}

/// Writes out everything of a number.
pub(super) async fn export(
    setup: &Setup,
    admin: &Admin,
    why: &Why,
    phone: &str,
    to: Option<(File, PathBuf)>,
    place: Option<&Path>,
) -> Result<(), Failure> {
    let path = format!("/mobile-users/{}/export", encode(phone));
    let mut lines = admin.ask_lines(why, "GET", &path, None).await.map_err(named)?;
    let mut sink = Sink {
        setup,
        file: to.map(|(file, path)| (BufWriter::new(file), path)),
        array: setup.output.format() == Format::Json,
        count: 0,
    };
    while let Some(line) = lines.next().await.map_err(not_whole)? {
        sink.put(&line)?;
    }
    let count = sink.end()?;
    if let Some(place) = place {
        setup.output.note(&format!("{count} records are in {}", place.display()));
    }
    Ok(())
}

fn not_whole(failure: Failure) -> Failure {
    let what = format!("{}; what was written is not all there is", failure.what);
    Failure { what, ..failure }
}

/// Erases everything of a number, or says how much it would be.
pub(super) async fn erase(
    setup: &Setup,
    admin: &Admin,
    why: &Why,
    phone: &str,
    dry_run: bool,
    yes: bool,
) -> Result<(), Failure> {
    let path = format!("/mobile-users/{}/erase", encode(phone));
    if dry_run || !yes {
        let body = json!({ "dryRun": true });
        let mut lines = admin.ask_lines(why, "POST", &path, Some(&body)).await.map_err(named)?;
        let found = parse(lines.next().await?)?;
        let erasure: ErasureView<'_> = read(&found)?;
        if dry_run {
            report(setup, &found, &erasure);
            return Ok(());
        }
        let messages = erasure.erased.iter().find(|rows| rows.what == "messages");
        let number = erasure.phone;
        let question = format!(
            "This erases the mobile user {number}, {} messages and everything else of it for good.",
            messages.map_or(0, |rows| rows.count)
        );
        confirm_typed(&question, number, yes)?;
    }
    let mut lines = admin.ask_lines(why, "POST", &path, Some(&json!({}))).await.map_err(named)?;
    let mut bar = None;
    let done = loop {
        let Some(line) = lines.next().await.map_err(not_told)? else {
            return Err(not_told(Failure::new(Kind::Unavailable, "the answer has no end")));
        };
        let line = parse(Some(line))?;
        let progress = match read(&line).map_err(not_told)? {
            Line::Progress(progress) => Some(progress),
            Line::Problem(_) | Line::Done(_) => None,
        };
        let Some(ProgressView { messages, gone }) = progress else { break line };
        bar.get_or_insert_with(|| output::progress(messages)).set_position(gone);
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let erasure = match read(&done)? {
        Line::Problem(problem) => {
            return Err(admin
                .refused(problem.status, &done)
                .hint("run the same again: it goes on where it ended"));
        }
        Line::Done(erasure) => erasure,
        Line::Progress(_) => return Err(unreadable()),
    };
    let missed = erasure.missed.iter().map(|one| format!("{}: {}", one.store, one.why));
    let missed: Vec<String> = missed.collect();
    report(setup, &done, &erasure);
    if missed.is_empty() {
        return Ok(());
    }
    let what = format!("not erased from {}", missed.join("; "));
    Err(Failure::new(Kind::Partly, what)
        .hint("what it has of the number ends by itself within an hour"))
}

/// A line of an erasure's answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line<'a> {
    Progress(ProgressView),
    Problem(#[serde(borrow)] ProblemBody<'a>),
    Done(#[serde(borrow)] ErasureView<'a>),
}

fn parse(line: Option<String>) -> Result<Value, Failure> {
    serde_json::from_str(&line.unwrap_or_default()).map_err(|_| unreadable())
}

/// The erasure was begun, and goes on where it runs as long as that lives.
fn not_told(failure: Failure) -> Failure {
    let what = format!("{}; the erasure was begun, and may have gone on", failure.what);
    Failure::new(failure.kind, what).hint(
        "run the same again: what is erased is erased, and exit status 4 says that nothing is left",
    )
}

/// What erases a number on this machine: the database, and Redis where there is one.
pub(super) async fn open(setup: &Setup) -> Result<(Admin, Option<Connected>), Failure> {
    if let Some(there) = Admin::there(setup)? {
        return Ok((there, None));
    }
    // First looked for: what cannot be reached must not be found out half way.
    let redis = match cluster::target(&setup.loaded.config)? {
        None => None,
        Some(target) => Some(Connected::to(target).await?),
    };
    let cache = redis.as_ref().map(|redis| Cache::Redis(redis.redis.clone()));
    match opened::open_with(setup, cache.unwrap_or_default()).await {
        Ok(opened) => Ok((Admin::here(opened), redis)),
        Err(failure) => {
            if let Some(redis) = redis {
                redis.end().await;
            }
            Err(failure)
        }
    }
}

/// Redis, for as long as a command needs it.
pub(super) struct Connected {
    redis: Redis,
    /// The way to Redis ends when nobody would hear what is said to this process.
    heard: mpsc::Receiver<RedisEvent>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// How long Redis may take to answer.
const REDIS_PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

impl Connected {
    async fn to(target: RedisTarget) -> Result<Connected, Failure> {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let settings = RedisSettings { target, node: new_node() };
        let (redis, heard) = Redis::start(settings, &tracker, &stop);
        if redis.ready(REDIS_PATIENCE).await.is_err() {
            stop.cancel();
            let what = format!("Redis does not answer: {}", redis.why_down());
            return Err(Failure::new(Kind::Unavailable, what).hint("run: esh3ar doctor"));
        }
        Ok(Connected { redis, heard, tracker, stop })
    }

    /// Closes the way to it.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        drop(self.heard);
    }
}

fn report(setup: &Setup, answer: &Value, erasure: &ErasureView<'_>) {
    if !setup.output.is_table() {
        return setup.output.record(answer);
    }
    setup.output.records(ERASED, &erasure.erased);
    setup.output.note(if erasure.dry_run {
        "nothing was erased; leave --dry-run out to do it"
    } else {
        "erased; backups that were made before still have it: erase again after restoring one"
    });
}

fn named(failure: Failure) -> Failure {
    match failure.kind {
        Kind::NotFound => failure.hint("numbers are shown by: esh3ar mobile list"),
        _ => failure,
    }
}
