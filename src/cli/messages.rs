//! `message`: sent, shown and listed by the administrator.

use clap::Subcommand;
use serde_json::json;

use super::{
    Setup,
    answer::{columns, read},
    dlq,
    exit::{Failure, Kind},
    privilege::Given,
    remote::{Admin, Query},
    shown,
    spec::{Run, Running, Spec},
    why::Why,
};
use crate::{
    client::encode,
    server::{
        timestamp,
        view::{ExplanationView, MessageStoryView, MessageView, StepView},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum MessageCommand {
    /// Send a one-way message
    Send {
        /// The business user that sends it, by name or id
        #[arg(long, value_name = "USER")]
        from: String,
        /// The recipient's phone number
        #[arg(long, value_name = "NUMBER")]
        to: String,
        /// What it says
        content: String,
        /// Its subject
        #[arg(long)]
        subject: Option<String>,
        /// text or json
        #[arg(long, value_name = "TYPE", default_value = "text")]
        content_type: String,
        /// low, normal or high
        #[arg(long, default_value = "normal")]
        priority: String,
        #[command(flatten)]
        why: Why,
    },
    /// One message and every step of its way
    Show {
        /// The message's id
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// What became of a message, why, and what to do next
    Explain {
        /// The message's id
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Delete a message: nobody is shown it any more, and it is told who deleted it and why
    Delete {
        /// The message's id
        id: String,
        /// Why it is deleted; kept in its story and in the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Messages, newest first
    List {
        /// Only in this status: pending, sent, delivered, read, failed
        #[arg(long)]
        status: Option<String>,
        /// Only to this phone number
        #[arg(long, value_name = "NUMBER")]
        to: Option<String>,
        /// Only from this business user
        #[arg(long, value_name = "USER")]
        from: Option<String>,
        /// Only of this kind: oneWay or chat
        #[arg(long = "type", value_name = "KIND")]
        kind: Option<String>,
        /// Only what this business user sent or is to get
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Only accepted within this time, such as 30m, 24h or 7d, or since a time in RFC 3339
        #[arg(long, value_name = "AGE")]
        since: Option<String>,
        /// Only accepted longer ago than this, or before a time in RFC 3339
        #[arg(long, value_name = "AGE")]
        until: Option<String>,
        /// The next page: only those that come after this message in the list
        #[arg(long, value_name = "ID")]
        before: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = super::remote::limit)]
        limit: usize,
        #[command(flatten)]
        why: Why,
    },
}

impl Run for MessageCommand {
    fn spec(&self) -> Spec {
        match self {
            MessageCommand::List { .. }
            | MessageCommand::Show { .. }
            | MessageCommand::Explain { .. } => Spec::ADMIN_READ,
            MessageCommand::Send { .. } => Spec { needs_installation: false, ..Spec::ADMIN },
            MessageCommand::Delete { .. } => Spec::ADMIN,
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: Given) -> Running<'_> {
        Box::pin(async move { run(setup, *self).await })
    }
}

const STEPS: &[&str] = columns!(StepView: at, step, detail);
const COLUMNS: &[&str] =
    columns!(MessageView<'_>: id, status, from, to, priority, created_at, content);

/// Steps for a table, which has no columns for how often and when last.
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
    let admin = Admin::open(setup).await?;
    let result = act(setup, &admin, command).await;
    admin.close(result).await
}

async fn act(setup: &Setup, admin: &Admin, command: MessageCommand) -> Result<(), Failure> {
    match command {
        MessageCommand::Send { from, to, content, subject, content_type, priority, why } => {
            let body = json!({
                "from": from, "to": to, "content": content, "subject": subject,
                "contentType": content_type, "priority": priority,
            });
            setup.output.record(&admin.ask(&why, "POST", "/messages", Some(&body)).await?);
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
                setup.output.text(&format!("\n{}\n", shown::line(&verdict.sentence)));
                if let Some(next) = &verdict.next {
                    setup.output.text(&format!("Next: {}\n", shown::line(next)));
                }
            } else {
                setup.output.record(&story);
            }
        }
        MessageCommand::Delete { id, reason } => {
            if reason.trim().is_empty() {
                return Err(Failure::new(Kind::Usage, "--reason says nothing")
                    .hint("say why the message is deleted"));
            }
            let place = format!("/messages/{}", encode(&id));
            admin.ask(&Why::because(reason), "DELETE", &place, None).await.map_err(undeleted)?;
            setup.output.record(&json!({ "id": id, "deleted": true }));
        }
        MessageCommand::List { status, to, from, kind, user, since, until, before, limit, why } => {
            let time = |text: Option<String>| text.as_deref().map(dlq::since).transpose();
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
    if failure.kind != Kind::NotFound {
        return failure;
    }
    Failure::new(
        Kind::NotFound,
        "there is no such message: it was deleted before, or never accepted, or its id is another",
    )
    .hint("ids are shown by: esh3ar message list")
}

/// The books know every accepted message, so an unknown one never was.
fn unknown(failure: Failure) -> Failure {
    if failure.kind != Kind::NotFound {
        return failure;
    }
    Failure::new(
        Kind::NotFound,
        "there is no such message: it was never accepted (its sender got an error or no answer), \
         or its id is another",
    )
    .hint("ids are shown by: esh3ar message list")
}
