//! `log.*`: logs.

use crate::{
    config::{
        key::default,
        parse::{expected, one_of, sampler},
        sections::section::section,
    },
    domain::trace::TraceSampler,
};

section! {
    /// Logs.
    pub struct LogConfig in "log." {
        /// error, warn, info, debug, trace, off, or filter directives such as info,esh3ar::store=debug.
        level: String = default("info").reloadable() => filter,
        /// Log format: text, json or auto (text on a terminal, JSON elsewhere).
        format: LogFormat = default("auto") => one_of(&[
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
        ]),
        /// Fraction of messages whose acceptance and delivery are logged, 0 to 1. Retries and failures are
        /// always logged.
        sample: TraceSampler = default("0.01").reloadable() => sampler,
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Always text.
    Text,
    /// Always JSON.
    Json,
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A level, or filter directives such as `info,esh3ar::store=debug`. A filter would take a misspelt level for
/// the name of a module and show nothing.
fn filter(text: &str) -> Result<String, String> {
    let is_level = |word: &str| LEVELS.contains(&word.to_ascii_lowercase().as_str());
    let good =
        text.split(',').all(|part| is_level(part.rsplit('=').next().unwrap_or_default().trim()));
    let what = "error, warn, info, debug, trace or off, or directives such as esh3ar=debug";
    expected(good.then(|| text.to_owned()), what, text)
}
