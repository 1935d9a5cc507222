//! `/admin/mobile-users/{phone}/export` and `/erase`: everything of one phone number.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use serde::Deserialize;
use warp::reply::Response;

use super::{because, segment};
use crate::{
    app::{App, Error, admin::privacy::Erasure},
    domain::{Message, Phone},
    server::{
        context::{Context, Shared},
        reply::{self, Problem, answer},
        stream::{self, Gone, Lines},
        view::personal::{ErasureView, EventView, ProgressView, Record},
    },
};

/// How often somebody who waits for an erasure hears of it.
const TOLD_EVERY: Duration = Duration::from_millis(500);

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with dryRun")]
#[schema(as = ErasureRequest)]
pub(in crate::server) struct EraseBody {
    /// Only say how much it would be.
    #[serde(default)]
    dry_run: bool,
    reason: Option<String>,
}

/// `GET /admin/mobile-users/{phone}/export`.
pub async fn export(phone: String, context: Shared) -> Response {
    answer(try_export(&phone, &context).await)
}

async fn try_export(phone: &str, context: &Context) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let phone =
        context.app.identity.parse_stored_phone("phone", &segment(phone, "mobile user")?)?;
    context.app.admin.begin_export(&by, &phone).await.map_err(named)?;
    let app = context.app.clone();
    let (lines, response) = stream::lines();
    // Ends when it is told that nobody reads any more.
    tokio::spawn(async move {
        match write(&app, &phone, &lines).await {
            Ok(()) => lines.end(),
            Err(Stop::Gone) => {
                tracing::info!(
                    "who asked for an export went away, or did not read on, before its end"
                );
            }
            Err(Stop::Failed(error)) => tracing::warn!(%error, "an export broke off"),
        }
    });
    Ok(response)
}

/// Why writing ended before its end.
enum Stop {
    Gone,
    Failed(Error),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Stop::Gone
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

async fn write(app: &App, phone: &Phone, lines: &Lines) -> Result<(), Stop> {
    // Messages may have been sent to it all the same.
    if let Some(user) = app.admin.mobile_of(phone).await? {
        lines.put(&Record::from(&user)).await?;
    }
    let (devices, trace) = app.admin.devices_and_trace(phone).await?;
    if let Some(trace) = &trace {
        lines.put(&Record::from(trace)).await?;
    }
    for device in &devices {
        lines.put(&Record::from(device)).await?;
    }
    let (letters, tokens) = app.admin.dead_letters_and_tokens(phone).await?;
    for token in &tokens {
        lines.put(&Record::from(token)).await?;
    }
    for letter in &letters {
        lines.put(&Record::DeadLetter { letter: letter.into() }).await?;
    }
    let mut after = None;
    loop {
        let (page, next) = app.admin.one_way_of_phone(phone, after).await?;
        messages(app, &page, lines).await?;
        let Some(last) = next else { break };
        after = Some(last);
    }
    for conversation in &app.admin.conversations_of_phone(phone).await? {
        lines.put(&Record::Conversation { conversation: conversation.into() }).await?;
        let mut seq = 0;
        loop {
            let page = app.admin.history_after(conversation.id, seq).await?;
            let Some(place) = page.last().and_then(|message| message.place) else { break };
            messages(app, &page, lines).await?;
            seq = place.seq;
        }
    }
    Ok(())
}

async fn messages(app: &App, page: &[Message], lines: &Lines) -> Result<(), Stop> {
    let ids: Vec<_> = page.iter().map(|message| message.id).collect();
    let events = app.admin.events_of(&ids).await?;
    for message in page {
        let of_it = events.iter().filter(|(id, _)| *id == message.id).map(|(_, event)| event);
        let events = of_it.map(EventView::from).collect();
        lines.put(&Record::Message { message: message.into(), events }).await?;
    }
    Ok(())
}

/// `POST /admin/mobile-users/{phone}/erase`.
pub async fn erase(phone: String, context: Shared) -> Response {
    answer(try_erase(&phone, &context).await)
}

async fn try_erase(phone: &str, context: &Context) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let phone =
        context.app.identity.parse_stored_phone("phone", &segment(phone, "mobile user")?)?;
    let body: EraseBody =
        if context.body.is_empty() { EraseBody::default() } else { context.json()? };
    let by = because(by, body.reason.as_deref())?;
    if body.dry_run {
        let counts = context.app.admin.preview_erasure(&by, &phone).await.map_err(named)?;
        return Ok(stream::one(&ErasureView::preview(&phone, &counts)));
    }
    let erasure = context.app.admin.begin_erasure(&by, &phone).await.map_err(named)?;
    let (lines, response) = stream::lines();
    // Goes on to its end when whoever asked for it goes away.
    tokio::spawn(run(erasure, phone, lines));
    Ok(response)
}

async fn run(erasure: Erasure, phone: Phone, lines: Lines) {
    let messages = u64::try_from(erasure.found().messages).unwrap_or_default();
    let gone = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&gone);
    let mut erasing = Box::pin(erasure.run(move |count| told.store(count, Ordering::Relaxed)));
    let mut ticks = tokio::time::interval(TOLD_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let done = loop {
        tokio::select! {
            done = &mut erasing => break done,
            _ = ticks.tick() => {
                // Whoever does not listen must not keep the erasure waiting.
                lines.offer(&ProgressView { messages, gone: gone.load(Ordering::Relaxed) });
            }
        }
    };
    let told = match done {
        Ok(done) => lines.put(&ErasureView::done(&phone, &done)).await,
        Err(error) => {
            tracing::warn!(%error, "an erasure broke off; the same again goes on");
            lines.put(&Problem::from(error).to_json()).await
        }
    };
    // Nobody may be there any more to be told; the audit log has it.
    if told.is_ok() {
        lines.end();
    }
}

fn named(error: Error) -> Problem {
    match error {
        Error::NotFound(_) => Problem::new(
            StatusCode::NOT_FOUND,
            reply::classify(&error).1,
            "nothing is stored of this number",
        ),
        other => other.into(),
    }
}
