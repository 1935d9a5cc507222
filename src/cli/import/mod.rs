//! `import`: what the existing system has, from a file.

mod rows;

use std::{
    fs::File,
    io::{BufWriter, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    Setup,
    exit::{Failure, Kind},
    opened, privilege,
    why::Why,
};
use crate::{
    app::{
        App, By,
        import::{Fate, Ids, ImportedMessage, SourceRow},
    },
    domain::{UserId, audit::Action},
    store::accounts::MobileUser,
};
use rows::Rows;

/// Rows that are stored in one transaction.
const AT_ONCE: usize = 500;
/// Of a file's name as much is kept, in characters.
const LONGEST_NAME: usize = 200;
/// Senders that are looked up; a system with more has its own ways.
const MOST_SENDERS: usize = 100_000;

#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// Messages (EtMessages); they become one-way, with their ids, times and statuses
    Messages {
        #[command(flatten)]
        from_file: FromFile,
        /// Whose the messages are of which the file names no sender, or one that is no business user here
        #[arg(long, value_name = "USER")]
        from: Option<String>,
        /// Make new ids from theirs, in the order of time, instead of keeping theirs
        #[arg(long)]
        new_ids: bool,
    },
    /// Mobile users (EtMobileUsers)
    Users {
        #[command(flatten)]
        from_file: FromFile,
    },
}

#[derive(Debug, Args)]
pub(super) struct FromFile {
    /// CSV with a heading, or JSON lines
    file: PathBuf,
    /// Only check the rows, and say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Where rows go that cannot be taken [default: FILE.rejected.jsonl]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    #[command(flatten)]
    why: Why,
    /// What stands between the fields of a CSV; \t for a tab
    #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = delimiter)]
    delimiter: u8,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [one] if one.is_ascii() => Ok(*one),
        _ => Err("give one character, or \\t".to_owned()),
    }
}

impl FromFile {
    fn reject_path(&self) -> PathBuf {
        self.rejects.clone().unwrap_or_else(|| {
            let mut path = self.file.clone().into_os_string();
            path.push(".rejected.jsonl");
            path.into()
        })
    }
}

impl ImportCommand {
    fn source(&self) -> &FromFile {
        match self {
            ImportCommand::Messages { from_file, .. } | ImportCommand::Users { from_file } => {
                from_file
            }
        }
    }

    /// Opens the file before the process becomes the owner of the data: it is the caller's to read.
    pub(super) fn open_input(&self) -> Result<Option<File>, Failure> {
        privilege::open_input(&self.source().file)
    }

    /// Takes away a reject file that nothing was written into.
    pub(super) fn tidy(&self) {
        let path = self.source().reject_path();
        let empty = |found: std::fs::Metadata| found.is_file() && found.len() == 0;
        if std::fs::symlink_metadata(&path).is_ok_and(empty) {
            let _ = std::fs::remove_file(&path);
        }
    }

    /// The file that the process, when it is the owner of the data, has to be able to write.
    ///
    /// # Errors
    /// There is something of that name: an earlier import's rejects, or the very file that is imported.
    pub(super) fn writes(&self) -> Result<Option<PathBuf>, Failure> {
        let from_file = self.source();
        if from_file.dry_run {
            return Ok(None);
        }
        let path = from_file.reject_path();
        // The one that root just made for this is there.
        if !privilege::input_is_file() && std::fs::symlink_metadata(&path).is_ok() {
            let what = format!("{} is there already, and nothing is overwritten", path.display());
            return Err(Failure::new(Kind::Refused, what)
                .hint("move it away, or choose another file for rejected rows with --rejects"));
        }
        Ok(Some(path))
    }

