//! `config`: shows and checks the configuration, and prints the reference of all keys.

use clap::Subcommand;
use serde::Serialize;

use crate::{
    cli::{
        io::{
            exit::{ExitStatus, Failure},
            output::{Output, pluralize},
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Privilege, Runnable, Spec},
    },
    config::{ConfigErrors, LoadedConfig, describe},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every key with its value and source; secrets are hidden
    Show,
    /// Report every error in the configuration
    Check,
    /// Print a commented file with every key
    Default,
    /// Print a reference of all keys, in Markdown
    Doc,
}

impl Runnable for ConfigCommand {
    fn spec(&self) -> Spec {
        match self {
            ConfigCommand::Show | ConfigCommand::Check => {
                Spec { privilege: Privilege::Caller, ..Spec::LOCAL }
            }
            ConfigCommand::Default | ConfigCommand::Doc => Spec::PRINTS,
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move {
            match *self {
                ConfigCommand::Show => show(setup),
                ConfigCommand::Default => setup.output.text(&describe::default_file()),
                ConfigCommand::Doc => setup.output.text(&describe::markdown()),
                // `check_config` has done it.
                ConfigCommand::Check => {}
            }
            Ok(())
        })
    }

    fn check_config(
        &self,
        output: &Output,
        loaded: Result<&LoadedConfig, &ConfigErrors>,
    ) -> Option<Result<(), Failure>> {
        matches!(self, ConfigCommand::Check).then(|| check(output, loaded))
    }
}

#[derive(Serialize)]
struct KeyView<'a> {
    key: &'a str,
    value: &'a str,
    from: String,
}

fn show(setup: &Setup) {
    let lines: Vec<KeyView<'_>> = setup
        .loaded
        .origins
        .iter()
        .map(|o| KeyView { key: &o.key, value: &o.value, from: o.source.to_string() })
        .collect();
    setup.output.records(&["key", "value", "from"], &lines);
    setup.output.note(&format!("data folder: {}", setup.data_dir.display()));
}

fn check(output: &Output, loaded: Result<&LoadedConfig, &ConfigErrors>) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Fault {
        place: String,
        fault: String,
    }
    match loaded {
        Ok(_) => {
            output.note("the configuration is valid");
            Ok(())
        }
        Err(errors) => {
            let faults: Vec<Fault> = errors
                .0
                .iter()
                .map(|f| Fault { place: f.source.to_string(), fault: f.text.clone() })
                .collect();
            if !output.is_table() {
                output.records(&["place", "fault"], &faults);
            }
            let count = pluralize(faults.len(), "error");
            Err(Failure::new(
                ExitStatus::Config,
                format!("{count} in the configuration:\n{errors}"),
            ))
        }
    }
}
