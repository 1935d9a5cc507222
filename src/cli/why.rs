//! Why something is done, and by whom: what the audit log says of a command.

use clap::Args;

use super::{Setup, exit::Failure, privilege};
use crate::app::By;

/// Why.
#[derive(Debug, Default, Args)]
pub(super) struct Why {
    /// Why this is done; kept in the audit log
    #[arg(id = "why", long = "reason", visible_alias = "because", value_name = "TEXT")]
    text: Option<String>,
}

/// Why, where `--reason` names a filter.
#[derive(Debug, Default, Args)]
pub(super) struct Because {
    /// Why this is done; kept in the audit log
    #[arg(id = "why", long = "because", value_name = "TEXT")]
    text: Option<String>,
}

impl Setup {
    /// Whoever runs this command, with why.
    pub(super) fn by(&self, why: &Why) -> Result<By, Failure> {
        Ok(operator().because(why.text.as_deref())?)
    }

    /// The same where `--reason` names a filter.
    pub(super) fn by_because(&self, why: &Because) -> Result<By, Failure> {
        Ok(operator().because(why.text.as_deref())?)
    }
}

/// Whoever runs this command.
pub(super) fn operator() -> By {
    By::command(&privilege::operator(), &privilege::host())
}
