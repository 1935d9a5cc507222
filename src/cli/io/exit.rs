//! How a command fails: one line on standard error with the error and a hint, and an exit status that scripts
//! and systemd can act on.

use std::{
    io::{BufRead as _, ErrorKind, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use crate::{app, config::ConfigErrors, domain::text::is_misleading, store};

/// The hint for a full disk of the database.
pub(crate) const FREE_DISK_SPACE: &str =
    "free space on the database's disk (its log and df show which); esh3ar doctor checks data_dir";

/// The exit statuses; scripts and the systemd units rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// Any other failure.
    Failed = 1,
    /// Wrong options or arguments.
    Usage = 2,
    /// Partial success.
    Partly = 3,
    /// The subject does not exist.
    NotFound = 4,
    /// Forbidden, or in conflict with the present state.
    Refused = 5,
    /// A dependency cannot be reached.
    Unavailable = 69,
    /// The configuration or the data folder has an error that no restart repairs; systemd must not start
    /// the process again.
    Config = 78,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: ExitStatus,
    pub(crate) what: String,
    pub(crate) hint: Option<String>,
}

/// Whether the disk or the user's quota is full.
pub(crate) fn is_disk_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl Failure {
    pub(crate) fn new(kind: ExitStatus, what: impl Into<String>) -> Failure {
        Failure { kind, what: what.into(), hint: None }
    }

    /// A file that could not be written; `otherwise` is the hint when its disk is not full.
    pub(crate) fn write_error(path: &Path, error: &std::io::Error, otherwise: &str) -> Failure {
        let failure = Failure::new(
            ExitStatus::Failed,
            match error.kind() {
                ErrorKind::StorageFull => format!("{}: the disk is full ({error})", path.display()),
                _ => format!("{} cannot be written: {error}", path.display()),
            },
        );
        if is_disk_full(error) {
            failure.hint(format!("free space on that disk, or {otherwise}"))
        } else {
            failure.hint(otherwise)
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Prints it on standard error and returns the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        let mut line = format!("error: {}", self.what);
        if let Some(hint) = &self.hint {
            line.push_str("; hint: ");
            line.push_str(hint);
        }
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "{}", sanitized(&line));
        ExitCode::from(self.kind as u8)
    }
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Self {
        use app::Error;
        let kind = match &error {
            Error::Invalid(_) => ExitStatus::Usage,
            Error::NotFound(_) => ExitStatus::NotFound,
            Error::Unauthenticated
            | Error::Forbidden(_)
            | Error::WrongAudience(_)
            | Error::ReadOnly
            | Error::Conflict(_)
            | Error::ClientMessageIdReused
            | Error::ContentRefused(_)
            | Error::KeyReused => ExitStatus::Refused,
            Error::Unavailable
            | Error::DiskFull
            | Error::Away(_)
            | Error::Overloaded { .. }
            | Error::RateLimited { .. } => ExitStatus::Unavailable,
            Error::Internal => ExitStatus::Failed,
        };
        let failure = Failure::new(kind, error.to_string());
        match kind {
            ExitStatus::Unavailable if matches!(error, Error::DiskFull) => {
                failure.hint(FREE_DISK_SPACE)
            }
            ExitStatus::Unavailable => failure.hint("run: esh3ar doctor"),
            _ => failure,
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        let kind = if error.is_transient() { ExitStatus::Unavailable } else { ExitStatus::Failed };
        let hint = match error {
            store::Error::DiskFull(_) => FREE_DISK_SPACE,
            _ => "run: esh3ar doctor",
        };
        Failure::new(kind, error.to_string()).hint(hint)
    }
}

impl From<store::embedded::EmbeddedError> for Failure {
    fn from(error: store::embedded::EmbeddedError) -> Self {
        use store::embedded::EmbeddedError;
        let kind = match &error {
            EmbeddedError::Locked { .. } | EmbeddedError::Missing { .. } | EmbeddedError::Root => {
                ExitStatus::Refused
            }
            EmbeddedError::NoBinaries
            | EmbeddedError::MajorMismatch { .. }
            | EmbeddedError::Folder { .. }
            | EmbeddedError::Damaged { .. } => ExitStatus::Config,
            // Systemd starts it again; by then there may be space.
            EmbeddedError::DiskFull { .. }
            | EmbeddedError::Initdb(_)
            | EmbeddedError::Died(_)
            | EmbeddedError::NoAnswer(_) => ExitStatus::Unavailable,
        };
        let hint = error.hint();
        Failure::new(kind, error.to_string()).hint(hint)
    }
}

impl From<store::migrate::MigrateError> for Failure {
    fn from(error: store::migrate::MigrateError) -> Self {
        use store::migrate::MigrateError;
        let text = error.to_string();
        match error {
            MigrateError::Newer { .. } => {
                Failure::new(ExitStatus::Refused, text).hint("install the newer esh3ar")
            }
            MigrateError::Changed { .. } => Failure::new(ExitStatus::Refused, text)
                .hint("use the esh3ar version that created this database"),
            MigrateError::Step { .. } => Failure::new(ExitStatus::Failed, text),
            MigrateError::Store(error) => error.into(),
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Failure::new(ExitStatus::Config, format!("invalid configuration:\n{errors}"))
            .hint("run: esh3ar config check")
    }
}

/// A failure may quote anything, even a damaged file or somebody's message: escapes what could control the
/// terminal.
pub(crate) fn sanitized(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() || is_misleading(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Asks the user to type a word before a destructive operation. Works on a terminal only; elsewhere
/// `--yes` is needed.
///
/// # Errors
/// [`ExitStatus::Refused`].
pub(crate) fn confirm_typed(what: &str, word: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    // Not standard input: that may be the file that the command reads.
    let terminal = std::io::stderr()
        .is_terminal()
        .then(|| std::fs::File::options().read(true).write(true).open("/dev/tty").ok())
        .flatten();
    let Some(mut terminal) = terminal.map(std::io::BufReader::new) else {
        return Err(Failure::new(ExitStatus::Refused, "confirmation required").hint("use --yes"));
    };
    let mut answer = String::new();
    let asked =
        write!(terminal.get_mut(), "{}\nType {} to continue: ", sanitized(what), sanitized(word))
            .and_then(|()| terminal.read_line(&mut answer));
    if asked.is_ok() && answer.trim() == word {
        Ok(())
    } else {
        Err(Failure::new(ExitStatus::Refused, "not confirmed"))
    }
}

/// Asks before an operation that cannot be undone. Works on a terminal only; elsewhere `--yes` is needed.
///
/// # Errors
/// [`ExitStatus::Refused`].
pub(crate) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(ExitStatus::Refused, "confirmation required").hint("use --yes"));
    }
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{} [y/N] ", sanitized(question));
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer).is_ok();
    if read && matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(ExitStatus::Refused, "not confirmed"))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_quoted_does_not_reach_the_terminal_raw() {
        let shown = super::sanitized("row \u{1b}]0;x\u{7}\u{9b}2J\0 of\n\u{7f}it, \u{202e}سلام");
        assert_eq!(shown, "row \\u{1b}]0;x\\u{7}\\u{9b}2J\\u{0} of\n\\u{7f}it, \\u{202e}سلام");
    }
}
