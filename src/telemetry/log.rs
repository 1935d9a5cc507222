//! Logs to standard error: text for people, JSON for machines.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::{EnvFilter, fmt};

use crate::domain::text::is_misleading;

#[derive(Debug, thiserror::Error)]
#[error("log.level cannot be read: {0}")]
pub struct InvalidFilter(String);

/// Libraries whose messages below `warn` are about themselves; some would quote requests.
const MUTED: &[&str] =
    &["hyper", "h2", "rustls", "tokio_postgres", "reqwest", "warp", "tungstenite"];

/// Changes the log filter at run time.
pub struct LogFilter(Box<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl LogFilter {
    /// Sets the filter. Returns false if another component started logging.
    ///
    /// # Errors
    /// The filter is invalid; the old one stays.
    pub fn set(&self, level: &str) -> Result<bool, InvalidFilter> {
        Ok((self.0)(filter(level)?))
    }
}

/// Starts logging; does nothing if it was started before.
///
/// # Errors
/// The filter is invalid.
pub fn init(level: &str, json: Option<bool>) -> Result<LogFilter, InvalidFilter> {
    let filter = filter(level)?;
    let terminal = io::stderr().is_terminal();
    // A line that cannot be written is lost: telling of it on the same standard error would panic, and take
    // the request with it that logged.
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(|| Escaping(io::stderr()))
        .log_internal_errors(false);
    if json.unwrap_or(!terminal) {
        let builder =
            builder.json().flatten_event(true).with_current_span(false).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        Ok(LogFilter(Box::new(move |filter| handle.reload(filter).is_ok())))
    } else {
        let color = terminal && std::env::var_os("NO_COLOR").is_none();
        let builder = builder.with_ansi(color).with_target(false).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        Ok(LogFilter(Box::new(move |filter| handle.reload(filter).is_ok())))
    }
}

/// Escapes what could control or mislead a terminal, and is not the log's own: the log's colours and line
/// feeds are the only control characters below U+0080, and its formatter escapes those of values. The form is
/// that of JSON, where each stands inside a string.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A line is written in one call.
        match std::str::from_utf8(bytes) {
            Ok(text) if text.contains(is_unsafe) => {
                let mut shown = String::with_capacity(text.len() + 16);
                for c in text.chars() {
                    if is_unsafe(c) {
                        shown.push_str(&format!("\\u{:04x}", u32::from(c)));
                    } else {
                        shown.push(c);
                    }
                }
                self.0.write_all(shown.as_bytes())?;
            }
            _ => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn is_unsafe(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}') || is_misleading(c)
}

fn filter(level: &str) -> Result<EnvFilter, InvalidFilter> {
    let directives =
        MUTED.iter().fold(level.to_owned(), |all, library| format!("{library}=warn,{all}"));
    // A connection that Postgres ends when it stops is no news, and any other failure is told by the
    // call that it fails.
    // The same holds for the broker's library, which would also quote what came back, and for the one
    // that tells the collector of traces.
    let directives = format!("deadpool=error,lapin=off,opentelemetry=off,{directives}");
    EnvFilter::try_new(directives).map_err(|error| InvalidFilter(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_does_not_steer_the_terminal() {
        let mut lines = Vec::new();
        let text = "\u{1b}[2mat\u{1b}[0m \u{9b}2J \u{202e}x\u{200f} سلام\n";
        Escaping(&mut lines).write_all(text.as_bytes()).unwrap();
        let shown = String::from_utf8(lines).unwrap();
        assert_eq!(shown, "\u{1b}[2mat\u{1b}[0m \\u009b2J \\u202ex\\u200f سلام\n");
    }
}
