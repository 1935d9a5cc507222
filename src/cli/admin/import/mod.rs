//! `import`: messages and users of the existing system, from a file.

pub mod csv;
pub mod file_format;
pub mod rows;

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

use super::{audit_reason::AuditReason, transport::AdminClient};
use crate::{
    app::admin::import::{BATCH_SIZE, Columns, MESSAGES, USERS},
    cli::{
        io::{
            answer::read,
            exit::{ExitStatus, Failure},
            private_file,
        },
        privilege::{self, OpenFiles},
        setup::Setup,
        spec::{CallerFiles, CommandFuture, Finalizer, Runnable, Spec},
    },
    server::http::admin::import::ImportedView,
};
use rows::Rows;

/// Of one request, which exceeds it by one row at most: no character of a row takes
/// more than six bytes.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// In characters; a longer name is cut.
const MAX_FILE_NAME_LEN: usize = 200;
/// More are not counted.
const MAX_UNKNOWN_SENDERS: usize = 100_000;
/// For this many rejected rows `--dry-run` prints the reason.
const MAX_REASONS: usize = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Import messages (EtMessages) as one-way messages, with their ids, times and statuses
    Messages {
        #[command(flatten)]
        from_file: ImportFileArgs,
        /// Business user that becomes the sender of messages whose own sender is missing or unknown
        #[arg(long, value_name = "USER")]
        from: Option<String>,
        /// Derive new ids, in order of time, instead of keeping the old ones
        #[arg(long)]
        new_ids: bool,
    },
    /// Import mobile users (EtMobileUsers)
    Users {
        #[command(flatten)]
        from_file: ImportFileArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImportFileArgs {
    /// CSV with a header row, or JSON lines
    file: PathBuf,
    /// Only check the rows, and report what would be imported
    #[arg(long)]
    dry_run: bool,
    /// File for rejected rows [default: FILE.rejected.jsonl]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    #[command(flatten)]
    why: AuditReason,
    /// Delimiter of CSV fields; \t for a tab
    #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = delimiter)]
    delimiter: u8,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [one] if one.is_ascii_punctuation() && *one != b'"' || b"\t ".contains(one) => Ok(*one),
        _ => Err("expected one punctuation mark other than a quote, or \\t".to_owned()),
    }
}

impl ImportFileArgs {
    fn reject_path(&self) -> PathBuf {
        self.rejects.clone().unwrap_or_else(|| {
            let mut path = self.file.clone().into_os_string();
            path.push(".rejected.jsonl");
            path.into()
        })
    }
}

impl ImportCommand {
    fn source(&self) -> &ImportFileArgs {
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

    /// The file that the process has to be able to write after it became the owner of the data.
    fn writes(&self) -> Result<Option<PathBuf>, Failure> {
        let from_file = self.source();
        if from_file.dry_run {
            return Ok(None);
        }
        let path = from_file.reject_path();
        // Root has just created it for this process.
        if !privilege::input_is_file() && std::fs::symlink_metadata(&path).is_ok() {
            let what = format!("{} already exists", path.display());
            return Err(Failure::new(ExitStatus::Refused, what)
                .hint("move it, or choose another file for rejected rows with --rejects"));
        }
        Ok(Some(path))
    }
}

impl Runnable for ImportCommand {
    fn spec(&self) -> Spec {
        Spec { name: "import", needs_installation: false, ..Spec::ADMIN }
    }

    fn run(self: Box<Self>, setup: &Setup, files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self, files.input).await })
    }

    fn open_files(&self) -> Result<CallerFiles, Failure> {
        let input = privilege::open_input(&self.source().file)?;
        let rejects = self.source().reject_path();
        Ok(CallerFiles {
            open: OpenFiles { input, ..OpenFiles::default() },
            created: self.writes()?,
            finalizer: Finalizer::Root(Box::new(move |_, _| {
                remove_empty(&rejects);
                Ok(())
            })),
        })
    }
}

