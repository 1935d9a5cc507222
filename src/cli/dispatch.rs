//! From the command line to the command that runs: phases that follow its [`Spec`], in the order in which
//! errors are found.

use std::{path::Path, process::ExitCode, time::Duration};

use super::{
    Global, Setup, addresses,
    exit::{Failure, Kind},
    opened,
    output::{self, Output},
    privilege::{self, Given, GoesOn},
    remote::RemoteArgs,
    service::Again,
    sources::USUAL_CONFIG,
    spec::{Configuration, Files, Finish, Location, LogLevel, Privilege, Run, Spec},
};
use crate::{
    config::{ConfigSources, LoadedConfig, LogFormat},
    telemetry,
};

/// How long threads may take to end that a command no longer waits for.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a command.
pub(super) fn dispatch(
    global: &Global,
    command: Box<dyn Run>,
    spec: &Spec,
    output: Output,
) -> Result<ExitCode, Failure> {
    let remote = remote(spec, global)?;
    let (again, sources) = read(&*command, spec, global, &remote, &output)?;
    let file = sources.file.clone();
    let loaded = addresses::load(sources);
    if let Some(judged) = command.judge(&output, loaded.as_ref()) {
        return judged.map(|()| ExitCode::SUCCESS);
    }
    let setup = set_up(spec, global, Read { loaded: loaded?, file, again, remote, output })?;
    if setup.remote.url.is_none() && spec.needs_installation {
        opened::expect_installation(&setup)?;
    }
    let Files { given, made, finish } = command.open_files()?;
    let given = match leave_root(spec, &setup, given, made.as_deref())? {
        GoesOn::Here(given) => given,
        GoesOn::AsUser(child) => return as_user(&setup, *child, finish),
    };
    run(&setup, command, given, finish)
}

/// Where administration is carried out.
fn remote(spec: &Spec, global: &Global) -> Result<RemoteArgs, Failure> {
    let mut remote = global.remote.clone();
    let exported = || std::env::var("ESH3AR_URL").ok().filter(|url| !url.is_empty());
    match spec.location {
        Location::Own => Ok(RemoteArgs::default()),
        Location::ThisMachine { what, hint, .. } if remote.url.is_some() => {
            Err(Failure::new(Kind::Usage, what).hint(hint))
        }
        Location::ThisMachine { changes: true, what, hint }
            if global.data_dir.is_none() && exported().is_some() =>
        {
            let what = format!("{what}, and ESH3AR_URL names a server elsewhere");
            Err(Failure::new(Kind::Usage, what)
                .hint(format!("unset ESH3AR_URL to work on this machine; else {hint}")))
        }
        Location::ThisMachine { .. } => Ok(remote),
        Location::AdminApi if remote.url.is_some() && global.data_dir.is_some() => {
            let what = "--url means a server elsewhere, --data-dir a folder of this machine";
            Err(Failure::new(Kind::Usage, what).hint("give one of them"))
        }
        Location::AdminApi => {
            if remote.url.is_none() && global.data_dir.is_none() {
                remote.url = exported();
            }
            Ok(remote)
        }
    }
}

/// Reads what the configuration is made of, and keeps where that was.
fn read(
    command: &dyn Run,
    spec: &Spec,
    global: &Global,
    remote: &RemoteArgs,
    output: &Output,
) -> Result<(Again, ConfigSources), Failure> {
    if spec.configuration == Configuration::Unread {
        return Ok((
            Again { file: None, spared: true, flags: Vec::new() },
            ConfigSources::default(),
        ));
    }
    let mut flags = Vec::new();
    if let Some(folder) = &global.data_dir {
        flags.push(("data_dir", absolute(folder)?, "--data-dir"));
    }
    command.flags(&mut flags);
    if global.verbose > 0 {
        let level = if global.verbose == 1 { "debug" } else { "trace" };
        flags.push(("log.level", level.to_owned(), "-v"));
    }
    let file = command.config_file(global.config.as_deref(), global.data_dir.as_deref(), output)?;
    let spared = spares_usual_config(spec, global, remote);
    let again = Again { file, spared, flags };
    let sources = again.sources()?;
    let passed_over = again.file.is_none() && sources.file.is_none() && global.data_dir.is_some();
    if passed_over && std::fs::exists(USUAL_CONFIG).unwrap_or(true) {
        output.note(&format!("{USUAL_CONFIG} is not readable for you, and passed over"));
    }
    Ok((again, sources))
}

