//! `message`: sent, shown and listed by the administrator.

use clap::Subcommand;
use serde::Serialize;

use super::{
    Setup, dlq,
    exit::{Failure, Kind},
    opened,
    why::Why,
};
use crate::{
    app::{self, App, Caller, access::Identity, messages::SendRequest},
    domain::{ContentType, MessageId, MessageKind, Priority, Status, TokenId, message::Draft},
    server::view::{self, ExplanationView, MessageView, Step},
    store::messages::Filter,
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
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    message: MessageView<'a>,
    timeline: Vec<Step>,
}

pub(super) async fn run(setup: &Setup, command: MessageCommand) -> Result<(), Failure> {
    let opened = opened::open(setup).await?;
    let result = act(setup, &opened.app, command).await;
    opened.close(result).await
}

async fn act(setup: &Setup, app: &App, command: MessageCommand) -> Result<(), Failure> {
    match command {
        MessageCommand::Send { from, to, content, subject, content_type, priority, why } => {
            let content_type =
                named(ContentType::parse(&content_type), "content type", "text or json")?;
            let priority = named(Priority::parse(&priority), "priority", "low, normal or high")?;
            if content_type == ContentType::Json
                && serde_json::from_str::<serde::de::IgnoredAny>(&content).is_err()
            {
                return Err(Failure::new(Kind::Usage, "the content is not JSON"));
            }
            let user = app.find_user(&from).await?;
            if user.disabled_at.is_some() {
                return Err(Failure::new(Kind::Refused, format!("{} is disabled", user.name)));
            }
            // As that user, with that user's permissions.
            let caller = Caller {
                token: TokenId(uuid::Uuid::nil()),
                expires_at: None,
                identity: Identity::Business {
                    id: user.id,
                    name: user.name.into(),
                    permissions: user.permissions,
                },
            };
            let by = setup.by(&why)?;
            let draft = Draft { subject, content, content_type, priority };
            let message = app.send_for(&by, &caller, SendRequest { to, draft }).await?;
            setup.output.record(&MessageView::from(&message));
        }
        MessageCommand::Show { id, why } => {
            let (message, events) = app.any_message(&setup.by(&why)?, parse_id(&id)?).await?;
            let timeline = view::timeline(&message, &events);
            if setup.output.is_table() {
                setup.output.record(&MessageView::from(&message));
                setup.output.text("\n");
                setup.output.records(&["at", "step", "detail"], &timeline);
            } else {
                setup.output.record(&Shown { message: MessageView::from(&message), timeline });
            }
        }
        MessageCommand::Explain { id, why } => {
            let explanation = app.explain_any(&setup.by(&why)?, parse_id(&id)?).await.map_err(
                |error| match error {
                    app::Error::NotFound(_) => unknown(),
                    other => other.into(),
                },
            )?;
            let view = ExplanationView::new(&explanation, true);
            if setup.output.is_table() {
                setup.output.records(&["at", "step", "detail"], view.steps());
                let verdict = &explanation.verdict;
                setup.output.text(&format!("\n{}\n", verdict.sentence));
                if let Some(next) = &verdict.next {
                    setup.output.text(&format!("Next: {next}\n"));
                }
            } else {
                setup.output.record(&view);
            }
        }
        MessageCommand::List { status, to, from, kind, user, since, until, before, limit, why } => {
            let mut filter = Filter::default();
            if let Some(name) = status {
                let names = "pending, sent, delivered, read or failed";
                filter.status = Some(named(Status::parse(&name), "status", names)?);
            }
            if let Some(name) = kind {
                filter.kind = Some(named(MessageKind::parse(&name), "type", "oneWay or chat")?);
            }
            filter.recipient = to.map(|to| app.parse_phone("to", &to)).transpose()?;
            if let Some(name) = from {
                filter.sender = Some(app.find_user(&name).await?.id);
            }
            if let Some(name) = user {
                filter.user = Some(app.find_user(&name).await?.id);
            }
            filter.since = since.map(|text| dlq::since(app, &text)).transpose()?;
            filter.until = until.map(|text| dlq::since(app, &text)).transpose()?;
            filter.before = before.map(|id| parse_id(&id)).transpose()?;
            let limit = limit.clamp(1, 10_000);
            let found = app.list_all_messages(&setup.by(&why)?, &filter, limit).await?;
            let columns = ["id", "status", "from", "to", "priority", "createdAt", "content"];
            setup.output.records(&columns, &view::messages(&found));
            if let Some(last) = found.last().filter(|_| found.len() == limit) {
                setup.output.note(&format!("there may be more: --before {}", last.id));
            }
        }
    }
    Ok(())
}

fn named<T>(value: Option<T>, what: &str, names: &str) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::new(Kind::Usage, format!("the {what} is {names}")))
}

fn parse_id(text: &str) -> Result<MessageId, Failure> {
    text.parse().map_err(|_| unknown())
}

/// The books know every accepted message, so an unknown one never was.
fn unknown() -> Failure {
    Failure::new(
        Kind::NotFound,
        "there is no such message: it was never accepted (its sender got an error or no answer), \
         or its id is another",
    )
    .hint("ids are shown by: esh3ar message list")
}
