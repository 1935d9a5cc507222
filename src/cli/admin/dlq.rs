//! `dlq`: list, requeue and delete dead letters.

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    audit_reason::{AuditReason, BecauseArg},
    query::{self, Query},
    transport::AdminClient,
};
use crate::{
    app::delivery::dead_letters::DeadLetterAction,
    cli::{
        io::{
            answer::{columns, read},
            exit::{ExitStatus, Failure, confirm},
            output,
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Runnable, Spec},
    },
    client::encode,
    domain::DeadLetterId,
    server::view::{
        DeadLetterView,
        bulk::{ChangedView, MatchedView},
    },
};

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        which: DeadLetterFilterArgs,
        /// Maximum number of dead letters
        #[arg(long, default_value_t = 50, value_parser = super::query::limit)]
        limit: usize,
        #[command(flatten)]
        why: BecauseArg,
    },
    /// Show a dead letter
    Show {
        /// Dead letter id
        id: String,
        #[command(flatten)]
        why: BecauseArg,
    },
    /// Requeue dead letters: their messages are delivered again
    Requeue {
        /// Dead letter ids
        ids: Vec<String>,
        #[command(flatten)]
        which: DeadLetterFilterArgs,
        #[command(flatten)]
        how: BulkArgs,
        #[command(flatten)]
        why: BecauseArg,
    },
    /// Delete dead letters: their messages stay failed
    Delete {
        /// Dead letter ids
        ids: Vec<String>,
        #[command(flatten)]
        which: DeadLetterFilterArgs,
        #[command(flatten)]
        how: BulkArgs,
        #[command(flatten)]
        why: BecauseArg,
    },
}

#[derive(Debug, Default, Args)]
pub(crate) struct DeadLetterFilterArgs {
    /// Only dead letters with this text in the reason
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only dead letters of this kind, such as delivery, push or mail
    #[arg(long)]
    kind: Option<String>,
    /// Only dead letters of this class: recipient, provider, content or system
    #[arg(long)]
    class: Option<String>,
    /// Only dead letters that failed since this age (30m, 24h, 7d) or RFC 3339 time
    #[arg(long, value_name = "AGE")]
    since: Option<String>,
    /// Only dead letters of messages to this phone number
    #[arg(long, value_name = "NUMBER")]
    recipient: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BulkArgs {
    /// All dead letters
    #[arg(long)]
    all: bool,
    /// Only report how many match
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

impl Runnable for DlqCommand {
    fn spec(&self) -> Spec {
        Spec::ADMIN
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self).await })
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    matched: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    requeued: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<u64>,
    skipped: Vec<uuid::Uuid>,
    failed: Vec<uuid::Uuid>,
    /// Whether a call failed before the end.
    #[serde(skip)]
    interrupted: bool,
}

