//! `import`: what the existing system has, from a file.

pub mod records;
pub mod rows;
pub mod shape;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufWriter, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Setup,
    answer::read,
    exit::{Failure, Kind},
    privilege::{self, Given},
    remote::Admin,
    spec::{Files, Finish, Run, Running, Spec},
    why::Why,
};
use crate::{
    app::import::{AT_ONCE, Columns, MESSAGES, USERS},
    server::http::admin::import::ImportedView,
};
use rows::Rows;

/// Rows that are sent in one call, which is as large as this at most, and one row: of that no character can take
/// more than six bytes.
const LARGEST: usize = 4 << 20;
/// Of a file's name as much is kept, in characters.
const LONGEST_NAME: usize = 200;
/// Senders that are counted; a system with more has its own ways.
const MOST_SENDERS: usize = 100_000;
/// Of so many rejected rows `--dry-run` says why.
const FIRST_REASONS: usize = 10;

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
        [one] if one.is_ascii_punctuation() && *one != b'"' || b"\t ".contains(one) => Ok(*one),
        _ => Err("give one punctuation mark other than a quote, or \\t".to_owned()),
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

    fn columns(&self) -> &'static Columns {
        match self {
            ImportCommand::Messages { .. } => &MESSAGES,
            ImportCommand::Users { .. } => &USERS,
        }
    }

    /// The file that the process, when it is the owner of the data, has to be able to write.
    ///
    /// # Errors
    /// There is something of that name: an earlier import's rejects, or the very file that is imported.
    fn writes(&self) -> Result<Option<PathBuf>, Failure> {
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
}

impl Run for ImportCommand {
    fn spec(&self) -> Spec {
        Spec { name: "import", needs_installation: false, ..Spec::ADMIN }
    }

    fn run(self: Box<Self>, setup: &Setup, files: Given) -> Running<'_> {
        Box::pin(async move { run(setup, *self, files.input).await })
    }

    fn open_files(&self) -> Result<Files, Failure> {
        let input = privilege::open_input(&self.source().file)?;
        let rejects = self.source().reject_path();
        Ok(Files {
            given: Given { out: None, input },
            made: self.writes()?,
            finish: Finish::Root(Box::new(move |_, _| {
                remove_empty(&rejects);
                Ok(())
            })),
        })
    }
}

