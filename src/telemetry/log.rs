//! Logs to standard error: text for people, JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

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
    let terminal = std::io::stderr().is_terminal();
    // A line that cannot be written is lost: telling of it on the same standard error would panic, and take
    // the request with it that logged.
    let builder =
        fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
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
