//! The command: parses, puts the rooms together, calls a use case, prints. It has no rules.

pub mod admin;
mod dispatch;
mod global_args;
mod io;
mod process;
mod setup;
mod spec;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use admin::{
    audit, backup, bench, chat, conversations, dlq, drain, import, messages, mobiles, tokens, top,
    users,
};
use global_args::GlobalArgs;
use io::{
    exit::ExitStatus,
    output::{self, Output},
};
use process::{
    configuration, demo, doctor, init, listen, manual, migrate, privilege, reload, serve, worker,
};
use spec::Runnable;

/// Self-hosted messaging: from a business to its users' phones, and what became of it.
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
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(manual::ManArgs),
}

impl Command {
    /// What runs: a line for each command.
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
            Command::Message(command) => Box::new(command),
            Command::Listen(arguments) => Box::new(arguments),
            Command::Conversation(command) => Box::new(command),
            Command::Chat(arguments) => Box::new(arguments),
            Command::Dlq(command) => Box::new(command),
            Command::Audit(command) => Box::new(command),
            Command::Backup(arguments) => Box::new(arguments),
            Command::Restore(arguments) => Box::new(arguments),
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
    privilege::die_with_parent();
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            return ExitCode::from(ExitStatus::Usage as u8);
        }
        // Help, or the version.
        Err(error) => return output::printed(error.print()),
    };
    let command = command.runnable();
    let spec = command.spec();
    let output = Output::new(spec.format.unwrap_or(global.output), global.quiet);
    match dispatch::dispatch(&global, command, &spec, output.clone(), Cli::command) {
        // What was to be printed is what was asked.
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
