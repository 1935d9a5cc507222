//! `conversation`: list, show, archive, close and export conversations.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::{Subcommand, ValueEnum};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{audit_reason::AuditReason, query::Query, transport::AdminClient};
use crate::{
    cli::{
        io::{
            answer::{ResponsePage, columns, read},
            atomic_file::write_error,
            exit::{ExitStatus, Failure},
            output, sanitize,
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CallerFiles, CommandFuture, Runnable, Spec},
    },
    client::encode,
    server::view::{MessageView, WholeConversationView, admin::ConversationOverviewView},
};

const COLUMNS: &[&str] = columns!(WholeConversationView<'_>:
    id, business_name, phone, status, last_seq, unread_business, unread_mobile, last_message_at);
const CHANGED: &[&str] = columns!(WholeConversationView<'_>: id, business_name, phone, status);
const MESSAGES: &[&str] = columns!(MessageView<'_>: seq, created_at, from, status, content);

/// Messages per request of an export.
const PAGE_SIZE: usize = 200;

#[derive(Debug, Subcommand)]
pub(crate) enum ConversationCommand {
    /// List conversations, most recent message first
    List {
        /// Only conversations of this business user, by name or id
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Only conversations with this phone number
        #[arg(long, value_name = "NUMBER")]
        phone: Option<String>,
        /// Only conversations in this status: active, archived or closed
        #[arg(long)]
        status: Option<String>,
        /// Maximum number of conversations
        #[arg(long, default_value_t = 50, value_parser = super::query::limit)]
        limit: usize,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Show a conversation with its counts and latest messages
    Show {
        /// Conversation id
        id: String,
        /// Number of latest messages
        #[arg(long, default_value_t = 10)]
        messages: usize,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Archive conversations; the next message reactivates them
    Archive {
        /// Conversation ids
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Close conversations: they accept no messages until they are archived
    Close {
        /// Conversation ids
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Export all messages of a conversation
    Export {
        /// Conversation id
        id: String,
        /// Format: JSON lines for programs, or text for people
        #[arg(long, value_enum, default_value = "jsonl")]
        format: ExportFormat,
        /// Output file; without it, or with -, standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        why: AuditReason,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One message per line, as the API returns it
    Jsonl,
    /// A transcript
    Text,
}

impl Runnable for ConversationCommand {
    fn spec(&self) -> Spec {
        match self {
            ConversationCommand::List { .. } | ConversationCommand::Show { .. } => Spec::ADMIN_READ,
            ConversationCommand::Archive { .. }
            | ConversationCommand::Close { .. }
            | ConversationCommand::Export { .. } => Spec::ADMIN,
        }
    }

    fn run(self: Box<Self>, setup: &Setup, files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self, files.out).await })
    }

    fn open_files(&self) -> Result<CallerFiles, Failure> {
        let ConversationCommand::Export { out, .. } = self else {
            return Ok(CallerFiles::default());
        };
        CallerFiles::export(out.as_deref())
    }
}

async fn run(
    setup: &Setup,
    command: ConversationCommand,
    file: Option<File>,
) -> Result<(), Failure> {
    let admin = AdminClient::open(setup).await?;
    let result = act(setup, &admin, command, file).await;
    admin.close(result).await
}

async fn act(
    setup: &Setup,
    admin: &AdminClient,
    command: ConversationCommand,
    file: Option<File>,
) -> Result<(), Failure> {
    match command {
        ConversationCommand::List { user, phone, status, limit, why } => {
            let query = Query::default()
                .with_some("user", user)
                .with_some("phone", phone)
                .with_some("status", status);
            let (found, _) = admin.list(&why, "/conversations", &query, limit).await?;
            setup.output.records(COLUMNS, &found);
            Ok(())
        }
        ConversationCommand::Show { id, messages, why } => {
            let found = overview(admin, &why, &id, messages.min(1000)).await?;
            show(setup, &found)
        }
        ConversationCommand::Archive { ids, why } => {
            put_all(setup, admin, &why, &ids, "archive").await
        }
        ConversationCommand::Close { ids, why } => put_all(setup, admin, &why, &ids, "close").await,
        ConversationCommand::Export { id, format, out, why } => {
            let out = out.filter(|path| path != Path::new("-"));
            let to = file.zip(out.clone());
            let count = export(setup, admin, &why, &id, format, to).await?;
            if let Some(path) = out {
                setup.output.note(&format!("wrote {count} messages to {}", path.display()));
            }
            Ok(())
        }
    }
}

async fn overview(
    admin: &AdminClient,
    why: &AuditReason,
    id: &str,
    last: usize,
) -> Result<Value, Failure> {
    let place = format!("/conversations/{}?messages={last}", encode(id));
    admin.get(why, &place).await.map_err(|failure| named(failure, id))
}

fn show(setup: &Setup, found: &Value) -> Result<(), Failure> {
    if !setup.output.is_table() {
        setup.output.record(found);
        return Ok(());
    }
    let ConversationOverviewView { conversation, messages, last_messages } = read(found)?;
    setup.output.record(&conversation);
    setup.output.text("\nmessages by status\n");
    setup.output.record(&messages);
    setup.output.text("\n");
    setup.output.records(MESSAGES, &last_messages);
    Ok(())
}

/// Each separately: an unknown id does not prevent the others.
async fn put_all(
    setup: &Setup,
    admin: &AdminClient,
    why: &AuditReason,
    ids: &[String],
    verb: &str,
) -> Result<(), Failure> {
    let mut put = Vec::new();
    let mut failed = None;
    for id in ids {
        let place = format!("/conversations/{}/{verb}", encode(id));
        match admin.request(why, "POST", &place, None).await {
            Ok(conversation) => put.push(conversation),
            Err(failure) => failed = Some(named(failure, id)),
        }
    }
    match put.as_slice() {
        [one] if ids.len() == 1 => setup.output.record(one),
        many => setup.output.records(CHANGED, many),
    }
    match failed {
        None => Ok(()),
        Some(failure) if put.is_empty() => Err(failure),
        Some(_) => {
            let what = format!("{} of {} changed", put.len(), ids.len());
            Err(Failure::new(ExitStatus::Partly, what)
                .hint("list ids with: esh3ar conversation list"))
        }
    }
}

async fn export(
    setup: &Setup,
    admin: &AdminClient,
    why: &AuditReason,
    id: &str,
    format: ExportFormat,
    to: Option<(File, PathBuf)>,
) -> Result<u64, Failure> {
    let overview = overview(admin, why, id, 0).await?;
    let ConversationOverviewView { conversation, .. } = read(&overview)?;
    let mut to = to.map(|(file, path)| (BufWriter::new(file), path));
    let mut put = |text: &str| match &mut to {
        Some((file, path)) => {
            file.write_all(text.as_bytes()).map_err(|error| write_error(path, &error))
        }
        None => {
            setup.output.text(text);
            Ok(())
        }
    };
    if format == ExportFormat::Text {
        put(&heading(&conversation))?;
    }
    let bar = output::progress(u64::try_from(conversation.last_seq).unwrap_or_default());
    let (mut after, mut count) = (0, 0);
    loop {
        let place =
            format!("/conversations/{}/messages?after={after}&limit={PAGE_SIZE}", encode(id));
        let page = admin.get(why, &place).await.map_err(|failure| named(failure, id))?;
        let page: ResponsePage<u64> = read(&page)?;
        let lines = page.items.iter().map(|message| line(message, format));
        put(&lines.collect::<Result<String, Failure>>()?)?;
        count += page.items.len() as u64;
        let Some(next) = page.next else { break };
        after = next;
        bar.set_position(after);
    }
    bar.finish_and_clear();
    if let Some((mut file, path)) = to {
        let done = file.flush().and_then(|()| file.get_ref().sync_all());
        done.map_err(|error| write_error(&path, &error))?;
    }
    Ok(count)
}

fn heading(conversation: &WholeConversationView<'_>) -> String {
    format!(
        "Conversation {} between {} and {}, started {}, {}\n\n",
        conversation.id,
        sanitize::text(conversation.business_name),
        sanitize::text(conversation.phone),
        moment(conversation.created_at),
        sanitize::text(conversation.status)
    )
}

fn line(message: &Value, format: ExportFormat) -> Result<String, Failure> {
    if format == ExportFormat::Jsonl {
        return Ok(output::json_line(message));
    }
    let MessageView { seq, created_at, from, status, content, .. } = read(message)?;
    let seq = seq.unwrap_or_default();
    // Further lines of a message stand under its first one.
    let content = sanitize::text(content).replace('\n', "\n        ");
    let (at, from, status) = (moment(created_at), sanitize::text(from), sanitize::text(status));
    Ok(format!("{seq:>6}  {at}  {from} ({status}):\n        {content}\n"))
}

/// Whole seconds: people read it.
fn moment(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_default()
}

fn named(failure: Failure, id: &str) -> Failure {
    if failure.kind != ExitStatus::NotFound {
        return failure;
    }
    Failure::new(ExitStatus::NotFound, format!("no such conversation: {id}"))
        .hint("list ids with: esh3ar conversation list")
}
