//! `audit`: reconciles deliveries, reads the audit log, and verifies it.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    audit_chain,
    audit_reason::AuditReason,
    query::{self, Query},
    transport::AdminClient,
};
use crate::{
    cli::{
        io::{
            answer::{columns, read},
            exit::{ExitStatus, Failure},
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Runnable, Scope, Spec},
    },
    server::view::admin::{AuditView, BooksView, DayView, DiscrepancyView},
};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that every accepted message is accounted for
    Delivery {
        /// Start: an age such as 24h or 7d, or an RFC 3339 time
        #[arg(long, value_name = "AGE", default_value = "24h")]
        since: String,
    },
    /// Show who viewed or changed what, newest first
    Access {
        #[command(flatten)]
        which: AuditFilterArgs,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Check that no entry of the audit log was altered, deleted or reordered
    Verify {
        /// What audit head printed before as JSON, or a file with it: the log must still contain that entry
        #[arg(long, value_name = "FILE|JSON")]
        head: Option<String>,
    },
    /// Print the newest entry's number and hash, to keep outside this machine for audit verify
    Head,
}

#[derive(Debug, Args)]
pub(crate) struct AuditFilterArgs {
    /// Only since this age (30m, 24h, 7d) or RFC 3339 time
    #[arg(long, value_name = "AGE")]
    since: Option<String>,
    /// Only entries about this phone number
    #[arg(long, value_name = "NUMBER")]
    phone: Option<String>,
    /// Only by this actor: a business user's name or id, a token's id, or user@host for commands
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
    /// Only this action, such as message.show, or all actions on one kind, such as message
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Next page: only entries older than this one
    #[arg(long, value_name = "ID")]
    before: Option<uuid::Uuid>,
    /// Maximum number of entries
    #[arg(long, default_value_t = 50, value_parser = super::query::limit)]
    limit: usize,
}

impl Runnable for AuditCommand {
    fn spec(&self) -> Spec {
        match self {
            AuditCommand::Delivery { .. } | AuditCommand::Access { .. } => Spec::ADMIN_READ,
            AuditCommand::Verify { .. } | AuditCommand::Head => {
                Spec { scope: Scope::THIS_MACHINE_READS, ..Spec::ADMIN_READ }
            }
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self).await })
    }
}

const DAYS: &[&str] = columns!(DayView<'_>:
    day, name, accepted, pending, sent, delivered, read, failed, erased, missing);
const DISCREPANCIES: &[&str] = columns!(DiscrepancyView<'_>: id, kind);
const ENTRIES: &[&str] = columns!(AuditView<'_>:
    at, actor, action, subject, phone, phones, reason, outcome);

async fn run(setup: &Setup, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Delivery { since } => {
            let admin = AdminClient::open(setup).await?;
            let books = delivery(&admin, &since).await;
            report(setup, &admin.close(books).await?)
        }
        AuditCommand::Access { which, why } => {
            let admin = AdminClient::open(setup).await?;
            let shown = access(setup, &admin, which, &why).await;
            admin.close(shown).await
        }
        AuditCommand::Verify { head } => audit_chain::verify(setup, head.as_deref()).await,
        AuditCommand::Head => audit_chain::head(setup).await,
    }
}

async fn access(
    setup: &Setup,
    admin: &AdminClient,
    which: AuditFilterArgs,
    why: &AuditReason,
) -> Result<(), Failure> {
    let since = which.since.as_deref().map(query::since).transpose()?;
    let query = Query::default()
        .with_some("since", since)
        .with_some("phone", which.phone)
        .with_some("actor", which.actor)
        .with_some("action", which.action)
        .with_some("before", which.before);
    let (found, more) = admin.list(why, "/audit", &query, which.limit).await?;
    setup.output.records(ENTRIES, &found);
    if let Some(last) = found.last().filter(|_| more) {
        let AuditView { id, .. } = read(last)?;
        setup.output.note(&format!("more entries: --before {id}"));
    }
    Ok(())
}

async fn delivery(admin: &AdminClient, since: &str) -> Result<Value, Failure> {
    let query = Query::default().with("since", query::since(since)?);
    admin.get(&AuditReason::default(), &format!("/books{query}")).await
}

fn report(setup: &Setup, books: &Value) -> Result<(), Failure> {
    let BooksView { unaccounted, days, discrepancies, .. } = read(books)?;
    if setup.output.is_table() {
        setup.output.records(DAYS, &days);
        if !discrepancies.is_empty() {
            setup.output.text("\n");
            setup.output.records(DISCREPANCIES, &discrepancies);
        }
        if unaccounted == 0 {
            setup.output.note("all messages are accounted for");
        }
    } else {
        setup.output.record(books);
    }
    if unaccounted == 0 {
        return Ok(());
    }
    let what = format!("{unaccounted} messages are unaccounted for");
    let failure = Failure::new(ExitStatus::Failed, what);
    Err(match discrepancies.first() {
        Some(first) => failure.hint(format!("run: esh3ar message explain {}", first.id)),
        None => failure.hint(
            "rows of the table messages were deleted by other means; restore them from a backup",
        ),
    })
}