const COLUMNS: &[&str] =
    columns!(DeadLetterView<'_>: id, kind, class, to, reason, attempts, last_error_at);
/// The most that one call changes.
const BATCH_SIZE: usize = 1000;

async fn run(setup: &Setup, command: DlqCommand) -> Result<(), Failure> {
    let admin = AdminClient::open(setup).await?;
    let result = act(setup, &admin, command).await;
    admin.close(result).await
}

async fn act(setup: &Setup, admin: &AdminClient, command: DlqCommand) -> Result<(), Failure> {
    match command {
        DlqCommand::List { which, limit, why } => {
            let since = which.since.as_deref().map(query::since).transpose()?;
            let query = Query::default()
                .with_some("reason", which.reason)
                .with_some("kind", which.kind)
                .with_some("class", which.class)
                .with_some("since", since)
                .with_some("recipient", which.recipient);
            let (found, _) = admin.list(&why.into(), "/dead-letters", &query, limit).await?;
            setup.output.records(COLUMNS, &found);
            Ok(())
        }
        DlqCommand::Show { id, why } => {
            let place = format!("/dead-letters/{}", encode(&id));
            let found = admin.get(&why.into(), &place).await;
            let letter = found.map_err(|failure| named(failure, &id))?;
            setup.output.record(&letter);
            if let DeadLetterView { message_id: Some(message), .. } = read(&letter)? {
                setup.output.note(&format!("details: esh3ar message explain {message}"));
            }
            Ok(())
        }
        DlqCommand::Requeue { ids, which, how, why } => {
            change(setup, admin, DeadLetterAction::Requeue, ids, which, &how, &why.into()).await
        }
        DlqCommand::Delete { ids, which, how, why } => {
            change(setup, admin, DeadLetterAction::Delete, ids, which, &how, &why.into()).await
        }
    }
}

impl DeadLetterFilterArgs {
    fn names_any(&self) -> bool {
        // The empty text matches every reason: a variable that a script forgot to set.
        self.reason.as_ref().is_some_and(|text| !text.trim().is_empty())
            || self.kind.is_some()
            || self.class.is_some()
            || self.since.is_some()
            || self.recipient.is_some()
    }
}

async fn change(
    setup: &Setup,
    admin: &AdminClient,
    action: DeadLetterAction,
    ids: Vec<String>,
    which: DeadLetterFilterArgs,
    how: &BulkArgs,
    why: &AuditReason,
) -> Result<(), Failure> {
    let verb = match action {
        DeadLetterAction::Requeue => "requeue",
        DeadLetterAction::Delete => "delete",
    };
    if ids.is_empty() && !which.names_any() && !how.all {
        return Err(Failure::new(ExitStatus::Usage, format!("choose the dead letters to {verb}"))
            .hint("use ids, --reason, --kind, --class, --since, --recipient or --all"));
    }
    for id in &ids {
        if id.parse::<DeadLetterId>().is_err() {
            return Err(unknown(id));
        }
    }
    let since = which.since.as_deref().map(query::since).transpose()?;
    let filter = json!({
        "reason": which.reason, "kind": which.kind, "class": which.class, "since": since,
        "recipient": which.recipient, "all": how.all,
    });
    // A call takes BATCH_SIZE ids; without ids, each call continues where the previous one ended.
    let calls: Vec<Value> = if ids.is_empty() {
        vec![filter]
    } else {
        let with = |chunk: &[String]| {
            let mut body = filter.clone();
            body["ids"] = chunk.into();
            body
        };
        ids.chunks(BATCH_SIZE).map(with).collect()
    };
    let place = format!("/dead-letters/{verb}");
    let mut matched = 0;
    for call in &calls {
        let mut body = call.clone();
        body["dryRun"] = true.into();
        let answer = admin.request(why, "POST", &place, Some(&body)).await?;
        matched += read::<MatchedView>(&answer)?.matched;
    }
    if how.dry_run {
        setup.output.record(&json!({ "dryRun": true, "matched": matched }));
        return Ok(());
    }
    if matched == 0 {
        if ids.is_empty() {
            setup.output.record(&Summary::of(action));
            return Ok(());
        }
        return Err(Failure::new(ExitStatus::NotFound, "no such dead letter")
            .hint("list ids with: esh3ar dlq list"));
    }
    // Ids were chosen one by one; a filter may match more than expected, and deleting is permanent.
    if ids.is_empty() || action == DeadLetterAction::Delete {
        let letters = if matched == 1 { "dead letter" } else { "dead letters" };
        confirm(&format!("{verb} {matched} {letters}?"), how.yes)?;
    }
    let bar = output::progress(matched);
    let mut summary = Summary::of(action);
    for call in calls {
        if summary.interrupted {
            break;
        }
        change_all(admin, why, &place, call, &mut summary, &bar).await?;
    }
    bar.finish_and_clear();
    setup.output.record(&summary);
    // After an interruption it is unknown whether the rest exists.
    let missing =
        if summary.interrupted { 0 } else { (ids.len() as u64).saturating_sub(summary.matched) };
    if summary.failed.is_empty() && !summary.interrupted && missing == 0 {
        return Ok(());
    }
    let done = summary.requeued.or(summary.deleted).unwrap_or_default();
    let what = if summary.interrupted {
        format!("{done} done, the rest could not be reached")
    } else {
        format!("{done} done, {} failed, {missing} not found", summary.failed.len())
    };
    Err(Failure::new(ExitStatus::Partly, what).hint("run the command again; nothing is done twice"))
}

/// Repeats the call until nothing is left; reports what was done before a failure.
async fn change_all(
    admin: &AdminClient,
    why: &AuditReason,
    place: &str,
    mut body: Value,
    summary: &mut Summary,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    loop {
        let answer = match admin.request(why, "POST", place, Some(&body)).await {
            Ok(answer) => answer,
            Err(failure) if summary.matched == 0 => return Err(failure),
            Err(_) => {
                summary.interrupted = true;
                return Ok(());
            }
        };
        let changed: ChangedView = read(&answer)?;
        let (more, next) = (changed.more, changed.next.clone());
        summary.add(changed);
        bar.set_position(summary.matched);
        if !more {
            return Ok(());
        }
        let Some(next) = next else {
            summary.interrupted = true;
            return Ok(());
        };
        body["after"] = next.into();
    }
}

impl Summary {
    fn of(action: DeadLetterAction) -> Summary {
        Summary {
            requeued: (action == DeadLetterAction::Requeue).then_some(0),
            deleted: (action == DeadLetterAction::Delete).then_some(0),
            ..Summary::default()
        }
    }

    fn add(&mut self, changed: ChangedView) {
        self.matched += changed.matched;
        if let Some(requeued) = &mut self.requeued {
            *requeued += changed.requeued.unwrap_or_default();
        }
        if let Some(deleted) = &mut self.deleted {
            *deleted += changed.deleted.unwrap_or_default();
        }
        self.skipped.extend(changed.skipped);
        self.failed.extend(changed.failed);
    }
}

fn named(failure: Failure, id: &str) -> Failure {
    if failure.kind == ExitStatus::NotFound { unknown(id) } else { failure }
}

fn unknown(id: &str) -> Failure {
    Failure::new(ExitStatus::NotFound, format!("no such dead letter: {id}"))
        .hint("list ids with: esh3ar dlq list")
}
