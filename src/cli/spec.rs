//! What a command needs before it runs: data of its module that `dispatch` follows.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
};

use super::{
    config_loader::ConfigOverride,
    io::{
        atomic_file::AtomicFile,
        exit::Failure,
        output::{Format, Output},
    },
    privilege::{self, OpenFiles, output_is_file},
    setup::Setup,
};
use crate::config::{ConfigErrors, LoadedConfig};

#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// In the name of its connections to the database.
    pub(super) name: &'static str,
    pub(super) scope: Scope,
    /// Whether it fails without an installation. The other commands create the embedded database if there
    /// is none.
    pub(super) needs_installation: bool,
    pub(super) privilege: Privilege,
    pub(super) configuration: ConfigAccess,
    pub(super) log: LogLevel,
    /// The data folder if the configuration names none.
    pub(super) default_data_dir: fn() -> PathBuf,
    /// Overrides `--output`.
    pub(super) format: Option<Format>,
}

/// What `--url` means to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The server whose admin API it uses instead of this machine's installation.
    AdminApi,
    /// Nothing: it has its own option for an address, or needs none.
    OwnOption,
    /// An error: it works on this machine only.
    ThisMachine {
        /// Whether it changes this machine. Then `ESH3AR_URL` is an error too: the user who has set it
        /// means that server.
        changes: bool,
        what: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
}

impl Scope {
    /// A command that reads from this machine.
    pub(super) const THIS_MACHINE_READS: Scope = Scope::this_machine(false);
    /// A command that changes this machine.
    pub(super) const THIS_MACHINE_WRITES: Scope = Scope::this_machine(true);

    const fn this_machine(changes: bool) -> Scope {
        let what = "this command works only on the machine that it runs on";
        Scope::ThisMachine { changes, what, hint: "run it on the server, without --url" }
    }
}

/// Whether root's process drops its privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privilege {
    /// It continues as the service's user.
    Service,
    /// It continues as the service's user if the database is the embedded one.
    Data,
    /// It continues as the service's user if there is an installation: a file that this user cannot read is an
    /// error that root would not notice.
    Inspection,
    /// It stays root.
    Caller,
}

/// How a command reads the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConfigAccess {
    /// Not at all: the defaults apply.
    Unused,
    Required,
    /// The default file may be unreadable: the command needs nothing of this machine, or
    /// has a folder of its own.
    Lenient,
}