/// Whether the command goes without the usual file when that is closed to its caller: it works elsewhere, or
/// on a folder of its own. The service's own user never does: it would serve something else.
fn spares_usual_config(spec: &Spec, global: &Global, remote: &RemoteArgs) -> bool {
    let lenient = spec.configuration == Configuration::Lenient;
    !privilege::is_service() && (lenient || remote.url.is_some() || global.data_dir.is_some())
}

fn absolute(path: &Path) -> Result<String, Failure> {
    std::path::absolute(path)
        .map(|path| path.display().to_string())
        .map_err(|error| Failure::new(Kind::Usage, format!("{}: {error}", path.display())))
}

/// What was read.
struct Read {
    loaded: LoadedConfig,
    file: Option<(String, String)>,
    again: Again,
    remote: RemoteArgs,
    output: Output,
}

/// Begins the log, and chooses the data folder.
fn set_up(spec: &Spec, global: &Global, read: Read) -> Result<Setup, Failure> {
    let Read { loaded, file, again, remote, output } = read;
    let json = match loaded.config.log.format {
        LogFormat::Auto => None,
        LogFormat::Text => Some(false),
        LogFormat::Json => Some(true),
    };
    let level = match spec.log {
        LogLevel::OffOnScreen if output::takes_screen(output.format()) => "off",
        LogLevel::Configured => &loaded.config.log.level,
        LogLevel::Warnings | LogLevel::OffOnScreen if global.verbose > 0 => {
            &loaded.config.log.level
        }
        LogLevel::Warnings | LogLevel::OffOnScreen => "warn",
    };
    let level = telemetry::log::init(level, json)
        .map_err(|error| Failure::new(Kind::Config, error.to_string()))?;
    let data_dir = loaded.config.data.dir.clone().unwrap_or_else(spec.default_data_dir);
    let application_name = format!("esh3ar {}/{}", spec.name, std::process::id());
    Ok(Setup { loaded, file, data_dir, application_name, output, remote, again, level })
}

/// Prepares root's process to continue as the service's user, if the command does.
fn leave_root(
    spec: &Spec,
    setup: &Setup,
    given: Given,
    made: Option<&Path>,
) -> Result<GoesOn, Failure> {
    let leaves = match spec.privilege {
        Privilege::Service => true,
        Privilege::Data => setup.loaded.config.database.url.is_none(),
        Privilege::Inspection => opened::is_there(setup),
        Privilege::Caller => false,
    };
    if !leaves || setup.remote.url.is_some() {
        return Ok(GoesOn::Here(given));
    }
    if let Some(path) = made {
        privilege::give_file(path, &setup.data_dir)?;
    }
    privilege::leave_root(&setup.data_dir, given, setup.again.file.as_deref())
}

/// Continues as the service's user; what only root may do in root's folders is done when that has ended.
fn as_user(
    setup: &Setup,
    child: std::process::Command,
    finish: Finish,
) -> Result<ExitCode, Failure> {
    let (Finish::Caller(finish) | Finish::Root(finish)) = finish else {
        return Err(privilege::turn_into(child));
    };
    let code = privilege::run_to_end(child)?;
    finish(setup, code == 0)?;
    Ok(ExitCode::from(code))
}

/// Runs it in this process.
fn run(
    setup: &Setup,
    command: Box<dyn Run>,
    given: Given,
    finish: Finish,
) -> Result<ExitCode, Failure> {
    privilege::raise_file_limit();
    crate::client::prepare();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, format!("no runtime: {error}")))?;
    let result = runtime.block_on(command.run(setup, given));
    runtime.shutdown_timeout(END_TIMEOUT);
    let finished = match finish {
        Finish::Caller(finish) => finish(setup, result.is_ok()),
        Finish::Root(_) | Finish::Nobody => Ok(()),
    };
    result.and(finished)?;
    Ok(ExitCode::SUCCESS)
}
