//! `mobile export` and `mobile erase`: everything of one phone number.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Setup, cluster,
    exit::{Failure, Kind, confirm_typed},
    output,
    output::Format,
    written::unwritten,
};
use crate::{
    app::{App, By, Error, new_node, personal::Counts},
    cache::{Redis, RedisSettings},
    domain::{Message, Phone},
    server::view::{DeadLetterView, MessageView, WholeConversationView},
    store::story::Event,
};

/// How long Redis may take to answer.
const REDIS_PATIENCE: Duration = Duration::from_secs(3);

/// Something that is stored of the number, as it is written out.
#[derive(Serialize)]
#[serde(tag = "record", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Record<'a> {
    MobileUser {
        id: uuid::Uuid,
        phone: &'a str,
        status: &'static str,
        #[serde(with = "time::serde::rfc3339")]
        created_at: OffsetDateTime,
    },
    Presence {
        #[serde(with = "time::serde::rfc3339")]
        connected_at: OffsetDateTime,
        #[serde(with = "time::serde::rfc3339::option")]
        disconnected_at: Option<OffsetDateTime>,
        disconnect_reason: Option<&'a str>,
    },
    Device {
        id: uuid::Uuid,
        token: &'a str,
        platform: &'static str,
        active: bool,
        #[serde(with = "time::serde::rfc3339")]
        created_at: OffsetDateTime,
        #[serde(with = "time::serde::rfc3339::option")]
        last_used_at: Option<OffsetDateTime>,
    },
    /// Never the token itself: it is not stored.
    Token {
        id: uuid::Uuid,
        #[serde(with = "time::serde::rfc3339")]
        created_at: OffsetDateTime,
        #[serde(with = "time::serde::rfc3339::option")]
        expires_at: Option<OffsetDateTime>,
        #[serde(with = "time::serde::rfc3339::option")]
        revoked_at: Option<OffsetDateTime>,
    },
    Conversation(WholeConversationView<'a>),
    Message {
        #[serde(flatten)]
        message: MessageView<'a>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        events: Vec<EventView<'a>>,
    },
    DeadLetter(DeadLetterView<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventView<'a> {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
}

/// Where the records go: a line each, or one JSON array.
struct Sink<'a> {
    setup: &'a Setup,
    file: Option<(BufWriter<File>, PathBuf)>,
    array: bool,
    count: u64,
}

impl Sink<'_> {
    fn put(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let json = serde_json::to_string(record).unwrap_or_default();
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
                self.setup.output.text(text);
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
    app: &App,
    by: &By,
    phone: &Phone,
    to: Option<(File, PathBuf)>,
    place: Option<&Path>,
) -> Result<(), Failure> {
    app.begin_export(by, phone).await.map_err(named)?;
    let mut sink = Sink {
        setup,
        file: to.map(|(file, path)| (BufWriter::new(file), path)),
        array: setup.output.format() == Format::Json,
        count: 0,
    };
    itself(app, phone, &mut sink).await?;
    let mut after = None;
    loop {
        let (page, next) = app.one_way_of_phone(phone, after).await?;
        messages(app, &page, &mut sink).await?;
        let Some(last) = next else { break };
        after = Some(last);
    }
    for conversation in app.conversations_of_phone(phone).await? {
        sink.put(&Record::Conversation((&conversation).into()))?;
        let mut seq = 0;
        loop {
            let page = app.said_after(conversation.id, seq).await?;
            let Some(place) = page.last().and_then(|message| message.place) else { break };
            messages(app, &page, &mut sink).await?;
            seq = place.seq;
        }
    }
    let count = sink.end()?;
    if let Some(place) = place {
        setup.output.note(&format!("{count} records are in {}", place.display()));
    }
    Ok(())
}

async fn itself(app: &App, phone: &Phone, sink: &mut Sink<'_>) -> Result<(), Failure> {
    // Messages may have been sent to it all the same.
    if let Some(user) = app.mobile_of(phone).await? {
        sink.put(&Record::MobileUser {
            id: user.id.0,
            phone: phone.as_str(),
            status: user.status.name(),
            created_at: user.created_at,
        })?;
    }
    let (devices, trace) = app.devices_and_trace(phone).await?;
    if let Some(trace) = &trace {
        sink.put(&Record::Presence {
            connected_at: trace.connected_at,
            disconnected_at: trace.disconnected_at,
            disconnect_reason: trace.disconnect_reason.as_deref(),
        })?;
    }
    for device in &devices {
        sink.put(&Record::Device {
            id: device.id,
            token: &device.token,
            platform: match device.platform {
                0 => "android",
                1 => "ios",
                _ => "web",
            },
            active: device.active,
            created_at: device.created_at,
            last_used_at: device.last_used_at,
        })?;
    }
    let (letters, tokens) = app.letters_and_tokens(phone).await?;
    for token in tokens {
        sink.put(&Record::Token {
            id: token.id.0,
            created_at: token.created_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
        })?;
    }
    for letter in &letters {
        sink.put(&Record::DeadLetter(letter.into()))?;
    }
    Ok(())
}

