//! `policy`: tries content policies.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::{
    cli::{
        io::exit::{ExitStatus, Failure},
        privilege::{self, OpenFiles},
        setup::Setup,
        spec::{CommandFuture, Runnable, Spec},
    },
    domain::ContentType,
    store::content_policy,
};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show what a content policy says of a text
    Test {
        /// File of the policy, in JSON
        file: PathBuf,
        /// Content of a message
        #[arg(long)]
        text: String,
        /// Read the content as a JSON document
        #[arg(long)]
        json: bool,
    },
}

impl Runnable for PolicyCommand {
    fn spec(&self) -> Spec {
        Spec::PRINTS
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self) })
    }
}

fn run(setup: &Setup, command: PolicyCommand) -> Result<(), Failure> {
    let PolicyCommand::Test { file, text, json } = command;
    let policy = content_policy::parse(&privilege::text(None, &file)?)
        .map_err(|why| Failure::new(ExitStatus::Usage, why.to_string()))?;
    let content_type = if json { ContentType::Json } else { ContentType::Text };
    let verdict = policy.judge(&text, content_type);
    setup.output.record(&json!({ "verdict": verdict.name(), "rules": verdict.rules() }));
    Ok(())
}
