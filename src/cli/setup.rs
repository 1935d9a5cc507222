//! What a command has when it runs.

use std::path::PathBuf;

use super::{config_loader::ConfigLoader, io::output::Output, remote::RemoteArgs};
use crate::{config::LoadedConfig, telemetry};

/// What a command has when it runs.
pub(crate) struct Setup {
    pub(super) loaded: LoadedConfig,
    /// The configuration file's name and text.
    pub(super) file: Option<(String, String)>,
    pub(super) data_dir: PathBuf,
    /// `application_name` of connections to the database.
    pub(super) application_name: String,
    pub(super) output: Output,
    /// The server that administrative commands talk to, unless they work on this machine.
    pub(super) remote: RemoteArgs,
    pub(super) config_loader: ConfigLoader,
    pub(super) level: telemetry::log::LogFilter,
    /// Describes the command line, for completions and the manual.
    pub(super) command_line: fn() -> clap::Command,
}