async fn messages(app: &App, page: &[Message], sink: &mut Sink<'_>) -> Result<(), Failure> {
    let ids: Vec<_> = page.iter().map(|message| message.id).collect();
    let events = app.events_of(&ids).await?;
    for message in page {
        let of_it = events.iter().filter(|(id, _)| *id == message.id).map(|(_, event)| event);
        let view = |event: &'_ Event| (event.at, event.kind.clone(), event.detail.clone());
        let kept: Vec<_> = of_it.map(view).collect();
        let events =
            kept.iter().map(|(at, kind, detail)| EventView { at: *at, kind, detail }).collect();
        sink.put(&Record::Message { message: message.into(), events })?;
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Erased {
    phone: String,
    dry_run: bool,
    erased: Vec<Line>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    store: &'static str,
    what: &'static str,
    count: u64,
}

fn lines(counts: &Counts) -> Vec<Line> {
    let count = |count: i64| u64::try_from(count).unwrap_or_default();
    counts
        .named()
        .into_iter()
        .map(|(what, n)| Line { store: "database", what, count: count(n) })
        .collect()
}

/// Erases everything of a number, or says how much it would be.
pub(super) async fn erase(
    setup: &Setup,
    app: &App,
    by: &By,
    phone: &Phone,
    dry_run: bool,
    yes: bool,
) -> Result<(), Failure> {
    let mut counts = app.count_of_phone(phone).await.map_err(named)?;
    if dry_run {
        counts.idempotency_keys = app.keys_of_phone(phone).await?;
        report(setup, phone, true, lines(&counts));
        return Ok(());
    }
    let question = format!(
        "This erases the mobile user {}, {} messages and everything else of it for good.",
        phone.as_str(),
        counts.messages
    );
    confirm_typed(&question, phone.as_str(), yes)?;
    // First looked for: what cannot be reached must not be found out half way.
    let redis = match cluster::target(&setup.loaded.config)? {
        None => None,
        Some(target) => Some(Connected::to(target).await?),
    };
    let bar = output::progress(u64::try_from(counts.messages).unwrap_or_default());
    let erased = app.erase_phone(by, phone, |done| bar.set_position(done)).await?;
    bar.finish_and_clear();
    let mut lines = lines(&erased);
    let mut missed = None;
    if let Some(redis) = redis {
        match app.erase_phone_from(&redis.redis, phone).await {
            Ok((party, pages)) => lines.extend([
                Line { store: "redis", what: "presence and rates", count: party },
                Line { store: "redis", what: "pages kept, of everybody", count: pages },
            ]),
            Err(error) => missed = Some(error),
        }
        redis.end().await;
    }
    report(setup, phone, false, lines);
    match missed {
        None => Ok(()),
        Some(error) => Err(Failure::new(Kind::Partly, format!("not erased from Redis: {error}"))
            .hint("what it has of the number ends by itself within an hour")),
    }
}

struct Connected {
    redis: Redis,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Connected {
    async fn to(target: crate::cache::Target) -> Result<Connected, Failure> {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let settings = RedisSettings { target, node: new_node() };
        let (redis, _) = Redis::start(settings, &tracker, &stop);
        if redis.ready(REDIS_PATIENCE).await.is_err() {
            stop.cancel();
            let what = format!("Redis does not answer: {}", redis.why_down());
            return Err(Failure::new(Kind::Unavailable, what).hint("run: esh3ar doctor"));
        }
        Ok(Connected { redis, tracker, stop })
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn report(setup: &Setup, phone: &Phone, dry_run: bool, lines: Vec<Line>) {
    if setup.output.is_table() {
        setup.output.records(&["store", "what", "count"], &lines);
        if dry_run {
            setup.output.note("nothing was erased; leave --dry-run out to do it");
        } else {
            setup.output.note(
                "erased; backups that were made before still have it: erase again after restoring one",
            );
        }
    } else {
        let phone = phone.as_str().to_owned();
        setup.output.record(&Erased { phone, dry_run, erased: lines });
    }
}

fn named(error: Error) -> Failure {
    match error {
        Error::NotFound(_) => Failure::new(Kind::NotFound, "nothing is stored of this number")
            .hint("numbers are shown by: esh3ar mobile list"),
        other => other.into(),
    }
}