/// Takes away a reject file that nothing was written into.
fn remove_empty(path: &Path) {
    let empty = |found: std::fs::Metadata| found.is_file() && found.len() == 0;
    if std::fs::symlink_metadata(path).is_ok_and(empty) {
        let _ = std::fs::remove_file(path);
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
    /// Of a dry run, why the first of them would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Reason>,
    /// Senders of messages that are no business users here: nobody can see what they sent but its
    /// recipients.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_senders: Option<u64>,
}

#[derive(Serialize)]
struct Reason {
    line: u64,
    reason: String,
}

async fn run(setup: &Setup, command: ImportCommand, input: Option<File>) -> Result<(), Failure> {
    let from_file = command.source();
    let input = privilege::input(input, &from_file.file)?;
    let metadata = input.metadata();
    if metadata.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
        let what = format!("{} is a folder", from_file.file.display());
        return Err(Failure::new(Kind::Failed, what).hint("give a file in it"));
    }
    let length = metadata.map_or(0, |metadata| metadata.len());
    let broken = |error: rows::Broken| {
        let failure = Failure::new(Kind::Failed, format!("{} {error}", from_file.file.display()));
        match error {
            rows::Broken::NotRows(shape::NotRows { remedy, .. }) => failure.hint(remedy),
            rows::Broken::Read(_) => {
                failure.hint("what came before is imported; repair the file and run the same again")
            }
        }
    };
    let mut rows = Rows::open(input, from_file.delimiter, command.columns()).map_err(broken)?;
    let mut rejects = Rejects::new(from_file);
    let admin = Admin::open(setup).await?;
    let bar = progress(length);
    let mut import = Import::new(&admin, &command);
    let taken = import.take_all(&mut rows, &mut rejects, &bar, broken).await;
    // However it ended: what is imported is told.
    let report = import.report;
    let result = Ok((report, taken));
    bar.finish_and_clear();
    let (mut report, ended) = admin.close(result).await?;
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
    for Reason { line, reason } in &report.reasons {
        setup.output.note(&format!("line {line}: {reason}"));
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

/// Rows on their way to where they are stored.
struct Import<'a> {
    admin: &'a Admin,
    command: &'a ImportCommand,
    waiting: Vec<rows::Row>,
    /// How large those are as they are sent, about.
    size: usize,
    unknown_senders: HashSet<uuid::Uuid>,
    /// What messages are imported under, after the first call.
    begun: Option<uuid::Uuid>,
    report: Report,
}

impl<'a> Import<'a> {
    fn new(admin: &'a Admin, command: &'a ImportCommand) -> Import<'a> {
        let report = Report { dry_run: command.source().dry_run, ..Report::default() };
        let (waiting, unknown_senders) = (Vec::new(), HashSet::new());
        Import { admin, command, waiting, size: 0, unknown_senders, begun: None, report }
    }

    /// Takes every row. Of a file that cannot be read on, those that came before are taken.
    async fn take_all(
        &mut self,
        rows: &mut Rows<File>,
        rejects: &mut Rejects,
        bar: &ProgressBar,
        broken: impl Fn(rows::Broken) -> Failure,
    ) -> Result<(), Failure> {
        let end = loop {
            match rows.read() {
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
        self.size += row.size();
        self.waiting.push(row);
        if self.waiting.len() >= AT_ONCE || self.size >= LARGEST {
            self.store(rejects).await?;
        }
        Ok(())
    }

    /// Has those stored that wait, in one call: all of them, or none when that fails.
    async fn store(&mut self, rejects: &mut Rejects) -> Result<(), Failure> {
        self.size = 0;
        let rows = std::mem::take(&mut self.waiting);
        let good: Vec<&Map<String, Value>> =
            rows.iter().filter_map(|row| row.values.as_ref().ok()).collect();
        let mut refused = HashMap::new();
        if !good.is_empty() {
            let done = self.ask(&good).await?;
            self.report.imported += done.imported as u64;
            self.report.already_there += done.already_there as u64;
            refused.extend(done.rejected.into_iter().map(|one| (one.row, one.reason)));
            self.begun = done.import.or(self.begun);
            self.note_senders(&done.unknown_senders);
        }
        let mut place = 0;
        for row in &rows {
            self.report.read += 1;
            let reason = match &row.values {
                Ok(_) => {
                    place += 1;
                    refused.remove(&(place - 1))
                }
                Err(reason) => Some(reason.clone()),
            };
            if let Some(reason) = reason {
                self.reject(row, &reason, rejects)?;
            }
        }
        Ok(())
    }

    async fn ask(&self, rows: &[&Map<String, Value>]) -> Result<ImportedView, Failure> {
        let from_file = self.command.source();
        let (path, body) = match self.command {
            ImportCommand::Messages { from, new_ids, .. } => {
                let name = from_file.file.file_name().unwrap_or(from_file.file.as_os_str());
                let name = name.to_string_lossy();
                let name = name.chars().map(|c| if c.is_control() { '?' } else { c });
                let name: String = name.take(LONGEST_NAME).collect();
                let body = json!({
                    "rows": rows, "from": from, "newIds": new_ids, "dryRun": from_file.dry_run,
                    "file": name, "import": self.begun,
                });
                ("/import/messages", body)
            }
            ImportCommand::Users { .. } => {
                ("/import/users", json!({ "rows": rows, "dryRun": from_file.dry_run }))
            }
        };
        let answer = self.admin.ask(&from_file.why, "POST", path, Some(&body)).await;
        read(&answer.map_err(|failure| match failure.kind {
            Kind::Unavailable | Kind::Failed if !from_file.dry_run => {
                failure.hint("run the same again: what is imported already is not imported twice")
            }
            _ => failure,
        })?)
    }

    /// Without `--from`, whose messages nobody can see but their recipients.
    fn note_senders(&mut self, unknown: &[uuid::Uuid]) {
        if let ImportCommand::Messages { from: None, .. } = self.command {
            let room = MOST_SENDERS.saturating_sub(self.unknown_senders.len());
            self.unknown_senders.extend(unknown.iter().take(room));
            self.report.unknown_senders = Some(self.unknown_senders.len() as u64);
        }
    }

    fn reject(
        &mut self,
        row: &rows::Row,
        reason: &str,
        rejects: &mut Rejects,
    ) -> Result<(), Failure> {
        self.report.rejected += 1;
        if self.report.dry_run && self.report.reasons.len() < FIRST_REASONS {
            self.report.reasons.push(Reason { line: row.line, reason: reason.to_owned() });
        }
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
        // Its own place and reason: those that an earlier import gave it are over.
        let mut line = row.values.as_ref().cloned().unwrap_or_default();
        line.remove("raw");
        line.insert("line".to_owned(), row.line.into());
        line.insert("reason".to_owned(), reason.into());
        if let Some(raw) = &row.raw {
            line.insert("raw".to_owned(), raw.as_str().into());
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