/// Removes an empty reject file.
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
    /// In a dry run, the first reasons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Reason>,
    /// Senders that are not business users here: only recipients see their
    /// messages.
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
        return Err(Failure::new(ExitStatus::Failed, what).hint("give a file in it"));
    }
    let length = metadata.map_or(0, |metadata| metadata.len());
    let broken = |error: rows::RowError| {
        let failure =
            Failure::new(ExitStatus::Failed, format!("{} {error}", from_file.file.display()));
        match error {
            rows::RowError::NotTabular(file_format::NotTabular { remedy, .. }) => {
                failure.hint(remedy)
            }
            rows::RowError::Read(_) => failure
                .hint("the rows before are imported; repair the file and run the command again"),
        }
    };
    let mut rows = Rows::open(input, from_file.delimiter, command.columns()).map_err(broken)?;
    let mut rejects = Rejects::new(from_file);
    let admin = AdminClient::open(setup).await?;
    let bar = progress(length);
    let mut import = Import::new(&admin, &command);
    let taken = import.take_all(&mut rows, &mut rejects, &bar, broken).await;
    // Also after a failure: what was imported is reported.
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
            "{unknown} senders are not business users here: only recipients see their messages; \
             --from USER assigns them to one"
        ));
    }
    for Reason { line, reason } in &report.reasons {
        setup.output.note(&format!("line {line}: {reason}"));
    }
    match report.reject_file {
        _ if report.rejected == 0 => Ok(()),
        Some(path) => Err(Failure::new(
            ExitStatus::Partly,
            format!("{} of {} rows were rejected", report.rejected, report.read),
        )
        .hint(format!("see {path}; once repaired, that file can be imported"))),
        None => Err(Failure::new(
            ExitStatus::Partly,
            format!("{} of {} rows would be rejected", report.rejected, report.read),
        )
        .hint("without --dry-run they are written to a file, with their reasons")),
    }
}

/// An import in progress.
struct Import<'a> {
    admin: &'a AdminClient,
    command: &'a ImportCommand,
    waiting: Vec<rows::Row>,
    /// Their approximate size in a request.
    size: usize,
    unknown_senders: HashSet<uuid::Uuid>,
    /// The id of the import, after the first request.
    begun: Option<uuid::Uuid>,
    report: Report,
}

impl<'a> Import<'a> {
    fn new(admin: &'a AdminClient, command: &'a ImportCommand) -> Import<'a> {
        let report = Report { dry_run: command.source().dry_run, ..Report::default() };
        let (waiting, unknown_senders) = (Vec::new(), HashSet::new());
        Import { admin, command, waiting, size: 0, unknown_senders, begun: None, report }
    }

    /// Imports every row; if the file becomes unreadable, all rows before.
    async fn take_all(
        &mut self,
        rows: &mut Rows<File>,
        rejects: &mut Rejects,
        bar: &ProgressBar,
        broken: impl Fn(rows::RowError) -> Failure,
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
        if self.waiting.len() >= BATCH_SIZE || self.size >= MAX_BATCH_BYTES {
            self.store(rejects).await?;
        }
        Ok(())
    }

    /// Sends the waiting rows in one request: all are stored, or none if it fails.
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
                let name: String = name.take(MAX_FILE_NAME_LEN).collect();
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
        let answer = self.admin.request(&from_file.why, "POST", path, Some(&body)).await;
        read(&answer.map_err(|failure| match failure.kind {
            ExitStatus::Unavailable | ExitStatus::Failed if !from_file.dry_run => {
                failure.hint("run the command again: no row is imported twice")
            }
            _ => failure,
        })?)
    }

    /// Counts unknown senders, unless `--from` assigns their messages.
    fn note_senders(&mut self, unknown: &[uuid::Uuid]) {
        if let ImportCommand::Messages { from: None, .. } = self.command {
            let room = MAX_UNKNOWN_SENDERS.saturating_sub(self.unknown_senders.len());
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
        if self.report.dry_run && self.report.reasons.len() < MAX_REASONS {
            self.report.reasons.push(Reason { line: row.line, reason: reason.to_owned() });
        }
        rejects.put(row, reason)
    }
}

/// The file for rejected rows; created with the first one.
struct Rejects {
    file: Option<BufWriter<File>>,
    path: PathBuf,
    dry_run: bool,
}

impl Rejects {
    fn new(from_file: &ImportFileArgs) -> Rejects {
        Rejects { file: None, path: from_file.reject_path(), dry_run: from_file.dry_run }
    }

    /// Never an existing file: it will contain phone numbers and messages, and must overwrite
    /// nothing. Only root creates it beforehand, for the user that it becomes.
    fn open(path: &Path) -> Result<BufWriter<File>, Failure> {
        let opened = if privilege::input_is_file() {
            let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
            File::options().write(true).custom_flags(flags).open(path)
        } else {
            private_file::create_new(path)
        };
        opened.map(BufWriter::new).map_err(|error| unwritten(path, &error))
    }

    /// Writes the row as it was read, so that the repaired file can be imported.
    fn put(&mut self, row: &rows::Row, reason: &str) -> Result<(), Failure> {
        if self.dry_run {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Rejects::open(&self.path)?),
        };
        // Its own line and reason replace those of an earlier import.
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

    /// The path, if anything was written.
    fn close(self) -> Result<Option<PathBuf>, Failure> {
        let Some(mut file) = self.file else { return Ok(None) };
        let done = file.flush().and_then(|()| file.get_ref().sync_all());
        done.map_err(|error| unwritten(&self.path, &error))?;
        Ok(Some(self.path))
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::write_error(path, error, "choose another file with --rejects")
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
