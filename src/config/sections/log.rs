//! `log.*`: logs.

use crate::{
    config::{
        keys::default,
        parse::{one_of, share, wanted},
        section::section,
    },
    domain::trace::TraceSampler,
};

section! {
    /// Logs.
    pub struct LogConfig in "log." {
        /// error, warn, info, debug, trace, or filter directives.
        level: String = default("info").live() => filter,
        /// text, json, or auto: text on a terminal.
        format: LogFormat = default("auto") => one_of(&[
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
        ]),
        /// Share of the messages, from 0 to 1, of which it is logged that they were accepted and delivered;
        /// retries and messages given up are logged of all.
        sample: TraceSampler = default("0.01").live() => share,
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
    wanted(good.then(|| text.to_owned()), what, text)
}
