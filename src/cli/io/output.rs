//! Prints data on standard output as a table or JSON, and remarks on standard error.

use std::{
    io::{ErrorKind, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::{
    exit::{ExitStatus, Failure, is_disk_full},
    sanitize,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people
    Table,
    /// One JSON document; lists are arrays
    Json,
    /// One JSON document per line
    Jsonl,
}

#[derive(Clone, Debug)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    /// A write failed; shared by all clones.
    failed: Arc<AtomicBool>,
    /// A write failed because the disk is full.
    full: Arc<AtomicBool>,
    /// The reader closed the pipe.
    reader_gone: Arc<AtomicBool>,
}

impl Output {
    /// With `quiet`, remarks are suppressed.
    pub(crate) fn new(format: Format, quiet: bool) -> Output {
        Output {
            format,
            quiet,
            failed: Arc::default(),
            full: Arc::default(),
            reader_gone: Arc::default(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// Prints a list; a table shows only the JSON fields in `columns`.
    pub(crate) fn records<T: Serialize>(&self, columns: &[&str], items: &[T]) {
        let values: Vec<Value> =
            items.iter().map(|item| serde_json::to_value(item).unwrap_or_default()).collect();
        match self.format {
            Format::Table => self.print(&table(columns, &values)),
            Format::Json => self.print(&pretty(&Value::Array(values))),
            Format::Jsonl => self.print(&values.iter().map(json_line).collect::<String>()),
        }
    }

    /// Prints one object; as a table, one line per field.
    pub(crate) fn record<T: Serialize>(&self, item: &T) {
        let value = serde_json::to_value(item).unwrap_or_default();
        match self.format {
            Format::Table => {
                let Value::Object(fields) = &value else { return self.print(&pretty(&value)) };
                let width = fields.keys().map(|key| key.chars().count()).max().unwrap_or(0);
                let lines = fields
                    .iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(key, value)| format!("{key:width$}  {}\n", cell(value)));
                self.print(&lines.collect::<String>());
            }
            Format::Json => self.print(&pretty(&value)),
            Format::Jsonl => self.print(&json_line(&value)),
        }
    }

    /// Prints one item of a stream: a line of text for people, a line of JSON otherwise.
    pub(crate) fn event<T: Serialize>(&self, text: &str, item: &T) {
        match self.format {
            Format::Table => self.print(&sanitize::text(&format!("{text}\n"))),
            Format::Json | Format::Jsonl => {
                self.print(&json_line(&serde_json::to_value(item).unwrap_or_default()));
            }
        }
    }

    pub(crate) fn text(&self, text: &str) {
        self.print(&sanitize::text(text));
    }

    /// Whether all writes succeeded.
    pub(crate) fn is_complete(&self) -> bool {
        !self.failed.load(Ordering::Relaxed)
    }

    /// The failure when something could not be written.
    pub(crate) fn failure(&self) -> Failure {
        if self.full.load(Ordering::Relaxed) {
            let what = "cannot write standard output: the disk is full";
            return Failure::new(ExitStatus::Failed, what)
                .hint("free space on that disk, or write elsewhere");
        }
        Failure::new(ExitStatus::Failed, "cannot write standard output")
            .hint("the command itself succeeded; revoke any token that was not shown")
    }

    pub(crate) fn has_reader(&self) -> bool {
        !self.reader_gone.load(Ordering::Relaxed) && !self.failed.load(Ordering::Relaxed)
    }

    fn print(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        self.record_result(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
    }

    /// A closed pipe (`| head`) is not a failure.
    fn record_result(&self, written: std::io::Result<()>) {
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.reader_gone.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                self.full.fetch_or(is_disk_full(&error), Ordering::Relaxed);
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Prints a remark on standard error.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr().lock(), "{}", sanitize::text(text));
        }
    }
}

/// The exit status after clap printed help or the version.
pub(crate) fn printed(printed: std::io::Result<()>) -> ExitCode {
    let output = Output::new(Format::Table, false);
    output.record_result(printed.and_then(|()| std::io::stdout().flush()));
    if output.is_complete() { ExitCode::SUCCESS } else { output.failure().report() }
}

fn pretty(value: &Value) -> String {
    sanitize::json(format!("{value:#}\n"))
}

/// A JSON document and a line feed.
pub(crate) fn json_line(value: &Value) -> String {
    sanitize::json(format!("{value}\n"))
}

/// A value in a table cell: one line, without control characters.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    sanitize::line(&text)
}

fn table(columns: &[&str], items: &[Value]) -> String {
    const MAX_CELL_WIDTH: usize = 48;
    let names: Vec<String> = columns.iter().map(|column| json_name(column)).collect();
    let mut rows: Vec<Vec<String>> = vec![names.iter().map(|name| heading(name)).collect()];
    for item in items {
        rows.push(names.iter().map(|name| shorten(cell(&item[name]), MAX_CELL_WIDTH)).collect());
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let line: Vec<String> =
                row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
            format!("{}\n", line.join("  ").trim_end())
        })
        .collect()
}

/// `created_at` as `createdAt`; a name in that form stays as it is.
fn json_name(field: &str) -> String {
    let mut words = field.split('_');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

/// `createdAt` as `CREATED AT`.
fn heading(field: &str) -> String {
    let mut text = String::new();
    for c in field.chars() {
        if c.is_uppercase() {
            text.push(' ');
        }
        text.extend(c.to_uppercase());
    }
    text
}

fn shorten(text: String, most: usize) -> String {
    if text.chars().count() <= most {
        return text;
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.push('…');
    short
}

/// `1 file`, `2 files`.
pub(crate) fn pluralize(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// Whether a command may draw on the whole terminal. Without a terminal, or on one that cannot
/// place its cursor, it prints.
pub(crate) fn is_full_screen(format: Format) -> bool {
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    format == Format::Table && terminal && !dumb
}

/// A progress bar, drawn on a terminal only.
pub(crate) fn progress(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} ({per_sec}, {eta} left)")
    {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_aligned_and_harmless() {
        let items = [json!({"id": 1, "createdAt": "now"}), json!({"id": "long\u{1b}[2J", "x": 1})];
        let text = table(&["id", "createdAt"], &items);
        assert_eq!(text, "ID        CREATED AT\n1         now\nlong [2J\n");
        assert_eq!(table(&["id", "created_at"], &items), text);
        let text = table(&["id"], &[json!({"id": ["\u{202e}exe"]})]);
        assert_eq!(text, "ID\n\\u{202e}exe\n");
    }
}
