//! The command: parses, puts the rooms together, calls a use case, prints. It has no rules.

mod addresses;
pub mod appliance;
mod audit;
mod backup;
mod bench;
mod chat;
mod cluster;
mod configuration;
mod conversations;
mod demo;
mod dlq;
mod doctor;
mod drain;
pub mod exit;
pub mod import;
mod init;
mod listen;
mod manual;
mod messages;
mod migrate;
mod mobiles;
mod nature;
mod opened;
pub mod output;
mod part;
mod personal;
pub mod privilege;
mod reload;
mod remote;
mod serve;
mod service;
mod shown;
mod tokens;
mod top;
mod users;
mod why;
mod worker;
mod written;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::{
    config::{self, Loaded, LogFormat, Sources, describe},
    telemetry,
};
use exit::{Failure, Kind};
use output::{Format, Output};
use privilege::{Given, GoesOn};
use remote::RemoteArgs;

/// Where the configuration is unless somebody says otherwise.
const USUAL_CONFIG: &str = "/etc/esh3ar/esh3ar.toml";

/// Self-hosted messaging: from a business to its users' phones, and what became of it.
#[derive(Debug, Parser)]
#[command(name = "esh3ar", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Configuration file [default: /etc/esh3ar/esh3ar.toml, if it is there]
    #[arg(long, global = true, env = "ESH3AR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the embedded parts
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
    /// How data are printed
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Format,
    /// Print data only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Log more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway: HTTP API and hub; delivers too
    Serve(serve::ServeArgs),
    /// Run a delivery worker beside gateways (needs queue.url)
    Worker,
    /// Start an appliance of its own and send a first message through it
    Demo(demo::DemoArgs),
    /// Write a configuration, make keys and the first administrator's token
    #[command(after_help = init::HELP)]
    Init(init::InitArgs),
    /// Bring the database's schema up to date
    Migrate(migrate::MigrateArgs),
    /// Business users
    #[command(subcommand)]
    User(users::UserCommand),
    /// Mobile users
    #[command(subcommand)]
    Mobile(mobiles::MobileCommand),
    /// Tokens of business users and phones
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// Messages
    #[command(subcommand)]
    Message(messages::MessageCommand),
    /// Show what a phone or business user is sent, and acknowledge it
    Listen(listen::ListenArgs),
    /// Conversations between business users and phones
    #[command(subcommand)]
    Conversation(conversations::ConversationCommand),
    /// Talk in a conversation from this terminal
    Chat(chat::ChatArgs),
    /// Dead letters: what was given up
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Whether the books balance; who looked at whose data
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Everything into one file, checked by restoring it; while esh3ar serves, or not
    Backup(backup::BackupArgs),
    /// Everything back from the file of a backup
    Restore(backup::RestoreArgs),
    /// Take over what the existing system has
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// How the installation does, live
    Top(top::TopArgs),
    /// Empty this machine's gateway for maintenance, without a storm of reconnects
    Drain(drain::DrainArgs),
    /// Let what runs on this machine take up its changed configuration
    Reload(reload::ReloadArgs),
    /// Measure what an installation on this machine can do
    Bench(bench::BenchArgs),
    /// The configuration in effect
    #[command(subcommand)]
    Config(configuration::ConfigCommand),
    /// Check configuration and dependencies, and say what to do about each fault
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man(manual::ManArgs),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    privilege::end_with_root();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            return ExitCode::from(Kind::Usage as u8);
        }
        // Help, or the version.
        Err(error) => return output::printed(error.print()),
    };
    let format = match &cli.command {
        Command::Doctor(arguments) => arguments.format(cli.global.output),
        _ => cli.global.output,
    };
    let output = Output::new(format, cli.global.quiet);
    match dispatch(cli, output.clone()) {
        // What was to be printed is what was asked.
        Ok(_) if !output.is_complete() => output.failure().report(),
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// What every command needs.
pub struct Setup {
    loaded: Loaded,
    /// The configuration file's name and text.
    file: Option<(String, String)>,
    data_dir: PathBuf,
    /// What connections to the database are called by.
    application_name: String,
    output: Output,
    /// Where administration is carried out, if elsewhere.
    remote: RemoteArgs,
    again: service::Again,
    level: telemetry::log::Level,
}

fn dispatch(cli: Cli, output: Output) -> Result<ExitCode, Failure> {
    match &cli.command {
        Command::Completions { shell } => {
            return manual::completions(*shell, &output).map(|()| ExitCode::SUCCESS);
        }
        Command::Man(arguments) => {
            return manual::pages(arguments, &output).map(|()| ExitCode::SUCCESS);
        }
        Command::Config(configuration::ConfigCommand::Default) => {
            output.text(&describe::default_file());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Config(configuration::ConfigCommand::Doc) => {
            output.text(&describe::markdown());
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let remote = nature::remote(&cli)?;
    let mut flags = Vec::new();
    if let Some(folder) = &cli.global.data_dir {
        flags.push(("data_dir", absolute(folder)?, "--data-dir"));
    }
    match &cli.command {
        Command::Serve(arguments) => arguments.flags(&mut flags),
        Command::Demo(arguments) => arguments.flags(&mut flags),
        _ => {}
    }
    if cli.global.verbose > 0 {
        let level = if cli.global.verbose == 1 { "debug" } else { "trace" };
        flags.push(("log.level", level.to_owned(), "-v"));
    }
    let file = match &cli.command {
        Command::Init(arguments) => {
            let Global { config, data_dir, .. } = &cli.global;
            Some(init::write_file(arguments, config.as_deref(), data_dir.as_deref(), &output)?)
        }
        _ => cli.global.config.clone(),
    };
    let spared = nature::spares_usual_config(&cli, &remote);
    let again = service::Again { file, spared, flags };
    let sources = again.sources()?;
    let passed_over =
        again.file.is_none() && sources.file.is_none() && cli.global.data_dir.is_some();
    if passed_over && std::fs::exists(USUAL_CONFIG).unwrap_or(true) {
        output.note(&format!("{USUAL_CONFIG} is not readable for you, and passed over"));
    }
    if let Command::Config(configuration::ConfigCommand::Check) = &cli.command {
        return configuration::check(output, sources).map(|()| ExitCode::SUCCESS);
    }
    let configuration = sources.file.clone();
    let loaded = match (addresses::load(sources), &cli.command) {
        (Err(errors), Command::Doctor(_)) => return Err(doctor::misconfigured(&output, &errors)),
        (loaded, _) => loaded?,
    };
    let json = match loaded.config.log.format {
        LogFormat::Auto => None,
        LogFormat::Text => Some(false),
        LogFormat::Json => Some(true),
    };
    // Commands print what they have to say; only what serves has a log worth reading by default.
    let serving = matches!(cli.command, Command::Serve(_) | Command::Worker);
    let level = match &cli.command {
        // It shows on the terminal itself what there is to say.
        Command::Top(arguments) if arguments.is_live(cli.global.output) => "off",
        _ if serving || cli.global.verbose > 0 => &loaded.config.log.level,
        _ => "warn",
    };
    let level = telemetry::log::init(level, json)
        .map_err(|error| Failure::new(Kind::Config, error.to_string()))?;
    let data_dir = match (&loaded.config.data.dir, &cli.command) {
        (Some(folder), _) => folder.clone(),
        (None, Command::Demo(_)) => demo::default_data_dir(),
        (None, Command::Bench(arguments)) if arguments.starts_its_own() => bench::folder(),
        (None, _) => privilege::default_data_dir(),
    };
    let application_name = cli.command.application_name();
    let setup = Setup {
        loaded,
        file: configuration,
        data_dir,
        application_name,
        output,
        remote,
        again,
        level,
    };
    if let Command::Config(configuration::ConfigCommand::Show) = &cli.command {
        configuration::show(&setup);
        return Ok(ExitCode::SUCCESS);
    }
    let elsewhere = setup.remote.url.is_some();
    if !elsewhere && cli.command.needs_installation() {
        opened::expect_installation(&setup)?;
    }
    let (out, mut file) = match &cli.command {
        Command::Conversation(command) => command.open_file()?,
        Command::Mobile(command) => command.open_file()?,
        _ => None,
    }
    .unzip();
    if let Command::Restore(arguments) = &cli.command
        && arguments.write_configuration(&setup)?
    {
        return Ok(ExitCode::SUCCESS);
    }
    let mut place = None;
    let (mut input, written) = match &cli.command {
        Command::Import(command) => (command.open_input()?, command.writes()?),
        Command::Restore(arguments) => (arguments.open_input()?, None),
        Command::Backup(arguments) => {
            let (prepared, file) = arguments.prepare()?.unzip();
            place = prepared;
            (file, None)
        }
        _ => (None, None),
    };
    // What the service's user cannot read is a fault that root would not see.
    let looks = matches!(cli.command, Command::Doctor(_)) && opened::is_there(&setup);
    let private = setup.loaded.config.database.url.is_none();
    let uses = private && !matches!(cli.command, Command::Doctor(_));
    if !elsewhere && (uses || serving || looks) {
        if let Some(path) = written {
            privilege::give_file(&path, &setup.data_dir)?;
        }
        match privilege::leave_root(
            &setup.data_dir,
            Given { out: file, input },
            setup.again.file.as_deref(),
        )? {
            GoesOn::Here(given) => Given { out: file, input } = given,
            GoesOn::AsUser(command) => return as_user(&setup, &cli.command, *command, place, out),
        }
    }
    privilege::raise_file_limit();
    crate::client::prepare();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, format!("no runtime: {error}")))?;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Serve(_) => Box::pin(serve::run(&setup)).await,
            Command::Worker => Box::pin(worker::run(&setup)).await,
            Command::Demo(arguments) => Box::pin(demo::run(&setup, &arguments)).await,
            Command::Migrate(arguments) => migrate::run(&setup, &arguments).await,
            Command::User(command) => users::run(&setup, command).await,
            Command::Mobile(command) => mobiles::run(&setup, command, file).await,
            Command::Token(command) => tokens::run(&setup, command).await,
            Command::Message(command) => messages::run(&setup, command).await,
            Command::Listen(arguments) => listen::run(&setup, &arguments).await,
            Command::Conversation(command) => conversations::run(&setup, command, file).await,
            Command::Chat(arguments) => Box::pin(chat::run(&setup, &arguments)).await,
            Command::Dlq(command) => dlq::run(&setup, command).await,
            Command::Audit(command) => audit::run(&setup, command).await,
            Command::Backup(arguments) => {
                let file = privilege::input(input, std::path::Path::new("the backup"))?;
                let written = Box::pin(backup::run(&setup, &arguments, file)).await;
                if let Some(place) = &place {
                    let finished = arguments.finish(&setup, place, written.is_ok());
                    written.and(finished)
                } else {
                    written
                }
            }
            Command::Restore(arguments) => {
                Box::pin(backup::restore(&setup, &arguments, input)).await
            }
            Command::Import(command) => import::run(&setup, command, input).await,
            Command::Top(arguments) => Box::pin(top::run(&setup, &arguments)).await,
            Command::Drain(arguments) => drain::run(&setup, &arguments).await,
            Command::Reload(arguments) => reload::run(&setup, &arguments).await,
            Command::Bench(arguments) => Box::pin(bench::run(&setup, &arguments)).await,
            Command::Doctor(arguments) => Box::pin(doctor::run(&setup, &arguments)).await,
            Command::Init(arguments) => Box::pin(init::run(&setup, &arguments)).await,
            Command::Config(_) | Command::Completions { .. } | Command::Man(_) => Ok(()),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    let placed = out.map_or(Ok(()), |out| out.end(result.is_ok()));
    result.and(placed)?;
    Ok(ExitCode::SUCCESS)
}

/// Goes on as the appliance's user; what only root may do in root's folders is done when that has ended.
fn as_user(
    setup: &Setup,
    command: &Command,
    child: std::process::Command,
    place: Option<backup::Place>,
    out: Option<written::Written>,
) -> Result<ExitCode, Failure> {
    if let Some(out) = out {
        let code = privilege::run_to_end(child)?;
        out.end(code == 0)?;
        return Ok(ExitCode::from(code));
    }
    match (command, place) {
        (Command::Backup(backup), Some(place)) => {
            let code = privilege::run_to_end(child)?;
            backup.finish(setup, &place, code == 0)?;
            Ok(ExitCode::from(code))
        }
        (Command::Import(import), _) => {
            let code = privilege::run_to_end(child)?;
            import.tidy();
            Ok(ExitCode::from(code))
        }
        _ => Err(privilege::turn_into(child)),
    }
}

/// The most bytes of a configuration file.
const LONGEST_FILE: u64 = 1 << 20;

/// What the configuration is read from. `spared`: the usual file may be closed to this user.
fn sources(
    file: Option<&std::path::Path>,
    spared: bool,
    flags: Vec<(&'static str, String, &'static str)>,
) -> Result<Sources, Failure> {
    use std::io::ErrorKind;
    let usual = file.is_none();
    let path = file.map_or_else(|| PathBuf::from(USUAL_CONFIG), PathBuf::from);
    let text = match config::read_bounded(&path, LONGEST_FILE) {
        Ok(text) => Some((path.display().to_string(), text)),
        Err(error) if usual && error.kind() == ErrorKind::NotFound => None,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            if !(usual && spared) {
                return Err(closed(&path, usual));
            }
            None
        }
        Err(error) => {
            let what = format!("{} cannot be read: {error}", path.display());
            return Err(Failure::new(Kind::Config, what).hint("check --config and its permissions"));
        }
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Sources { file: text, environment, flags })
}

/// A configuration file that this user may not read.
fn closed(path: &std::path::Path, usual: bool) -> Failure {
    let (user, path) = (privilege::user_name(), path.display());
    let failure = Failure::new(Kind::Config, format!("{path} is not readable for the user {user}"));
    if privilege::is_service() {
        let group = privilege::group_name();
        failure.hint(format!("chown root:{group} {path} && chmod 640 {path}"))
    } else if usual {
        failure.hint("run this as root or the user esh3ar, or give --config")
    } else {
        failure.hint("run this as root or the user esh3ar, or give another --config")
    }
}

fn absolute(path: &std::path::Path) -> Result<String, Failure> {
    std::path::absolute(path)
        .map(|path| path.display().to_string())
        .map_err(|error| Failure::new(Kind::Usage, format!("{}: {error}", path.display())))
}

/// The command's own description, for completions, the manual and a test.
fn description() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_formed() {
        super::description().debug_assert();
    }
}
