//! Why something is done, and by whom: what the audit log says of a command.

use clap::Args;

use crate::{
    app::By,
    cli::{io::exit::Failure, process::operator::operator, setup::Setup},
};

/// Why.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AuditReason {
    /// Reason, recorded in the audit log
    #[arg(id = "why", long = "reason", visible_alias = "because", value_name = "TEXT")]
    text: Option<String>,
}

/// Why, where `--reason` names a filter.
#[derive(Debug, Default, Args)]
pub(crate) struct BecauseArg {
    /// Reason, recorded in the audit log
    #[arg(id = "why", long = "because", value_name = "TEXT")]
    text: Option<String>,
}

impl AuditReason {
    /// For this reason.
    pub(crate) fn because(text: String) -> AuditReason {
        AuditReason { text: Some(text) }
    }

    /// As it was written.
    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

impl From<BecauseArg> for AuditReason {
    fn from(because: BecauseArg) -> AuditReason {
        AuditReason { text: because.text }
    }
}

impl Setup {
    /// Whoever runs this command, with why.
    pub(crate) fn by(&self, why: &AuditReason) -> Result<By, Failure> {
        Ok(operator().because(why.text())?)
    }
}
