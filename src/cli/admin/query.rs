//! What lists are asked for: filters, times and how many.

use crate::{
    app::Clock,
    cli::io::exit::{ExitStatus, Failure},
    client::encode,
    config::duration,
};

/// Parses `--limit`.
pub(crate) fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "a whole number above 0".to_owned())
}

/// The query of a URL.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    text: String,
}

impl Query {
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Query {
        self.text.push(if self.text.is_empty() { '?' } else { '&' });
        self.text.push_str(&format!("{name}={}", encode(&value.to_string())));
        self
    }

    #[must_use]
    pub(crate) fn with_some(self, name: &str, value: Option<impl ToString>) -> Query {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Parses an age or a time; returns a time as the API takes it.
pub(crate) fn since(text: &str) -> Result<String, Failure> {
    let format = &time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text, format).ok().or_else(|| {
        let ago = duration::parse(text).and_then(|ago| time::Duration::try_from(ago).ok());
        ago.and_then(|ago| Clock::System.now().checked_sub(ago))
    });
    time.and_then(|time| time.format(format).ok()).ok_or_else(|| {
        Failure::new(ExitStatus::Usage, format!("'{text}' is not a valid time or age"))
            .hint("for example 30m, 24h, 7d or 2026-01-31T12:00:00Z")
    })
}
