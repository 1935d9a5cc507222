//! `mobile export` and `mobile erase`: everything stored about one phone number.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{audit_reason::AuditReason, transport::AdminClient};
use crate::{
    app::new_node,
    cache::Cache,
    cli::{
        io::{
            answer::{columns, read, unreadable},
            atomic_file::write_error,
            exit::{ExitStatus, Failure, confirm_typed},
            output::{self, Format},
            sanitize,
        },
        process::{backends, database},
        setup::Setup,
    },
    client::encode,
    redis::{Redis, RedisEvent, RedisSettings, RedisTarget},
    server::{
        reply::ProblemBody,
        view::privacy::{ErasedView, ErasureView, ProgressView},
    },
};

const ERASED: &[&str] = columns!(ErasedView<'_>: store, what, count);

/// Writes records, one per line or as one JSON array.
struct RecordSink<'a> {
    setup: &'a Setup,
    file: Option<(BufWriter<File>, PathBuf)>,
    array: bool,
    count: u64,
}

impl RecordSink<'_> {
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
                file.write_all(text.as_bytes()).map_err(|error| write_error(path, &error))
            }
            None => {
                self.setup.output.text(&sanitize::json(text.to_owned()));
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
            done.map_err(|error| write_error(path, &error))?;
        }
        Ok(self.count)
    }
}

/// Exports everything stored about a number.
pub(crate) async fn export(
    setup: &Setup,
    admin: &AdminClient,
    why: &AuditReason,
    phone: &str,
    to: Option<(File, PathBuf)>,
    place: Option<&Path>,
) -> Result<(), Failure> {
    let path = format!("/mobile-users/{}/export", encode(phone));
    let mut lines = admin.request_lines(why, "GET", &path, None).await.map_err(named)?;
    let mut sink = RecordSink {
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
        setup.output.note(&format!("wrote {count} records to {}", place.display()));
    }
    Ok(())
}

fn not_whole(failure: Failure) -> Failure {
    let what = format!("{}; the export is incomplete", failure.what);
    Failure { what, ..failure }
}

/// Erases everything stored about a number, or reports how much that would be.
pub(crate) async fn erase(
    setup: &Setup,
    admin: &AdminClient,
    why: &AuditReason,
    phone: &str,
    dry_run: bool,
    yes: bool,
) -> Result<(), Failure> {
    let path = format!("/mobile-users/{}/erase", encode(phone));
    if dry_run || !yes {
        let body = json!({ "dryRun": true });
        let mut lines =
            admin.request_lines(why, "POST", &path, Some(&body)).await.map_err(named)?;
        let found = parse(lines.next().await?)?;
        let erasure: ErasureView<'_> = read(&found)?;
        if dry_run {
            report(setup, &found, &erasure);
            return Ok(());
        }
        let messages = erasure.erased.iter().find(|rows| rows.what == "messages");
        let number = erasure.phone;
        let question = format!(
            "This permanently erases the mobile user {number}, {} messages and everything else stored about the number.",
            messages.map_or(0, |rows| rows.count)
        );
        confirm_typed(&question, number, yes)?;
    }
    let mut lines =
        admin.request_lines(why, "POST", &path, Some(&json!({}))).await.map_err(named)?;
    let mut bar = None;
    let done = loop {
        let Some(line) = lines.next().await.map_err(not_told)? else {
            return Err(not_told(Failure::new(
                ExitStatus::Unavailable,
                "the response ended early",
            )));
        };
        let line = parse(Some(line))?;
        let progress = match read(&line).map_err(not_told)? {
            ErasureLine::Progress(progress) => Some(progress),
            ErasureLine::Problem(_) | ErasureLine::Done(_) => None,
        };
        let Some(ProgressView { messages, gone }) = progress else { break line };
        bar.get_or_insert_with(|| output::progress(messages)).set_position(gone);
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let erasure = match read(&done)? {
        ErasureLine::Problem(problem) => {
            return Err(admin
                .failure(problem.status, &done)
                .hint("run the command again: it resumes where it stopped"));
        }
        ErasureLine::Done(erasure) => erasure,
        ErasureLine::Progress(_) => return Err(unreadable()),
    };
    let missed = erasure.missed.iter().map(|one| format!("{}: {}", one.store, one.why));
    let missed: Vec<String> = missed.collect();
    report(setup, &done, &erasure);
    if missed.is_empty() {
        return Ok(());
    }
    let what = format!("not erased from {}", missed.join("; "));
    Err(Failure::new(ExitStatus::Partly, what).hint("what is left there expires within an hour"))
}

/// A line of an erasure's answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErasureLine<'a> {
    Progress(ProgressView),
    Problem(#[serde(borrow)] ProblemBody<'a>),
    Done(#[serde(borrow)] ErasureView<'a>),
}

fn parse(line: Option<String>) -> Result<Value, Failure> {
    serde_json::from_str(&line.unwrap_or_default()).map_err(|_| unreadable())
}

/// The erasure started, and continues on the server whether anybody listens.
fn not_told(failure: Failure) -> Failure {
    let what = format!("{}; the erasure started and may still be running", failure.what);
    Failure::new(failure.kind, what)
        .hint("run the command again; exit status 4 means that nothing is left")
}

/// What erases a number on this machine: the database, and Redis if it is configured.
pub(crate) async fn open(setup: &Setup) -> Result<(AdminClient, Option<RedisSession>), Failure> {
    if let Some(there) = AdminClient::remote(setup)? {
        return Ok((there, None));
    }
    // Connected first: an unreachable Redis must not be found half way.
    let redis = match backends::redis_target(&setup.loaded.config)? {
        None => None,
        Some(target) => Some(RedisSession::to(target).await?),
    };
    let cache = redis.as_ref().map(|redis| Cache::Redis(redis.redis.clone()));
    match database::open_with(setup, cache.unwrap_or_default()).await {
        Ok(opened) => Ok((AdminClient::in_process(opened), redis)),
        Err(failure) => {
            if let Some(redis) = redis {
                redis.end().await;
            }
            Err(failure)
        }
    }
}

/// A connection to Redis for the time of one command.
pub(crate) struct RedisSession {
    redis: Redis,
    /// The connection ends when its receiver is dropped.
    heard: mpsc::Receiver<RedisEvent>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

const REDIS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

impl RedisSession {
    async fn to(target: RedisTarget) -> Result<RedisSession, Failure> {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let settings = RedisSettings { target, node: new_node(), sealer: None };
        let (redis, heard) = Redis::start(settings, &tracker, &stop);
        if redis.ready(REDIS_TIMEOUT).await.is_err() {
            stop.cancel();
            let what = format!("Redis does not answer: {}", redis.why_down());
            return Err(Failure::new(ExitStatus::Unavailable, what).hint("run: esh3ar doctor"));
        }
        Ok(RedisSession { redis, heard, tracker, stop })
    }

    /// Closes the connection.
    pub(crate) async fn end(self) {
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
        "nothing was erased; omit --dry-run to erase"
    } else {
        "erased; older backups still contain the data: erase again after restoring one"
    });
}

fn named(failure: Failure) -> Failure {
    match failure.kind {
        ExitStatus::NotFound => failure.hint("list numbers with: esh3ar mobile list"),
        _ => failure,
    }
}
