//! `config`: what is configured, what is wrong with it, and every key on paper.

use clap::Subcommand;
use serde::Serialize;

use super::{
    Setup, addresses,
    exit::{Failure, Kind},
    output::{Output, counted},
};
use crate::config::Sources;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Every key with its value and where it came from; secrets are hidden
    Show,
    /// Find everything that is wrong with the configuration
    Check,
    /// Print a commented file with every key
    Default,
    /// Print a page with every key, in Markdown
    Doc,
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    value: &'a str,
    from: String,
}

pub(super) fn show(setup: &Setup) {
    let lines: Vec<Line<'_>> = setup
        .loaded
        .origins
        .iter()
        .map(|o| Line { key: o.key, value: &o.value, from: o.source.to_string() })
        .collect();
    setup.output.records(&["key", "value", "from"], &lines);
    setup.output.note(&format!("data folder: {}", setup.data_dir.display()));
}

pub(super) fn check(output: Output, sources: Sources) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Fault {
        place: String,
        fault: String,
    }
    match addresses::load(sources) {
        Ok(_) => {
            output.note("the configuration is good");
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
            let count = counted(faults.len(), "fault");
            Err(Failure::new(Kind::Config, format!("{count} in the configuration:\n{errors}")))
        }
    }
}
