//! `dlq`: dead letters, listed, put back, deleted.

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{
    Setup,
    exit::{Failure, Kind, confirm},
    opened,
    why::Because,
};
use crate::{
    app::{
        App, By,
        dead_letters::{Action, Outcome},
    },
    config::duration,
    domain::{DeadLetterClass, DeadLetterId},
    server::view::{self, DeadLetterView},
    store::dead_letters::Filter,
};

#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    /// Dead letters, newest first
    List {
        #[command(flatten)]
        which: Which,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        why: Because,
    },
    /// One dead letter
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        why: Because,
    },
    /// Put back: the messages are delivered anew
    Requeue {
        /// Ids of dead letters
        ids: Vec<String>,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        why: Because,
    },
    /// Delete: the messages stay failed
    Delete {
        /// Ids of dead letters
        ids: Vec<String>,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        why: Because,
    },
}

#[derive(Debug, Default, Args)]
pub(super) struct Which {
    /// Only with this text in the reason
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only of this kind, such as delivery, push or mail
    #[arg(long)]
    kind: Option<String>,
    /// Only of this class: recipient, provider, content or system
    #[arg(long)]
    class: Option<String>,
    /// Only given up within this time, such as 30m, 24h or 7d, or since a time in RFC 3339
    #[arg(long, value_name = "AGE")]
    since: Option<String>,
    /// Only to this phone number
    #[arg(long, value_name = "NUMBER")]
    recipient: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct How {
    /// All there are
    #[arg(long)]
    all: bool,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    matched: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    requeued: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<usize>,
    skipped: Vec<uuid::Uuid>,
    failed: Vec<uuid::Uuid>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DryRun {
    dry_run: bool,
    matched: u64,
}

pub(super) async fn run(setup: &Setup, command: DlqCommand) -> Result<(), Failure> {
    let opened = opened::open(setup).await?;
    let result = act(setup, &opened.app, command).await;
    opened.close(result).await
}

async fn act(setup: &Setup, app: &App, command: DlqCommand) -> Result<(), Failure> {
    match command {
        DlqCommand::List { which, limit, why } => {
            let filter = which.filter(app, &[])?;
            let found =
                app.dead_letters(&setup.by_because(&why)?, &filter, limit.clamp(1, 10_000)).await?;
            let columns = ["id", "kind", "class", "to", "reason", "attempts", "lastErrorAt"];
            setup.output.records(&columns, &view::dead_letters(&found));
            Ok(())
        }
        DlqCommand::Show { id, why } => {
            let letter = app.dead_letter(&setup.by_because(&why)?, parse_id(&id)?).await?;
            setup.output.record(&DeadLetterView::from(&letter));
            if let Some(message) = letter.message {
                setup.output.note(&format!("the whole story: esh3ar message explain {message}"));
            }
            Ok(())
        }
        DlqCommand::Requeue { ids, which, how, why } => {
            change(setup, app, &setup.by_because(&why)?, Action::Requeue, &ids, &which, &how).await
        }
        DlqCommand::Delete { ids, which, how, why } => {
            change(setup, app, &setup.by_because(&why)?, Action::Delete, &ids, &which, &how).await
        }
    }
}

impl Which {
    fn names_any(&self) -> bool {
        // The empty text is in every reason: a variable that a script forgot to set.
        self.reason.as_ref().is_some_and(|text| !text.trim().is_empty())
            || self.kind.is_some()
            || self.class.is_some()
            || self.since.is_some()
            || self.recipient.is_some()
    }

    fn filter(&self, app: &App, ids: &[String]) -> Result<Filter, Failure> {
        let class = self.class.as_deref().map(|name| {
            DeadLetterClass::parse(name).ok_or_else(|| {
                let names = "the class is recipient, provider, content or system";
                Failure::new(Kind::Usage, names)
            })
        });
        let recipient = self.recipient.as_deref();
        Ok(Filter {
            ids: ids.iter().map(|id| parse_id(id)).collect::<Result<_, _>>()?,
            reason: self.reason.clone(),
            kind: self.kind.clone(),
            class: class.transpose()?,
            since: self.since.as_deref().map(|text| since(app, text)).transpose()?,
            recipient: recipient.map(|text| app.parse_phone("recipient", text)).transpose()?,
            before: None,
        })
    }
}

/// A time ago, or a time.
pub(super) fn since(app: &App, text: &str) -> Result<time::OffsetDateTime, Failure> {
    let format = &time::format_description::well_known::Rfc3339;
    if let Ok(time) = time::OffsetDateTime::parse(text, format) {
        return Ok(time);
    }
    let ago = duration::parse(text)
        .and_then(|ago| time::Duration::try_from(ago).ok())
        .and_then(|ago| app.clock().now().checked_sub(ago));
    ago.ok_or_else(|| {
        Failure::new(Kind::Usage, format!("'{text}' is neither a time nor a time ago"))
            .hint("write 30m, 24h, 7d, or 2026-01-31T12:00:00Z")
    })
}

async fn change(
    setup: &Setup,
    app: &App,
    by: &By,
    action: Action,
    ids: &[String],
    which: &Which,
    how: &How,
) -> Result<(), Failure> {
    let verb = match action {
        Action::Requeue => "requeue",
        Action::Delete => "delete",
    };
    if ids.is_empty() && !which.names_any() && !how.all {
        return Err(Failure::new(Kind::Usage, format!("say which dead letters to {verb}"))
            .hint("give ids, --reason, --kind, --class, --since, --recipient, or --all"));
    }
    let filter = which.filter(app, ids)?;
    let matched = app.count_dead_letters(&filter).await?;
    if how.dry_run {
        setup.output.record(&DryRun { dry_run: true, matched });
        return Ok(());
    }
    if matched == 0 {
        if ids.is_empty() {
            setup.output.record(&summary(action, &Outcome::default()));
            return Ok(());
        }
        return Err(Failure::new(Kind::NotFound, "there is no such dead letter")
            .hint("ids are shown by: esh3ar dlq list"));
    }
    // Ids were chosen one by one; a filter may match more than one thinks, and deleting is for good.
    if ids.is_empty() || action == Action::Delete {
        let letters = if matched == 1 { "dead letter" } else { "dead letters" };
        confirm(&format!("{verb} {matched} {letters}?"), how.yes)?;
    }
    let bar = progress(matched);
    let outcome = app
        .change_dead_letters(action, by, &filter, usize::MAX, |done| {
            bar.set_position(done as u64);
        })
        .await?;
    bar.finish_and_clear();
    setup.output.record(&summary(action, &outcome));
    // When it broke off, nobody knows whether the rest of them is there.
    let missing = if outcome.broke_off { 0 } else { ids.len().saturating_sub(outcome.matched) };
    if outcome.failed.is_empty() && !outcome.broke_off && missing == 0 {
        return Ok(());
    }
    let unreached =
        if outcome.broke_off { "the rest".to_owned() } else { outcome.failed.len().to_string() };
    let what = format!(
        "{} done, {unreached} could not be reached, {missing} not found",
        outcome.changed.len()
    );
    Err(Failure::new(Kind::Partly, what).hint("run the same again; what is done is done once"))
}

fn summary(action: Action, outcome: &Outcome) -> Summary {
    let changed = outcome.changed.len();
    let ids = |ids: &[DeadLetterId]| ids.iter().map(|id| id.0).collect();
    Summary {
        matched: outcome.matched,
        requeued: (action == Action::Requeue).then_some(changed),
        deleted: (action == Action::Delete).then_some(changed),
        skipped: ids(&outcome.skipped),
        failed: ids(&outcome.failed),
    }
}

/// Drawn on a terminal only.
fn progress(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} ({per_sec}, {eta} left)")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn parse_id(text: &str) -> Result<DeadLetterId, Failure> {
    text.parse().map_err(|_| {
        Failure::new(Kind::NotFound, format!("there is no dead letter {text}"))
            .hint("ids are shown by: esh3ar dlq list")
    })
}
