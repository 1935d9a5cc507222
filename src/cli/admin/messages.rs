//! `message`: sends, lists, explains and deletes messages.

use clap::Subcommand;
use serde_json::json;

use super::{
    audit_reason::AuditReason,
    query::{self, Query},
    transport::AdminClient,
};
use crate::{
    cli::{
        io::{
            answer::{columns, read},
            exit::{ExitStatus, Failure},
            sanitize,
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Runnable, Spec},
    },
    client::encode,
    server::{
        timestamp,
        view::{ExplanationView, MessageStoryView, MessageView, StepView},
    },
};

#[derive(Debug, Subcommand)]
pub(crate) enum MessageCommand {
    /// Send a one-way message
    Send {
        /// Sending business user, by name or id
        #[arg(long, value_name = "USER")]
        from: String,
        /// Phone number of the recipient
        #[arg(long, value_name = "NUMBER")]
        to: String,
        /// Content
        content: String,
        /// Subject
        #[arg(long)]
        subject: Option<String>,
        /// Content type: text or json
        #[arg(long, value_name = "TYPE", default_value = "text")]
        content_type: String,
        /// Priority: low, normal or high
        #[arg(long, default_value = "normal")]
        priority: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Show a message and its timeline
    Show {
        /// Message id
        id: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Explain what happened to a message, why, and what to do next
    Explain {
        /// Message id
        id: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Delete a message; its timeline keeps who deleted it and why
    Delete {
        /// Message id
        id: String,
        /// Reason, recorded in the message's timeline and in the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// List messages, newest first
    List {
        /// Only in this status: pending, sent, delivered, read or failed
        #[arg(long)]
        status: Option<String>,
        /// Only to this phone number
        #[arg(long, value_name = "NUMBER")]
        to: Option<String>,
        /// Only from this business user
        #[arg(long, value_name = "USER")]
        from: Option<String>,
        /// Only of this type: oneWay or chat
        #[arg(long = "type", value_name = "KIND")]
        kind: Option<String>,
        /// Only sent or received by this business user
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Only accepted since this age (30m, 24h, 7d) or RFC 3339 time
        #[arg(long, value_name = "AGE")]
        since: Option<String>,
        /// Only accepted before this age or RFC 3339 time
        #[arg(long, value_name = "AGE")]
        until: Option<String>,
        /// Next page: only messages that follow this one in the list
        #[arg(long, value_name = "ID")]
        before: Option<String>,
        /// Maximum number of messages
        #[arg(long, default_value_t = 50, value_parser = super::query::limit)]
        limit: usize,
        #[command(flatten)]
        why: AuditReason,
    },
}

impl Runnable for MessageCommand {
    fn spec(&self) -> Spec {
        match self {
            MessageCommand::List { .. }
            | MessageCommand::Show { .. }
            | MessageCommand::Explain { .. } => Spec::ADMIN_READ,
            MessageCommand::Send { .. } => Spec { needs_installation: false, ..Spec::ADMIN },
            MessageCommand::Delete { .. } => Spec::ADMIN,
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self).await })
    }
}

const STEPS: &[&str] = columns!(StepView: at, step, detail);
const COLUMNS: &[&str] =
    columns!(MessageView<'_>: id, status, from, to, priority, created_at, content);

/// Steps for a table, which has no columns for the count and the last time.
fn for_table(steps: Vec<StepView>) -> Vec<StepView> {
    let told = |step: StepView| match (step.count, step.last_at) {
        (Some(count), Some(last)) => {
            let often = format!("{count} times, the last at {}", timestamp::text(last));
            let detail =
                if step.detail.is_empty() { often } else { format!("{} ({often})", step.detail) };
            StepView { detail, ..step }
        }
        _ => step,
    };
    steps.into_iter().map(told).collect()
}

async fn run(setup: &Setup, command: MessageCommand) -> Result<(), Failure> {
    let admin = AdminClient::open(setup).await?;
    let result = act(setup, &admin, command).await;
    admin.close(result).await
}

async fn act(setup: &Setup, admin: &AdminClient, command: MessageCommand) -> Result<(), Failure> {
    match command {
        MessageCommand::Send { from, to, content, subject, content_type, priority, why } => {
            let body = json!({
                "from": from, "to": to, "content": content, "subject": subject,
                "contentType": content_type, "priority": priority,
            });
            setup.output.record(&admin.request(&why, "POST", "/messages", Some(&body)).await?);
        }
        MessageCommand::Show { id, why } => {
            let place = format!("/messages/{}", encode(&id));
            let mut message = admin.get(&why, &place).await.map_err(unknown)?;
            if setup.output.is_table() {
                let MessageStoryView { timeline, .. } = read(&message)?;
                if let Some(fields) = message.as_object_mut() {
                    fields.remove("timeline");
                }
                setup.output.record(&message);
                setup.output.text("\n");
                setup.output.records(STEPS, &for_table(timeline));
            } else {
                setup.output.record(&message);
            }
        }
        MessageCommand::Explain { id, why } => {
            let place = format!("/messages/{}/explain", encode(&id));
            let story = admin.get(&why, &place).await.map_err(unknown)?;
            if setup.output.is_table() {
                let ExplanationView { steps, verdict, .. } = read(&story)?;
                setup.output.records(STEPS, &for_table(steps));
                setup.output.text(&format!("\n{}\n", sanitize::line(&verdict.sentence)));
                if let Some(next) = &verdict.next {
                    setup.output.text(&format!("Next: {}\n", sanitize::line(next)));
                }
            } else {
                setup.output.record(&story);
            }
        }
        MessageCommand::Delete { id, reason } => {
            if reason.trim().is_empty() {
                return Err(Failure::new(ExitStatus::Usage, "--reason is empty")
                    .hint("say why the message is deleted"));
            }
            let place = format!("/messages/{}", encode(&id));
            admin
                .request(&AuditReason::because(reason), "DELETE", &place, None)
                .await
                .map_err(undeleted)?;
            setup.output.record(&json!({ "id": id, "deleted": true }));
        }
        MessageCommand::List { status, to, from, kind, user, since, until, before, limit, why } => {
            let time = |text: Option<String>| text.as_deref().map(query::since).transpose();
            let query = Query::default()
                .with_some("status", status)
                .with_some("to", to)
                .with_some("from", from)
                .with_some("type", kind)
                .with_some("user", user)
                .with_some("since", time(since)?)
                .with_some("until", time(until)?)
                .with_some("before", before);
            let (found, more) = admin.list(&why, "/messages", &query, limit).await?;
            setup.output.records(COLUMNS, &found);
            if let Some(last) = found.last().filter(|_| more) {
                let MessageView { id, .. } = read(last)?;
                setup.output.note(&format!("there may be more: --before {id}"));
            }
        }
    }
    Ok(())
}

fn undeleted(failure: Failure) -> Failure {
    if failure.kind != ExitStatus::NotFound {
        return failure;
    }
    Failure::new(
        ExitStatus::NotFound,
        "no such message: it was already deleted or never accepted, or the id is wrong",
    )
    .hint("list ids with: esh3ar message list")
}

/// Reconciliation knows every accepted message, so an unknown one never was accepted.
fn unknown(failure: Failure) -> Failure {
    if failure.kind != ExitStatus::NotFound {
        return failure;
    }
    Failure::new(
        ExitStatus::NotFound,
        "no such message: it was never accepted (its sender got an error or no response), \
         or the id is wrong",
    )
    .hint("list ids with: esh3ar message list")
}
