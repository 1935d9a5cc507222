//! The command line: parses, wires the rooms together, calls a use case, prints. It has no rules.

pub mod admin;
mod config_loader;
mod dispatch;
mod global_args;
mod io;
mod operator_name;
mod privilege;
mod process;
mod remote;
mod setup;
mod spec;

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use admin::{
    audit, backup, bench, chat, conversations, dlq, drain, import, messages, mobiles, policy,
    secrets, sms, tokens, top, users,
};
use global_args::GlobalArgs;
use io::{
    exit::{self, ExitStatus},
    output::{self, Output},
};
use process::{configuration, demo, doctor, init, listen, manual, migrate, reload, serve, worker};
use spec::Runnable;

/// Self-hosted messaging from businesses to phones, with every delivery tracked
#[derive(Debug, Parser)]
#[command(name = "esh3ar", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: HTTP API and hub; it also delivers, unless queue.url is set
    Serve(serve::ServeArgs),
    /// Run a delivery worker (needs queue.url)
    Worker,
    /// Start a demo server and send a first message through it
    Demo(demo::DemoArgs),
    /// Write a configuration and create the first administrator with a token
    #[command(after_help = init::HELP)]
    Init(init::InitArgs),
    /// Apply database migrations
    Migrate(migrate::MigrateArgs),
    /// Manage business users
    #[command(subcommand)]
    User(users::UserCommand),
    /// Manage mobile users
    #[command(subcommand)]
    Mobile(mobiles::MobileCommand),
    /// Manage the tokens of business users and phones
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// Try content policies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Send, list, explain and delete messages
    #[command(subcommand)]
    Message(messages::MessageCommand),
    /// Print messages as they arrive, and acknowledge them
    Listen(listen::ListenArgs),
    /// Manage conversations between business users and phones
    #[command(subcommand)]
    Conversation(conversations::ConversationCommand),
    /// Chat from this terminal
    Chat(chat::ChatArgs),
    /// Manage dead letters
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Check that every accepted message is accounted for, or read the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Back up everything into one file, online, and verify it by a test restore
    Backup(backup::BackupArgs),
    /// Restore from a backup file
    Restore(backup::RestoreArgs),
    /// Manage the key file that seals secrets and authenticates backups
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
    /// Try the gateways for SMS
    #[command(subcommand)]
    Sms(sms::SmsCommand),
    /// Import messages and users of the existing system
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// Show a live dashboard
    Top(top::TopArgs),
    /// Drain a gateway for maintenance: its clients reconnect to other gateways
    Drain(drain::DrainArgs),
    /// Reload the configuration of the processes on this machine
    Reload(reload::ReloadArgs),
    /// Measure throughput and latency
    Bench(bench::BenchArgs),
    /// Show, check and document the configuration
    #[command(subcommand)]
    Config(configuration::ConfigCommand),
    /// Check the configuration, this machine and all dependencies
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::DoctorArgs),
    /// Print shell completions
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one page per command
    Man(manual::ManArgs),
}

impl Command {
    /// One line per command.
    fn runnable(self) -> Box<dyn Runnable> {
        match self {
            Command::Serve(arguments) => Box::new(arguments),
            Command::Worker => Box::new(worker::Worker),
            Command::Demo(arguments) => Box::new(arguments),
            Command::Init(arguments) => Box::new(arguments),
            Command::Migrate(arguments) => Box::new(arguments),
            Command::User(command) => Box::new(command),
            Command::Mobile(command) => Box::new(command),
            Command::Token(command) => Box::new(command),
            Command::Policy(command) => Box::new(command),
            Command::Message(command) => Box::new(command),
            Command::Listen(arguments) => Box::new(arguments),
            Command::Conversation(command) => Box::new(command),
            Command::Chat(arguments) => Box::new(arguments),
            Command::Dlq(command) => Box::new(command),
            Command::Audit(command) => Box::new(command),
            Command::Backup(arguments) => Box::new(arguments),
            Command::Restore(arguments) => Box::new(arguments),
            Command::Secrets(command) => Box::new(command),
            Command::Sms(command) => Box::new(command),
            Command::Import(command) => Box::new(command),
            Command::Top(arguments) => Box::new(arguments),
            Command::Drain(arguments) => Box::new(arguments),
            Command::Reload(arguments) => Box::new(arguments),
            Command::Bench(arguments) => Box::new(arguments),
            Command::Config(command) => Box::new(command),
            Command::Doctor(arguments) => Box::new(arguments),
            Command::Completions(arguments) => Box::new(arguments),
            Command::Man(arguments) => Box::new(arguments),
        }
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    privilege::forbid_dumps();
    privilege::die_with_parent();
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // It quotes arguments, which may come from anywhere.
            let text = error.render().to_string();
            if text == exit::sanitized(&text) {
                let _ = error.print();
            } else {
                let _ = write!(std::io::stderr().lock(), "{}", exit::sanitized(&text));
            }
            return ExitCode::from(ExitStatus::Usage as u8);
        }
        // Help, or the version.
        Err(error) => return output::printed(error.print()),
    };
    let command = command.runnable();
    let spec = command.spec();
    let output = Output::new(spec.format.unwrap_or(global.output), global.quiet);
    match dispatch::dispatch(&global, command, &spec, output.clone(), Cli::command) {
        // A command whose output was lost has failed.
        Ok(_) if !output.is_complete() => output.failure().report(),
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