    fn action(&self) -> Action {
        match self {
            ImportCommand::Messages { .. } => Action::MessageImport,
            ImportCommand::Users { .. } => Action::UserImport,
        }
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    read: u64,
    imported: u64,
    already_there: u64,
    rejected: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reject_file: Option<String>,
    /// Senders of messages that are no business users here: nobody can see what they sent but its
    /// recipients.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_senders: Option<u64>,
}

pub(super) async fn run(
    setup: &Setup,
    command: ImportCommand,
    input: Option<File>,
) -> Result<(), Failure> {
    let from_file = command.source();
    let input = privilege::input(input, &from_file.file)?;
    let length = input.metadata().map_or(0, |metadata| metadata.len());
    let broken = |error: rows::Broken| {
        Failure::new(Kind::Failed, format!("{}: {error}", from_file.file.display()))
            .hint("what came before is imported; repair the file and run the same again")
    };
    let by = setup.by(&from_file.why)?;
    let mut rows = Rows::open(input, from_file.delimiter).map_err(broken)?;
    let mut rejects = Rejects::new(from_file);
    let opened = opened::open(setup).await?;
    let bar = progress(length);
    let result = async {
        let mut import = Import::new(&opened.app, &command).await?;
        import.begin(&by).await?;
        let taken = import.take_all(&mut rows, &mut rejects, &bar, broken).await;
        // However it ended: what is imported is told and recorded.
        let recorded = import.record(&by, taken.is_ok()).await;
        Ok((import.report, taken.and(recorded)))
    }
    .await;
    bar.finish_and_clear();
    let (mut report, ended) = opened.close(result).await?;
    let rejected = rejects.close();
    report.reject_file =
        rejected.as_ref().ok().and_then(|path| Some(path.as_ref()?.display().to_string()));
    setup.output.record(&report);
    ended?;
    rejected?;
    if let Some(unknown @ 1..) = report.unknown_senders {
        setup.output.note(&format!(
            "{unknown} senders are no business users here: only recipients see what they sent; \
             --from USER gives it to one"
        ));
    }
    match report.reject_file {
        _ if report.rejected == 0 => Ok(()),
        Some(path) => Err(Failure::new(
            Kind::Partly,
            format!("{} of {} rows were rejected", report.rejected, report.read),
        )
        .hint(format!("see {path}; repaired, it can be imported itself"))),
        None => Err(Failure::new(
            Kind::Partly,
            format!("{} of {} rows would be rejected", report.rejected, report.read),
        )
        .hint("without --dry-run they are written into a file, with their reasons")),
    }
}

/// Rows on their way into the database.
struct Import<'a> {
    app: &'a App,
    command: &'a ImportCommand,
    sender: Option<UserId>,
    senders: Senders,
    waiting: Vec<(rows::Row, Item)>,
    /// What messages are imported under.
    begun: Option<Uuid>,
    report: Report,
}

#[derive(Default)]
struct Senders {
    known: std::collections::HashSet<UserId>,
    unknown: std::collections::HashSet<UserId>,
}

enum Item {
    Message(Box<ImportedMessage>),
    Mobile(MobileUser),
}

impl<'a> Import<'a> {
    async fn new(app: &'a App, command: &'a ImportCommand) -> Result<Import<'a>, Failure> {
        let sender = match command {
            ImportCommand::Messages { from: Some(name), .. } => Some(app.find_user(name).await?.id),
            _ => None,
        };
        let dry_run = command.source().dry_run;
        Ok(Import {
            app,
            command,
            sender,
            senders: Senders::default(),
            waiting: Vec::new(),
            begun: None,
            report: Report { dry_run, ..Report::default() },
        })
    }

    /// In the audit log, before anything is done.
    async fn begin(&mut self, by: &By) -> Result<(), Failure> {
        let from_file = self.command.source();
        match self.command {
            _ if from_file.dry_run => {}
            ImportCommand::Messages { .. } => {
                let name = from_file.file.file_name().unwrap_or(from_file.file.as_os_str());
                let name: String = name.to_string_lossy().chars().take(LONGEST_NAME).collect();
                self.begun = Some(self.app.begin_import(by, &name).await?);
            }
            ImportCommand::Users { .. } => self.app.record_begin(by, Action::UserImport).await?,
        }
        Ok(())
    }

    /// In the audit log, unless nothing was done.
    async fn record(&self, by: &By, whole: bool) -> Result<(), Failure> {
        if !self.report.dry_run {
            let (imported, rejected) = (self.report.imported, self.report.rejected);
            let action = self.command.action();
            self.app.record_import(by, action, imported, rejected, whole).await?;
        }
        Ok(())
    }

    /// Takes every row. Of a file that cannot be read on, those that came before are taken.
    async fn take_all(
        &mut self,
        rows: &mut Rows,
        rejects: &mut Rejects,
        bar: &ProgressBar,
        broken: impl Fn(rows::Broken) -> Failure,
    ) -> Result<(), Failure> {
        let end = loop {
            match rows.next() {
                Ok(Some(row)) => self.take(row, rejects).await?,
                Ok(None) => break Ok(()),
                Err(error) => break Err(broken(error)),
            }
            bar.set_position(rows.position());
        };
        self.store(rejects).await?;
        end
    }

    async fn take(&mut self, row: rows::Row, rejects: &mut Rejects) -> Result<(), Failure> {
        self.report.read += 1;
        match self.read(&row) {
            Ok(item) => self.waiting.push((row, item)),
            Err(reason) => self.reject(&row, &reason, rejects)?,
        }
        if self.waiting.len() >= AT_ONCE {
            self.store(rejects).await?;
        }
        Ok(())
    }

    fn read(&self, row: &rows::Row) -> Result<Item, String> {
        let mut source = SourceRow::default();
        for (name, value) in row.values.as_ref().map_err(Clone::clone)? {
            match value {
                Value::Null => {}
                Value::String(text) => source.put(name, text),
                Value::Number(_) | Value::Bool(_) => source.put(name, &value.to_string()),
                Value::Array(_) | Value::Object(_) => {}
            }
        }
        match self.command {
            ImportCommand::Messages { new_ids, .. } => {
                let ids = if *new_ids { Ids::Derive } else { Ids::Keep };
                let message = self.app.imported_message(&source, self.sender, ids)?;
                Ok(Item::Message(Box::new(message)))
            }
            ImportCommand::Users { .. } => self.app.imported_mobile(&source).map(Item::Mobile),
        }
    }

    async fn store(&mut self, rejects: &mut Rejects) -> Result<(), Failure> {
        let (mut messages, mut mobiles, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (row, item) in std::mem::take(&mut self.waiting) {
            rows.push(row);
            match item {
                Item::Message(message) => messages.push(*message),
                Item::Mobile(mobile) => mobiles.push(mobile),
            }
        }
        self.settle_senders(&mut messages).await?;
        let dry_run = self.report.dry_run;
        let mut fates = Vec::new();
        if !messages.is_empty() {
            fates = self.app.import_messages(&messages, self.begun).await?;
        }
        if !mobiles.is_empty() {
            fates = self.app.import_mobiles(&mobiles, dry_run).await?;
        }
        for (row, fate) in rows.iter().zip(fates) {
            match fate {
                Fate::New => self.report.imported += 1,
                Fate::There => self.report.already_there += 1,
                Fate::Refused(reason) => self.reject(row, &reason, rejects)?,
            }
        }
        Ok(())
    }

    /// What is of nobody here becomes `--from`'s; without it, it is counted.
    async fn settle_senders(&mut self, messages: &mut [ImportedMessage]) -> Result<(), Failure> {
        let known = |senders: &Senders, id: &UserId| {
            senders.known.contains(id) || senders.unknown.contains(id)
        };
        let mut new: Vec<UserId> = messages.iter().map(|m| m.sender).collect();
        new.sort();
        new.dedup();
        new.retain(|id| !known(&self.senders, id));
        if self.senders.known.len() + self.senders.unknown.len() + new.len() > MOST_SENDERS {
            self.senders = Senders::default();
        }
        if !new.is_empty() {
            let there = self.app.known_users(&new).await?;
            self.senders.unknown.extend(new.iter().filter(|id| !there.contains(id)));
            self.senders.known.extend(there);
        }
        match self.sender {
            Some(sender) => {
                for message in messages {
                    if self.senders.unknown.contains(&message.sender) {
                        message.sender = sender;
                    }
                }
            }
            None if !messages.is_empty() => {
                self.report.unknown_senders = Some(self.senders.unknown.len() as u64);
            }
            None => {}
        }
        Ok(())
    }

    fn reject(
        &mut self,
        row: &rows::Row,
        reason: &str,
        rejects: &mut Rejects,
    ) -> Result<(), Failure> {
        self.report.rejected += 1;
        rejects.put(row, reason)
    }
}

