//! What kind of command it is: where it works, and on what.

use super::{
    Cli, Command,
    exit::{Failure, Kind},
    privilege,
    remote::RemoteArgs,
};
use super::{
    conversations::ConversationCommand, mobiles::MobileCommand, tokens::TokenCommand,
    users::UserCommand,
};

impl Command {
    /// Whether it works on an installation that is there. Others may begin one: for them the private
    /// database is made where there is none.
    pub(super) fn needs_installation(&self) -> bool {
        match self {
            Command::User(command) => !matches!(command, UserCommand::Add { .. }),
            Command::Mobile(command) => !matches!(command, MobileCommand::Add { .. }),
            Command::Token(command) => !matches!(command, TokenCommand::Create { .. }),
            Command::Message(command) => {
                !matches!(command, super::messages::MessageCommand::Send { .. })
            }
            Command::Migrate(arguments) => arguments.only_tells(),
            Command::Drain(arguments) => arguments.names_a_process(),
            Command::Conversation(_)
            | Command::Dlq(_)
            | Command::Audit(_)
            | Command::Backup(_)
            | Command::Top(_) => true,
            _ => false,
        }
    }

    /// What its connections to the database are called by, and its process: who looks there sees what has
    /// it open.
    pub(super) fn application_name(&self) -> String {
        let name = match self {
            Command::Serve(_) => "serve",
            Command::Worker => "worker",
            Command::Top(_) => TOP,
            Command::Doctor(_) => "doctor",
            Command::Migrate(_) => "migrate",
            Command::Backup(_) => "backup",
            Command::Restore(_) => "restore",
            Command::Import(_) => "import",
            Command::User(UserCommand::List { .. } | UserCommand::Show { .. })
            | Command::Mobile(
                MobileCommand::List { .. }
                | MobileCommand::Check { .. }
                | MobileCommand::Show { .. },
            )
            | Command::Token(TokenCommand::List { .. })
            | Command::Message(
                super::messages::MessageCommand::List { .. }
                | super::messages::MessageCommand::Show { .. }
                | super::messages::MessageCommand::Explain { .. },
            )
            | Command::Conversation(
                ConversationCommand::List { .. } | ConversationCommand::Show { .. },
            )
            | Command::Audit(_) => READ,
            _ => "command",
        };
        format!("esh3ar {name}/{}", std::process::id())
    }
}

/// The names of commands that only look, and that something more important may end.
const TOP: &str = "top";
const READ: &str = "read";

/// What connections begin with that may be ended, because nothing is lost with them.
pub(super) const READERS: [&str; 2] = ["esh3ar top/", "esh3ar read/"];

/// Where administration is to be carried out. An address given for what is done on this machine only is
/// a mistake that must not pass unnoticed.
pub(super) fn remote(cli: &Cli) -> Result<RemoteArgs, Failure> {
    let mut remote = cli.global.remote.clone();
    let administers = matches!(
        cli.command,
        Command::User(_)
            | Command::Mobile(_)
            | Command::Token(_)
            | Command::Message(_)
            | Command::Conversation(_)
            | Command::Dlq(_)
            | Command::Audit(_)
            | Command::Import(_)
            | Command::Drain(_)
            | Command::Top(_)
    );
    // These have an address of their own, for their clients.
    let connects = matches!(cli.command, Command::Listen(_) | Command::Chat(_) | Command::Bench(_));
    if connects {
        return Ok(RemoteArgs::default());
    }
    let exported = std::env::var("ESH3AR_URL").ok().filter(|url| !url.is_empty());
    if !administers {
        let (what, there) = here_only(&cli.command);
        if remote.url.is_some() {
            return Err(Failure::new(Kind::Usage, what).hint(there));
        }
        // Whoever has it set means that server, and this would change the machine that it is typed on.
        let changes = matches!(
            cli.command,
            Command::Backup(_)
                | Command::Restore(_)
                | Command::Init(_)
                | Command::Migrate(_)
                | Command::Reload(_)
        );
        if changes && exported.is_some() && cli.global.data_dir.is_none() {
            let what = format!("{what}, and ESH3AR_URL names a server elsewhere");
            return Err(Failure::new(Kind::Usage, what)
                .hint(format!("unset ESH3AR_URL to work on this machine; else {there}")));
        }
        return Ok(remote);
    }
    if remote.url.is_some() && cli.global.data_dir.is_some() {
        let what = "--url means a server elsewhere, --data-dir a folder of this machine";
        return Err(Failure::new(Kind::Usage, what).hint("give one of them"));
    }
    if remote.url.is_none() && cli.global.data_dir.is_none() {
        remote.url = exported;
    }
    Ok(remote)
}

/// Why a command works on its own machine only, and what to do instead.
fn here_only(command: &Command) -> (&'static str, &'static str) {
    match command {
        Command::Backup(_) => (
            "a backup is made on the server itself, which has the database's own programs",
            "run there: esh3ar backup FILE, and copy FILE here",
        ),
        Command::Restore(_) => (
            "a backup is restored on the server itself, while nothing else works on its database",
            "copy the backup there, and run there: esh3ar restore FILE",
        ),
        _ => ("this command works on its own machine only", "run it on the server, without --url"),
    }
}

/// Whether the command goes without the usual file when that is closed to whoever calls it: it works
/// elsewhere, or on a folder of its own. The service's own user never does: it would serve something else.
pub(super) fn spares_usual_config(cli: &Cli, remote: &RemoteArgs) -> bool {
    let own = match &cli.command {
        Command::Listen(arguments) => arguments.is_elsewhere(),
        Command::Chat(arguments) => arguments.is_elsewhere(),
        Command::Bench(_) | Command::Demo(_) => true,
        _ => false,
    };
    !privilege::is_service() && (own || remote.url.is_some() || cli.global.data_dir.is_some())
}
