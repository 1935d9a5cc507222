//! What a command needs before it runs, as data that its module gives and `dispatch` follows.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
};

use super::{
    io::{
        atomic_file::AtomicFile,
        exit::Failure,
        output::{Format, Output},
    },
    process::{
        config_sources::ConfigOverride,
        privilege::{self, OpenFiles, output_is_file},
    },
    setup::Setup,
};
use crate::config::{ConfigErrors, Loaded};

/// What a command needs before it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// What its process and its connections to the database are called.
    pub(super) name: &'static str,
    /// What an address of a server elsewhere means to it.
    pub(super) scope: Scope,
    /// Whether it works on an installation that is there. For the others the private database is made where
    /// there is none.
    pub(super) needs_installation: bool,
    pub(super) privilege: Privilege,
    pub(super) configuration: ConfigAccess,
    pub(super) log: LogLevel,
    /// The data folder where the configuration names none.
    pub(super) default_data_dir: fn() -> PathBuf,
    /// How data are printed, whatever `--output` says.
    pub(super) format: Option<Format>,
}

/// What `--url` means to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The server whose admin API it uses, instead of the installation of this machine.
    AdminApi,
    /// Nothing: it has an option of its own for the address, or needs none.
    OwnOption,
    /// A mistake that must not pass unnoticed: it works on this machine only.
    ThisMachine {
        /// Whether it changes this machine. Then an exported address is a mistake too: the user who has set it
        /// means that server.
        changes: bool,
        what: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
}

impl Scope {
    /// A command of this machine that changes nothing that another one has.
    pub(super) const THIS_MACHINE_READS: Scope = Scope::this_machine(false);
    /// A command that changes this machine.
    pub(super) const THIS_MACHINE_WRITES: Scope = Scope::this_machine(true);

    const fn this_machine(changes: bool) -> Scope {
        let what = "this command works only on the machine that it runs on";
        Scope::ThisMachine { changes, what, hint: "run it on the server, without --url" }
    }
}

/// What root's process does about being root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privilege {
    /// It continues as the service's user, whatever it works on.
    Service,
    /// It continues as the service's user where the database is the private one of the data folder.
    Data,
    /// It continues as the service's user where there is an installation: what that user cannot read is a fault
    /// that root would not see.
    Inspection,
    /// It stays root.
    Caller,
}

/// How a command reads the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConfigAccess {
    /// Not at all: only defaults are in effect.
    Unused,
    Required,
    /// The file in its default place may be closed to the user: the command needs nothing of this machine, or
    /// has a folder of its own.
    Lenient,
}

impl ConfigAccess {
    /// Lenient, or not.
    pub(super) fn lenient_if(lenient: bool) -> ConfigAccess {
        if lenient { ConfigAccess::Lenient } else { ConfigAccess::Required }
    }
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogLevel {
    /// What the configuration says: a process that serves.
    Configured,
    /// Warnings, unless `-v` asks for more: commands print what they have to say.
    Warnings,
    /// Nothing where the command takes the whole terminal, where it shows faults itself; else as the one above.
    OffOnScreen,
}

/// The name of most commands.
const DEFAULT_NAME: &str = "command";
/// The names of commands that only look, and that a more important one may end.
pub(super) const TOP_NAME: &str = "top";
pub(super) const READER_NAME: &str = "read";
/// What the names of connections begin with that may be ended, because nothing is lost with them.
pub(super) const TERMINABLE_NAMES: [&str; 2] = ["esh3ar top/", "esh3ar read/"];

impl Spec {
    /// A command of this machine that uses its data, or begins an installation.
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

    /// A command of administrators: over the admin API of an installation, in this process or elsewhere.
    pub(super) const ADMIN: Spec =
        Spec { scope: Scope::AdminApi, needs_installation: true, ..Spec::LOCAL };

    /// The same of one that only reads.
    pub(super) const ADMIN_READ: Spec = Spec { name: READER_NAME, ..Spec::ADMIN };

    /// A command that only prints what is in the binary.
    pub(super) const PRINTS: Spec = Spec {
        scope: Scope::OwnOption,
        privilege: Privilege::Caller,
        configuration: ConfigAccess::Unused,
        ..Spec::LOCAL
    };
}

/// A command that runs.
pub(super) type CommandFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// A command.
pub(super) trait Runnable {
    /// What it needs before it runs.
    fn spec(&self) -> Spec;

    /// Runs it; `files` are those of [`Runnable::open_files`].
    fn run(self: Box<Self>, setup: &Setup, files: OpenFiles) -> CommandFuture<'_>;

    /// Adds the keys of the configuration that its options set.
    fn config_overrides(&self, _overrides: &mut Vec<ConfigOverride>) {}

    /// The configuration file, of what `--config` and `--data-dir` say.
    ///
    /// # Errors
    /// It cannot be written, by the command that writes it.
    fn config_file(
        &self,
        config: Option<&Path>,
        _data_dir: Option<&Path>,
        _output: &Output,
    ) -> Result<Option<PathBuf>, Failure> {
        Ok(config.map(Path::to_owned))
    }

    /// How it ends by what became of the configuration, if it does.
    fn check_config(
        &self,
        _output: &Output,
        _loaded: Result<&Loaded, &ConfigErrors>,
    ) -> Option<Result<(), Failure>> {
        None
    }

    /// Opens the files that are the caller's to open, before root's process becomes another user.
    ///
    /// # Errors
    /// They cannot be used.
    fn open_files(&self) -> Result<CallerFiles, Failure> {
        Ok(CallerFiles::default())
    }
}

/// The files that a command's caller opens.
#[derive(Default)]
pub(super) struct CallerFiles {
    pub(super) open: OpenFiles,
    /// A file that the service's user has to be able to write, made for it by root.
    pub(super) created: Option<PathBuf>,
    pub(super) finalizer: Finalizer,
}

/// What is left to do when it is known whether the command did all that was asked.
pub(super) type FinalizeFn = Box<dyn FnOnce(&Setup, bool) -> Result<(), Failure>>;

/// Who does that.
#[derive(Default)]
pub(super) enum Finalizer {
    #[default]
    None,
    /// The process that opened the files.
    Caller(FinalizeFn),
    /// The same, but only root's process after that of the service's user.
    Root(FinalizeFn),
}

impl CallerFiles {
    /// The file of an export, if it does not go to standard output.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn export(out: Option<&Path>) -> Result<CallerFiles, Failure> {
        let Some(path) = out.filter(|path| *path != Path::new("-") && !output_is_file()) else {
            return Ok(CallerFiles::default());
        };
        let (atomic, file) = AtomicFile::open(path)?;
        Ok(CallerFiles {
            open: OpenFiles { out: Some(file), input: None },
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
