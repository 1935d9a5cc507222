//! Runs a command as its [`Spec`] says, in phases that are ordered by when their
//! errors can be found.

use std::{path::Path, process::ExitCode, time::Duration};

use super::{
    config_loader::{ConfigLoader, DEFAULT_CONFIG_PATH},
    global_args::GlobalArgs,
    io::{
        exit::{ExitStatus, Failure},
        output::{self, Output},
    },
    privilege::{self, Continuation, OpenFiles},
    process::{addresses, database},
    remote::RemoteArgs,
    setup::Setup,
    spec::{CallerFiles, ConfigAccess, Finalizer, LogLevel, Privilege, Runnable, Scope, Spec},
};
use crate::{
    config::{ConfigSources, LoadedConfig, LogFormat},
    telemetry,
};

/// How long blocking threads may take to end after the command.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn dispatch(
    global: &GlobalArgs,
    command: Box<dyn Runnable>,
    spec: &Spec,
    output: Output,
    command_line: fn() -> clap::Command,
) -> Result<ExitCode, Failure> {
    let remote = remote(spec, global, &output)?;
    let (config_loader, sources) = read(&*command, spec, global, &remote, &output)?;
    let file = sources.file.clone();
    let loaded = addresses::load(sources);
    if let Some(result) = command.check_config(&output, loaded.as_ref()) {
        return result.map(|()| ExitCode::SUCCESS);
    }
    let setup = set_up(
        spec,
        global,
        CommandConfig { loaded: loaded?, file, config_loader, remote, output, command_line },
    )?;
    if setup.remote.url.is_none() && spec.needs_installation {
        database::require_installation(&setup)?;
    }
    let CallerFiles { open: open_files, created, finalizer } = command.open_files()?;
    let open_files = match drop_root(spec, &setup, open_files, created.as_deref())? {
        Continuation::InProcess(open_files) => open_files,
        Continuation::AsUser(child) => return as_user(&setup, *child, finalizer),
    };
    run(&setup, command, open_files, finalizer)
}

/// The server to administer, if it is not this machine's.
fn remote(spec: &Spec, global: &GlobalArgs, output: &Output) -> Result<RemoteArgs, Failure> {
    let mut remote = global.remote.clone();
    let exported = || std::env::var("ESH3AR_URL").ok().filter(|url| !url.is_empty());
    match spec.scope {
        Scope::OwnOption => {
            Ok(RemoteArgs { token: remote.read_token_file(output)?, ..RemoteArgs::default() })
        }
        Scope::ThisMachine { what, hint, .. } if remote.url.is_some() => {
            Err(Failure::new(ExitStatus::Usage, what).hint(hint))
        }
        Scope::ThisMachine { changes: true, what, hint }
            if global.data_dir.is_none() && exported().is_some() =>
        {
            let what = format!("{what}, but ESH3AR_URL names another server");
            Err(Failure::new(ExitStatus::Usage, what)
                .hint(format!("unset ESH3AR_URL to work on this machine, or {hint}")))
        }
        Scope::ThisMachine { .. } => Ok(remote),
        Scope::AdminApi if remote.url.is_some() && global.data_dir.is_some() => {
            let what = "--url and --data-dir exclude each other";
            Err(Failure::new(ExitStatus::Usage, what)
                .hint("--url names a remote server, --data-dir a folder of this machine"))
        }
        Scope::AdminApi => {
            if remote.url.is_none() && global.data_dir.is_none() {
                remote.url = exported();
            }
            if remote.url.is_some() {
                remote.token = remote.read_token_file(output)?;
            }
            Ok(remote)
        }
    }
}

/// Reads the sources of the configuration, and keeps them for a reload.
fn read(
    command: &dyn Runnable,
    spec: &Spec,
    global: &GlobalArgs,
    remote: &RemoteArgs,
    output: &Output,
) -> Result<(ConfigLoader, ConfigSources), Failure> {
    if spec.configuration == ConfigAccess::Unused {
        return Ok((
            ConfigLoader { file: None, may_skip_default: true, overrides: Vec::new() },
            ConfigSources::default(),
        ));
    }
    let mut overrides = Vec::new();
    if let Some(folder) = &global.data_dir {
        overrides.push(("data_dir", absolute(folder)?, "--data-dir"));
    }
    command.config_overrides(&mut overrides);
    if global.verbose > 0 {
        let level = if global.verbose == 1 { "debug" } else { "trace" };
        overrides.push(("log.level", level.to_owned(), "-v"));
    }
    let file = command.config_file(global.config.as_deref(), global.data_dir.as_deref(), output)?;
    let may_skip_default = may_skip_default_config(spec, global, remote);
    let config_loader = ConfigLoader { file, may_skip_default, overrides };
    let sources = config_loader.read()?;
    let skipped =
        config_loader.file.is_none() && sources.file.is_none() && global.data_dir.is_some();
    if skipped && std::fs::exists(DEFAULT_CONFIG_PATH).unwrap_or(true) {
        output.note(&format!("{DEFAULT_CONFIG_PATH} is not readable for this user; ignored"));
    }
    Ok((config_loader, sources))
}

