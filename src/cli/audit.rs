//! `audit`: whether the books balance, and who looked at whose data.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Setup, dlq,
    exit::{Failure, Kind},
    opened,
    why::Why,
};
use crate::{
    app::{self, App, books::Audit},
    server::view::admin as view,
    store::{audit::Filter, books::Day},
};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Whether every accepted message is delivered, pending, sent, failed or erased
    Delivery {
        /// From the day this long ago on, such as 24h or 7d, or since a time in RFC 3339
        #[arg(long, value_name = "AGE", default_value = "24h")]
        since: String,
    },
    /// Who looked at whose data, and who changed what, newest first
    Access {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Only within this time, such as 30m, 24h or 7d, or since a time in RFC 3339
    #[arg(long, value_name = "AGE")]
    since: Option<String>,
    /// Only what was about this phone number
    #[arg(long, value_name = "NUMBER")]
    phone: Option<String>,
    /// Only by this one: a business user's name or id, a token's id, or user@host for commands
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
    /// Only this, such as message.show, or all that was done with one kind, such as message
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only older than this entry: the last of the page before
    #[arg(long, value_name = "ID")]
    before: Option<uuid::Uuid>,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    business: uuid::Uuid,
    name: &'a str,
    day: String,
    accepted: i64,
    pending: i64,
    sent: i64,
    delivered: i64,
    read: i64,
    failed: i64,
    erased: i64,
    missing: i64,
}

#[derive(Serialize)]
struct Off {
    id: uuid::Uuid,
    kind: &'static str,
}

#[derive(Serialize)]
struct Books<'a> {
    balanced: bool,
    unaccounted: u64,
    days: Vec<Row<'a>>,
    discrepancies: Vec<Off>,
}

impl<'a> From<&'a Day> for Row<'a> {
    fn from(day: &'a Day) -> Self {
        Row {
            business: day.business.0,
            name: &day.name,
            day: day.day.to_string(),
            accepted: day.accepted,
            pending: day.pending,
            sent: day.sent,
            delivered: day.delivered,
            read: day.read,
            failed: day.failed,
            erased: day.erased,
            missing: day.missing(),
        }
    }
}

pub(super) async fn run(setup: &Setup, command: AuditCommand) -> Result<(), Failure> {
    let since = match command {
        AuditCommand::Delivery { since } => since,
        AuditCommand::Access { which, why } => {
            let opened = opened::open(setup).await?;
            let result = access(setup, &opened.app, &which, &why).await;
            return opened.close(result).await;
        }
    };
    let opened = opened::open(setup).await?;
    let result = async {
        let since = dlq::since(&opened.app, &since)?;
        Ok(opened.app.audit_delivery(since).await?)
    }
    .await;
    let audit = opened.close(result).await?;
    report(setup, &audit)
}

async fn access(setup: &Setup, app: &App, which: &Which, why: &Why) -> Result<(), Failure> {
    let filter = Filter {
        since: which.since.as_deref().map(|text| dlq::since(app, text)).transpose()?,
        phone: which.phone.as_deref().map(|text| app.parse_phone("phone", text)).transpose()?,
        actor: which.actor.clone(),
        action: which.action.clone(),
        before: which.before,
    };
    app::audit::check_action(filter.action.as_deref())?;
    let limit = which.limit.clamp(1, 10_000);
    let found = app.audit_access(&setup.by(why)?, &filter, limit).await?;
    let columns = ["at", "actor", "action", "subject", "phone", "phones", "reason", "outcome"];
    setup.output.records(&columns, &view::audit(&found));
    if let Some(last) = found.last().filter(|_| found.len() == limit) {
        setup.output.note(&format!("there may be more: --before {}", last.id));
    }
    Ok(())
}

fn report(setup: &Setup, audit: &Audit) -> Result<(), Failure> {
    let days: Vec<Row<'_>> = audit.days.iter().map(Row::from).collect();
    let discrepancies: Vec<Off> =
        audit.discrepancies.iter().map(|d| Off { id: d.message.0, kind: d.kind }).collect();
    let unaccounted = audit.unaccounted();
    if setup.output.is_table() {
        let columns = [
            "day",
            "name",
            "accepted",
            "pending",
            "sent",
            "delivered",
            "read",
            "failed",
            "erased",
            "missing",
        ];
        setup.output.records(&columns, &days);
        if !discrepancies.is_empty() {
            setup.output.text("\n");
            setup.output.records(&["id", "kind"], &discrepancies);
        }
        if unaccounted == 0 {
            setup.output.note("the books balance");
        }
    } else {
        let balanced = unaccounted == 0;
        setup.output.record(&Books { balanced, unaccounted, days, discrepancies });
    }
    if unaccounted == 0 {
        return Ok(());
    }
    let first = audit.discrepancies.first().map(|first| first.message);
    let what = format!("{unaccounted} messages are unaccounted for");
    let failure = Failure::new(Kind::Failed, what);
    Err(match first {
        Some(id) => failure.hint(format!("run: esh3ar message explain {id}")),
        None => failure.hint(
            "rows of the table messages were removed from outside; restore them from a backup",
        ),
    })
}
