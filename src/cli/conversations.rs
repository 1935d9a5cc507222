//! `conversation`: listed, shown, put away and taken out by the administrator.

use std::{
    fs::File,
    io::{BufWriter, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Setup,
    exit::{Failure, Kind},
    opened, privilege,
    why::Why,
};
use crate::{
    app::{App, By, supervision::Overview},
    domain::{Conversation, ConversationId, ConversationStatus, Message},
    server::view::{self, MessageView, WholeConversationView},
    store::conversations::Filter,
};

/// Messages that an export reads at once.
const PAGE: usize = 500;

#[derive(Debug, Subcommand)]
pub(super) enum ConversationCommand {
    /// Conversations, those with the newest messages first
    List {
        /// Only of this business user, by name or id
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Only with this phone number
        #[arg(long, value_name = "NUMBER")]
        phone: Option<String>,
        /// Only in this status: active, archived or closed
        #[arg(long)]
        status: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        why: Why,
    },
    /// One conversation, its counts and its last messages
    Show {
        /// The conversation's id
        id: String,
        /// How many of its last messages
        #[arg(long, default_value_t = 10)]
        messages: usize,
        #[command(flatten)]
        why: Why,
    },
    /// Put conversations away; the next message makes one active again
    Archive {
        /// Ids of conversations
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Close conversations: nobody can write in them until they are archived
    Close {
        /// Ids of conversations
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Write out everything that was said in a conversation
    Export {
        /// The conversation's id
        id: String,
        /// How: JSON lines for programs, or text for people
        #[arg(long, value_enum, default_value = "jsonl")]
        format: ExportFormat,
        /// Where to; without it to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportFormat {
    /// A message a line, as the API gives it
    Jsonl,
    /// A transcript
    Text,
}

impl ConversationCommand {
    /// Opens the file of an export. Before the process becomes the owner of the data: the file is for
    /// whoever calls the command.
    pub(super) fn open_file(&self) -> Result<Option<File>, Failure> {
        let ConversationCommand::Export { out: Some(path), .. } = self else { return Ok(None) };
        if privilege::output_is_file() {
            return Ok(None);
        }
        // Readable for nobody else: it holds what people wrote to each other.
        let opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        opened.map(Some).map_err(|error| unwritten(path, &error))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(flatten)]
    conversation: WholeConversationView<'a>,
    /// How many messages are in each status.
    messages: Map<String, Value>,
    last_messages: Vec<MessageView<'a>>,
}

pub(super) async fn run(
    setup: &Setup,
    command: ConversationCommand,
    file: Option<File>,
) -> Result<(), Failure> {
    let opened = opened::open(setup).await?;
    let result = act(setup, &opened.app, command, file).await;
    opened.close(result).await
}

async fn act(
    setup: &Setup,
    app: &App,
    command: ConversationCommand,
    file: Option<File>,
) -> Result<(), Failure> {
    match command {
        ConversationCommand::List { user, phone, status, limit, why } => {
            let mut filter = Filter::default();
            if let Some(name) = user {
                filter.business = Some(app.find_user(&name).await?.id);
            }
            filter.phone = phone.map(|phone| app.parse_phone("phone", &phone)).transpose()?;
            if let Some(name) = status {
                let status = ConversationStatus::parse(&name);
                filter.status = Some(status.ok_or_else(|| {
                    Failure::new(Kind::Usage, "the status is active, archived or closed")
                })?);
            }
            let found =
                app.all_conversations(&setup.by(&why)?, &filter, limit.clamp(1, 10_000)).await?;
            let views: Vec<WholeConversationView<'_>> = found.iter().map(Into::into).collect();
            let columns = [
                "id",
                "businessName",
                "phone",
                "status",
                "lastSeq",
                "unreadBusiness",
                "unreadMobile",
                "lastMessageAt",
            ];
            setup.output.records(&columns, &views);
            Ok(())
        }
        ConversationCommand::Show { id, messages, why } => {
            show(setup, app, &setup.by(&why)?, parse_id(&id)?, messages.min(1000)).await
        }
        ConversationCommand::Archive { ids, why } => {
            put_all(setup, app, &setup.by(&why)?, &ids, ConversationStatus::Archived).await
        }
        ConversationCommand::Close { ids, why } => {
            put_all(setup, app, &setup.by(&why)?, &ids, ConversationStatus::Closed).await
        }
        ConversationCommand::Export { id, format, out, why } => {
            let by = setup.by(&why)?;
            let found = app.any_conversation(&by, parse_id(&id)?, 0).await.map_err(named)?;
            let to = file.zip(out.clone());
            let count = export(setup, app, &by, &found.conversation, format, to).await?;
            if let Some(path) = out {
                setup.output.note(&format!("{count} messages are in {}", path.display()));
            }
            Ok(())
        }
    }
}

async fn show(
    setup: &Setup,
    app: &App,
    by: &By,
    id: ConversationId,
    last: usize,
) -> Result<(), Failure> {
    let Overview { conversation, counts, last: messages } =
        app.any_conversation(by, id, last).await.map_err(named)?;
    let counts =
        counts.into_iter().map(|(status, n)| (status.name().to_owned(), n.into())).collect();
    if setup.output.is_table() {
        setup.output.record(&WholeConversationView::from(&conversation));
        setup.output.text("\nmessages by status\n");
        setup.output.record(&Value::Object(counts));
        setup.output.text("\n");
        let columns = ["seq", "createdAt", "from", "status", "content"];
        setup.output.records(&columns, &view::messages(&messages));
    } else {
        setup.output.record(&Shown {
            conversation: (&conversation).into(),
            messages: counts,
            last_messages: view::messages(&messages),
        });
    }
    Ok(())
}

/// Each for itself: one that is not there does not keep the others from their status.
async fn put_all(
    setup: &Setup,
    app: &App,
    by: &By,
    ids: &[String],
    status: ConversationStatus,
) -> Result<(), Failure> {
    let mut put = Vec::new();
    let mut failed = None;
    for text in ids {
        let result = match parse_id(text) {
            Ok(id) => app.put_conversation(by, id, status).await.map_err(named),
            Err(failure) => Err(failure),
        };
        match result {
            Ok(conversation) => put.push(conversation),
            Err(failure) => failed = Some(failure),
        }
    }
    let views: Vec<WholeConversationView<'_>> = put.iter().map(Into::into).collect();
    match views.as_slice() {
        [one] if ids.len() == 1 => setup.output.record(one),
        many => setup.output.records(&["id", "businessName", "phone", "status"], many),
    }
    match failed {
        None => Ok(()),
        Some(failure) if put.is_empty() => Err(failure),
        Some(_) => {
            let what = format!("{} of {} are done", put.len(), ids.len());
            Err(Failure::new(Kind::Partly, what).hint("ids are shown by: esh3ar conversation list"))
        }
    }
}

async fn export(
    setup: &Setup,
    app: &App,
    by: &By,
    conversation: &Conversation,
    format: ExportFormat,
    to: Option<(File, PathBuf)>,
) -> Result<u64, Failure> {
    let mut to = to.map(|(file, path)| (BufWriter::new(file), path));
    let mut put = |text: &str| match &mut to {
        Some((file, path)) => {
            file.write_all(text.as_bytes()).map_err(|error| unwritten(path, &error))
        }
        None => {
            setup.output.text(text);
            Ok(())
        }
    };
    if format == ExportFormat::Text {
        put(&heading(conversation))?;
    }
    let bar = progress(conversation.last_seq);
    let (mut after, mut count) = (0, 0);
    loop {
        let page = app.any_history(by, conversation.id, after, PAGE).await?;
        let Some(last) = page.last().and_then(|message| message.place) else { break };
        let lines: String = page.iter().map(|message| line(message, format)).collect();
        put(&lines)?;
        after = last.seq;
        count += page.len() as u64;
        bar.set_position(u64::try_from(after).unwrap_or_default());
    }
    bar.finish_and_clear();
    if let Some((mut file, path)) = to {
        let done = file.flush().and_then(|()| file.get_ref().sync_all());
        done.map_err(|error| unwritten(&path, &error))?;
    }
    Ok(count)
}

fn heading(conversation: &Conversation) -> String {
    format!(
        "Conversation {} between {} and {}, begun {}, {}\n\n",
        conversation.id,
        harmless(&conversation.business_name),
        conversation.phone.as_str(),
        moment(conversation.created_at),
        conversation.status.name()
    )
}

fn line(message: &Message, format: ExportFormat) -> String {
    if format == ExportFormat::Jsonl {
        let json = serde_json::to_string(&MessageView::from(message)).unwrap_or_default();
        return format!("{json}\n");
    }
    let seq = message.place.map_or(0, |place| place.seq);
    // Further lines of a message stand under its first one.
    let content = harmless(&message.content).replace('\n', "\n        ");
    let (at, from) = (moment(message.created_at), harmless(&message.from));
    format!("{seq:>6}  {at}  {from} ({}):\n        {content}\n", message.status.name())
}

/// Whole seconds: people read it.
fn moment(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

/// Without what could steer a terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

/// Drawn on a terminal only.
fn progress(length: i64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(length).unwrap_or_default());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} ({per_sec}, {eta} left)")
    {
        bar.set_style(style);
    }
    bar
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Failed, format!("{} cannot be written: {error}", path.display()))
        .hint("choose another file with --out")
}

fn parse_id(text: &str) -> Result<ConversationId, Failure> {
    text.parse().map_err(|_| unknown(text))
}

fn named(error: crate::app::Error) -> Failure {
    match error {
        crate::app::Error::NotFound(_) => unknown("with that id"),
        other => other.into(),
    }
}

fn unknown(which: &str) -> Failure {
    Failure::new(Kind::NotFound, format!("there is no conversation {which}"))
        .hint("ids are shown by: esh3ar conversation list")
}
