//! Options of every command.

use std::path::PathBuf;

use clap::Args;

use super::{admin::remote::RemoteArgs, io::output::Format};

#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Configuration file [default: /etc/esh3ar/esh3ar.toml, if it is there]
    #[arg(long, global = true, env = "ESH3AR_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Folder of the embedded parts
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) remote: RemoteArgs,
    /// How data are printed
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// Print data only
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Log more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}
