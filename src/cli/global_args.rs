//! Options of every command.

use std::path::PathBuf;

use clap::Args;

use super::{io::output::Format, remote::RemoteArgs};

#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Configuration file [default: /etc/esh3ar/esh3ar.toml, if it exists]
    #[arg(long, global = true, env = "ESH3AR_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Data folder, with the embedded Postgres
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) remote: RemoteArgs,
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// Print data only, without remarks
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Log more; -vv logs everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}
