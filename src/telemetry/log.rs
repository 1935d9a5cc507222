//! Logs to standard error: text for people, JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

/// A filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log.level cannot be read: {0}")]
pub struct BadFilter(String);

/// What libraries say below this is about themselves, not about the appliance; some of it would
/// quote requests.
const MUTED: &[&str] =
    &["hyper", "h2", "rustls", "tokio_postgres", "reqwest", "warp", "tungstenite"];

/// Starts logging. Does nothing when it has been started before.
///
/// # Errors
/// The filter cannot be read.
pub fn init(level: &str, json: Option<bool>) -> Result<(), BadFilter> {
    let directives =
        MUTED.iter().fold(level.to_owned(), |all, library| format!("{library}=warn,{all}"));
    // A connection that Postgres ends when it stops is no news, and any other failure is told by the
    // call that it fails.
    // The same holds for the broker's library, which would also quote what came back.
    let directives = format!("deadpool=error,lapin=off,{directives}");
    let filter = EnvFilter::try_new(directives).map_err(|error| BadFilter(error.to_string()))?;
    let terminal = std::io::stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json.unwrap_or(!terminal) {
        let _ = builder.json().flatten_event(true).with_current_span(false).try_init();
    } else {
        let color = terminal && std::env::var_os("NO_COLOR").is_none();
        let _ = builder.with_ansi(color).with_target(false).try_init();
    }
    Ok(())
}