impl ConfigAccess {
    pub(super) fn lenient_if(lenient: bool) -> ConfigAccess {
        if lenient { ConfigAccess::Lenient } else { ConfigAccess::Required }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogLevel {
    /// As configured, for processes that serve.
    Configured,
    /// Warnings, unless `-v` asks for more: commands print their results.
    Warnings,
    /// Nothing while the command draws on the whole terminal, where it shows errors itself; else as above.
    OffOnScreen,
}

const DEFAULT_NAME: &str = "command";
/// The names of reading commands, whose connections `restore` may terminate.
pub(super) const TOP_NAME: &str = "top";
pub(super) const READER_NAME: &str = "read";
/// Prefixes of the names of connections that may be terminated, because nothing is lost.
pub(super) const TERMINABLE_NAMES: [&str; 2] = ["esh3ar top/", "esh3ar read/"];

impl Spec {
    /// A command that uses this machine's data, or creates an installation.
    pub(super) const LOCAL: Spec = Spec {
        name: DEFAULT_NAME,
        scope: Scope::THIS_MACHINE_READS,
        needs_installation: false,
        privilege: Privilege::Data,
        configuration: ConfigAccess::Required,
        log: LogLevel::Warnings,
        default_data_dir: privilege::default_data_dir,
        format: None,
    };

    /// A command that uses the admin API, in this process or on another server.
    pub(super) const ADMIN: Spec =
        Spec { scope: Scope::AdminApi, needs_installation: true, ..Spec::LOCAL };

    /// The same, for one that only reads.
    pub(super) const ADMIN_READ: Spec = Spec { name: READER_NAME, ..Spec::ADMIN };

    /// A command that only prints data of the binary.
    pub(super) const PRINTS: Spec = Spec {
        scope: Scope::OwnOption,
        privilege: Privilege::Caller,
        configuration: ConfigAccess::Unused,
        ..Spec::LOCAL
    };
}

pub(super) type CommandFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

pub(super) trait Runnable {
    fn spec(&self) -> Spec;

    /// Runs it; `files` are those of [`Runnable::open_files`].
    fn run(self: Box<Self>, setup: &Setup, files: OpenFiles) -> CommandFuture<'_>;

    /// Adds the configuration keys that its options set.
    fn config_overrides(&self, _overrides: &mut Vec<ConfigOverride>) {}

    /// The configuration file, from `--config` and `--data-dir`.
    fn config_file(
        &self,
        config: Option<&Path>,
        _data_dir: Option<&Path>,
        _output: &Output,
    ) -> Result<Option<PathBuf>, Failure> {
        Ok(config.map(Path::to_owned))
    }

    /// Ends the command after the configuration was read, if it returns a result.
    fn check_config(
        &self,
        _output: &Output,
        _loaded: Result<&LoadedConfig, &ConfigErrors>,
    ) -> Option<Result<(), Failure>> {
        None
    }

    /// Opens the caller's files, before root's process becomes another user.
    fn open_files(&self) -> Result<CallerFiles, Failure> {
        Ok(CallerFiles::default())
    }
}

/// The files of a command, opened by its caller.
#[derive(Default)]
pub(super) struct CallerFiles {
    pub(super) open: OpenFiles,
    /// A file that root creates for the service's user.
    pub(super) created: Option<PathBuf>,
    pub(super) finalizer: Finalizer,
}

/// Finishes or discards the files; its argument is whether the command succeeded.
pub(super) type FinalizeFn = Box<dyn FnOnce(&Setup, bool) -> Result<(), Failure>>;

/// Which process calls it.
#[derive(Default)]
pub(super) enum Finalizer {
    #[default]
    None,
    /// The process that opened the files.
    Caller(FinalizeFn),
    /// Only root's process, after that of the service's user.
    Root(FinalizeFn),
}

impl CallerFiles {
    /// The file of an export, unless that goes to standard output.
    pub(super) fn export(out: Option<&Path>) -> Result<CallerFiles, Failure> {
        let Some(path) = out.filter(|path| *path != Path::new("-") && !output_is_file()) else {
            return Ok(CallerFiles::default());
        };
        let (atomic, file) = AtomicFile::open(path)?;
        Ok(CallerFiles {
            open: OpenFiles { out: Some(file), ..OpenFiles::default() },
            finalizer: Finalizer::Caller(Box::new(|_, is_complete| atomic.finish(is_complete))),
            ..CallerFiles::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{super::Cli, *};

    fn spec(line: &str) -> Spec {
        let words = ["esh3ar"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap().command.runnable().spec()
    }

    #[test]
    fn commands_that_may_begin_an_installation_need_none() {
        let begins = [
            "user add x",
            "mobile add +967771234567",
            "token create --user x",
            "message send --from x --to +967771234567 hello",
            "migrate",
            "drain",
            "import users x.csv",
            "reload",
            "init",
            "serve",
            "worker",
            "demo",
            "restore x",
            "doctor",
            "bench",
            "config show",
        ];
        for line in begins {
            assert!(!spec(line).needs_installation, "{line}");
        }
        let needs = [
            "user list",
            "user set x",
            "mobile erase +967771234567",
            "token revoke x",
            "message delete x --reason y",
            "migrate --status",
            "migrate --dry-run",
            "drain --node x",
            "conversation list",
            "dlq list",
            "audit delivery",
            "sms test x",
            "backup x",
            "top",
        ];
        for line in needs {
            assert!(spec(line).needs_installation, "{line}");
        }
    }

    #[test]
    fn commands_that_only_read_have_names_of_connections_that_may_be_ended() {
        let ended = |line: &str| {
            let name = format!("esh3ar {}/1", spec(line).name);
            TERMINABLE_NAMES.iter().any(|reader| name.starts_with(reader))
        };
        for line in [
            "top",
            "user list",
            "user show x",
            "mobile list",
            "mobile check",
            "mobile show x",
            "token list",
            "message list",
            "message show x",
            "message explain x",
            "conversation list",
            "conversation show x",
            "audit delivery",
            "audit access",
        ] {
            assert!(ended(line), "{line}");
        }
        for line in [
            "user add x",
            "mobile export x",
            "mobile erase x",
            "token rotate x",
            "message delete x --reason y",
            "conversation export x",
            "conversation close x",
            "dlq list",
            "dlq requeue --all",
            "backup x",
            "restore x",
            "migrate",
            "import users x.csv",
        ] {
            assert!(!ended(line), "{line}");
        }
    }

    #[test]
    fn who_may_run_as_root_and_where_an_address_means_something() {
        let of = |line: &str| spec(line).privilege;
        for line in ["serve", "worker"] {
            assert_eq!(of(line), Privilege::Service, "{line}");
            assert_eq!(spec(line).log, LogLevel::Configured, "{line}");
        }
        assert_eq!(of("doctor"), Privilege::Inspection);
        for line in ["config show", "man", "completions bash", "restore x --configuration-to y"] {
            assert_eq!(of(line), Privilege::Caller, "{line}");
        }
        for line in ["restore x", "init", "user list", "demo", "bench", "reload"] {
            assert_eq!(of(line), Privilege::Data, "{line}");
        }
        for line in ["user list", "import users x.csv", "drain", "top", "dlq list"] {
            assert_eq!(spec(line).scope, Scope::AdminApi, "{line}");
        }
        for line in ["listen --token x", "chat --with x", "bench", "config doc"] {
            assert_eq!(spec(line).scope, Scope::OwnOption, "{line}");
        }
        for (line, does) in [
            ("backup x", true),
            ("restore x", true),
            ("init", true),
            ("migrate", true),
            ("reload", true),
            ("sms test x", true),
            ("serve", false),
            ("demo", false),
            ("doctor", false),
            ("config check", false),
        ] {
            let there = spec(line).scope;
            assert!(
                matches!(there, Scope::ThisMachine { changes, .. } if changes == does),
                "{line}"
            );
        }
        for line in ["listen --token x --url y", "chat --with x --url y", "bench", "demo"] {
            assert_eq!(spec(line).configuration, ConfigAccess::Lenient, "{line}");
        }
        for line in ["listen --token x", "chat --with x", "chat --with x --as y --url z", "serve"] {
            assert_eq!(spec(line).configuration, ConfigAccess::Required, "{line}");
        }
    }
}