/// Whether the command may ignore the default file when the caller cannot read it: it works on another server, or
/// on a folder of its own. The service's own user may not: it would serve something else.
fn may_skip_default_config(spec: &Spec, global: &GlobalArgs, remote: &RemoteArgs) -> bool {
    let lenient = spec.configuration == ConfigAccess::Lenient;
    !privilege::is_service() && (lenient || remote.url.is_some() || global.data_dir.is_some())
}

fn absolute(path: &Path) -> Result<String, Failure> {
    std::path::absolute(path)
        .map(|path| path.display().to_string())
        .map_err(|error| Failure::new(ExitStatus::Usage, format!("{}: {error}", path.display())))
}

struct CommandConfig {
    loaded: LoadedConfig,
    file: Option<(String, String)>,
    config_loader: ConfigLoader,
    remote: RemoteArgs,
    output: Output,
    command_line: fn() -> clap::Command,
}

/// Starts the log, and chooses the data folder.
fn set_up(spec: &Spec, global: &GlobalArgs, read: CommandConfig) -> Result<Setup, Failure> {
    let CommandConfig { loaded, file, config_loader, remote, output, command_line } = read;
    let json = match loaded.config.log.format {
        LogFormat::Auto => None,
        LogFormat::Text => Some(false),
        LogFormat::Json => Some(true),
    };
    let level = match spec.log {
        LogLevel::OffOnScreen if output::is_full_screen(output.format()) => "off",
        LogLevel::Configured => &loaded.config.log.level,
        LogLevel::Warnings | LogLevel::OffOnScreen if global.verbose > 0 => {
            &loaded.config.log.level
        }
        LogLevel::Warnings | LogLevel::OffOnScreen => "warn",
    };
    let level = telemetry::log::init(level, json)
        .map_err(|error| Failure::new(ExitStatus::Config, error.to_string()))?;
    let data_dir = loaded.config.data.dir.clone().unwrap_or_else(spec.default_data_dir);
    let application_name = format!("esh3ar {}/{}", spec.name, std::process::id());
    Ok(Setup {
        loaded,
        file,
        data_dir,
        application_name,
        output,
        remote,
        config_loader,
        level,
        command_line,
    })
}

/// Prepares root's process to continue as the service's user, if the command does.
fn drop_root(
    spec: &Spec,
    setup: &Setup,
    open_files: OpenFiles,
    created: Option<&Path>,
) -> Result<Continuation, Failure> {
    let drops = match spec.privilege {
        Privilege::Service => true,
        Privilege::Data => setup.loaded.config.database.url.is_none(),
        Privilege::Inspection => database::exists(setup),
        Privilege::Caller => false,
    };
    if !drops || setup.remote.url.is_some() {
        return Ok(Continuation::InProcess(open_files));
    }
    if let Some(path) = created {
        privilege::give_file(path, &setup.data_dir)?;
    }
    let config = setup.config_loader.file.as_deref();
    privilege::drop_root(&setup.data_dir, open_files, config, setup.remote.token.as_deref())
}

/// Continues as the service's user; what only root may do in root's folders is done after that.
fn as_user(
    setup: &Setup,
    child: std::process::Command,
    finalizer: Finalizer,
) -> Result<ExitCode, Failure> {
    let (Finalizer::Caller(finalize) | Finalizer::Root(finalize)) = finalizer else {
        return Err(privilege::exec_as_user(child));
    };
    let code = privilege::run_as_user(child)?;
    finalize(setup, code == 0)?;
    Ok(ExitCode::from(code))
}

fn run(
    setup: &Setup,
    command: Box<dyn Runnable>,
    open_files: OpenFiles,
    finalizer: Finalizer,
) -> Result<ExitCode, Failure> {
    privilege::raise_file_limit();
    crate::client::prepare();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
            Failure::new(ExitStatus::Failed, format!("cannot start the runtime: {error}"))
        })?;
    let result = runtime.block_on(command.run(setup, open_files));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    let finished = match finalizer {
        Finalizer::Caller(finalize) => finalize(setup, result.is_ok()),
        Finalizer::Root(_) | Finalizer::None => Ok(()),
    };
    result.and(finished)?;
    Ok(ExitCode::SUCCESS)
}
