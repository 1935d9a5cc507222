//! The option `--reason` of commands, for the audit log.

use clap::Args;

use crate::{
    app::By,
    cli::{io::exit::Failure, process::operator::operator, setup::Setup},
};

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AuditReason {
    /// Reason, recorded in the audit log
    #[arg(id = "why", long = "reason", visible_alias = "because", value_name = "TEXT")]
    text: Option<String>,
}

/// The same for commands whose `--reason` is a filter.
#[derive(Debug, Default, Args)]
pub(crate) struct BecauseArg {
    /// Reason, recorded in the audit log
    #[arg(id = "why", long = "because", value_name = "TEXT")]
    text: Option<String>,
}

impl AuditReason {
    pub(crate) fn because(text: String) -> AuditReason {
        AuditReason { text: Some(text) }
    }

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
    /// The operator with the reason, for the audit log.
    pub(crate) fn by(&self, why: &AuditReason) -> Result<By, Failure> {
        Ok(operator().because(why.text())?)
    }
}
