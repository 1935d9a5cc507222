//! `/admin/mobile-users/{phone}/export` and `/erase`: all data of a phone number.

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
        context::{RequestContext, SharedContext},
        json_lines::{self, Disconnected, JsonLines},
        reply::{self, Problem, answer},
        view::privacy::{ErasureView, EventView, ExportRecord, ProgressView},
    },
};

/// Interval of progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with dryRun")]
#[schema(as = ErasureRequest)]
pub(in crate::server) struct EraseBody {
    /// Count only; erase nothing.
    #[serde(default)]
    dry_run: bool,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

/// `GET /admin/mobile-users/{phone}/export`.
pub async fn export(phone: String, context: SharedContext) -> Response {
    answer(try_export(&phone, &context).await)
}

async fn try_export(phone: &str, context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let phone =
        context.app.identity.parse_stored_phone("phone", &segment(phone, "mobile user")?)?;
    context.app.admin.begin_export(&by, &phone).await.map_err(named)?;
    let app = context.app.clone();
    let (lines, response) = json_lines::lines();
    // Ends when the client stops reading.
    tokio::spawn(async move {
        match write(&app, &phone, &lines).await {
            Ok(()) => lines.finish(),
            Err(Stop::Disconnected) => {
                tracing::info!("export aborted: the client disconnected or stopped reading");
            }
            Err(Stop::Failed(error)) => tracing::warn!(%error, "export failed"),
        }
    });
    Ok(response)
}

/// Why an export was aborted.
enum Stop {
    Disconnected,
    Failed(Error),
}

impl From<Disconnected> for Stop {
    fn from(_: Disconnected) -> Self {
        Stop::Disconnected
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

async fn write(app: &App, phone: &Phone, lines: &JsonLines) -> Result<(), Stop> {
    // Messages may have been sent to a number without a user.
    if let Some(user) = app.admin.mobile_of(phone).await? {
        lines.write(&ExportRecord::from(&user)).await?;
    }
    let (devices, trace) = app.admin.devices_and_trace(phone).await?;
    if let Some(trace) = &trace {
        lines.write(&ExportRecord::from(trace)).await?;
    }
    for device in &devices {
        lines.write(&ExportRecord::from(device)).await?;
    }
    for registration in &app.admin.registrations_of_phone(phone).await? {
        lines.write(&ExportRecord::from(registration)).await?;
    }
    let (letters, tokens) = app.admin.dead_letters_and_tokens(phone).await?;
    for token in &tokens {
        lines.write(&ExportRecord::from(token)).await?;
    }
    for letter in &letters {
        lines.write(&ExportRecord::DeadLetter { letter: letter.into() }).await?;
    }
    let mut after = None;
    loop {
        let (page, next) = app.admin.one_way_of_phone(phone, after).await?;
        messages(app, &page, lines).await?;
        let Some(last) = next else { break };
        after = Some(last);
    }
    for conversation in &app.admin.conversations_of_phone(phone).await? {
        lines.write(&ExportRecord::Conversation { conversation: conversation.into() }).await?;
        let mut seq = 0;
        loop {
            let page = app.admin.history_after(conversation.id, seq).await?;
            let Some(place) = page.last().and_then(|message| message.position) else { break };
            messages(app, &page, lines).await?;
            seq = place.seq;
        }
    }
    Ok(())
}

async fn messages(app: &App, page: &[Message], lines: &JsonLines) -> Result<(), Stop> {
    let ids: Vec<_> = page.iter().map(|message| message.id).collect();
    let events = app.admin.events_of(&ids).await?;
    for message in page {
        let of_it = events.iter().filter(|(id, _)| *id == message.id).map(|(_, event)| event);
        let events = of_it.map(EventView::from).collect();
        lines.write(&ExportRecord::Message { message: message.into(), events }).await?;
    }
    Ok(())
}

/// `POST /admin/mobile-users/{phone}/erase`.
pub async fn erase(phone: String, context: SharedContext) -> Response {
    answer(try_erase(&phone, &context).await)
}

async fn try_erase(phone: &str, context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let phone =
        context.app.identity.parse_stored_phone("phone", &segment(phone, "mobile user")?)?;
    let body: EraseBody =
        if context.body.is_empty() { EraseBody::default() } else { context.json()? };
    let by = because(by, body.reason.as_deref())?;
    if body.dry_run {
        let counts = context.app.admin.preview_erasure(&by, &phone).await.map_err(named)?;
        return Ok(json_lines::one(&ErasureView::preview(&phone, &counts)));
    }
    let erasure = context.app.admin.begin_erasure(&by, &phone).await.map_err(named)?;
    let (lines, response) = json_lines::lines();
    // Continues if the client disconnects.
    tokio::spawn(run(erasure, phone, lines));
    Ok(response)
}

async fn run(erasure: Erasure, phone: Phone, lines: JsonLines) {
    let messages = u64::try_from(erasure.found().messages).unwrap_or_default();
    let gone = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&gone);
    let mut erasing = Box::pin(erasure.run(move |count| told.store(count, Ordering::Relaxed)));
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let done = loop {
        tokio::select! {
                    done = &mut erasing => break done,
                    _ = ticks.tick() => {
        // A client that does not read must not delay the erasure.
        lines.try_write(&ProgressView{
        messages, gone:gone.load(Ordering::Relaxed)}
        );
                    }
                }
    };
    let told = match done {
        Ok(done) => lines.write(&ErasureView::done(&phone, &done)).await,
        Err(error) => {
            tracing::warn!(%error, "erasure failed; repeat the request to continue it");
            lines.write(&Problem::from(error).to_json()).await
        }
    };
    // The client may have disconnected; the audit log has the result.
    if told.is_ok() {
        lines.finish();
    }
}

fn named(error: Error) -> Problem {
    match error {
        Error::NotFound(_) => Problem::new(
            StatusCode::NOT_FOUND,
            reply::classify(&error).1,
            "no data is stored for this phone number",
        ),
        other => other.into(),
    }
}