/// Where rows go that cannot be taken. There is no such file if there are none.
struct Rejects {
    file: Option<BufWriter<File>>,
    path: PathBuf,
    dry_run: bool,
}

impl Rejects {
    fn new(from_file: &FromFile) -> Rejects {
        Rejects { file: None, path: from_file.reject_path(), dry_run: from_file.dry_run }
    }

    /// Never one that was there: it holds what it is given, phone numbers and messages, and must overwrite
    /// nothing. Only root makes it beforehand, for the user that it became.
    fn open(path: &Path) -> Result<BufWriter<File>, Failure> {
        let opened = if privilege::input_is_file() {
            let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
            File::options().write(true).custom_flags(flags).open(path)
        } else {
            privilege::new_file(path)
        };
        opened.map(BufWriter::new).map_err(|error| unwritten(path, &error))
    }

    /// The row as it was read, so that the file can be imported when it is repaired.
    fn put(&mut self, row: &rows::Row, reason: &str) -> Result<(), Failure> {
        if self.dry_run {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Rejects::open(&self.path)?),
        };
        let mut line = Map::new();
        line.insert("line".to_owned(), row.line.into());
        line.insert("reason".to_owned(), reason.into());
        if let Some(raw) = &row.raw {
            line.insert("raw".to_owned(), raw.as_str().into());
        }
        if let Ok(values) = &row.values {
            line.extend(values.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let written = writeln!(file, "{}", Value::Object(line));
        written.map_err(|error| unwritten(&self.path, &error))
    }

    /// The file, if there is anything in it.
    fn close(self) -> Result<Option<PathBuf>, Failure> {
        let Some(mut file) = self.file else { return Ok(None) };
        let done = file.flush().and_then(|()| file.get_ref().sync_all());
        done.map_err(|error| unwritten(&self.path, &error))?;
        Ok(Some(self.path))
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::unwritten(path, error, "choose another file with --rejects")
}

/// Drawn on a terminal only.
fn progress(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let style = "{bar:40} {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}
