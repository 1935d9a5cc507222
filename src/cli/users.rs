//! `user`: business users.

use clap::Subcommand;

use super::{
    Setup,
    exit::{Failure, Kind, confirm},
    opened,
    why::Why,
};
use crate::{
    app::{self, App, accounts::Change},
    domain::{Permissions, Phone},
    server::view::admin::UserView,
};

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a business user
    Add {
        /// Its name; recipients see it
        name: String,
        /// What it may do: SendMessages, Chat, Broadcast, Admin; several with commas
        #[arg(long, value_name = "LIST", default_value = "SendMessages")]
        permission: String,
        /// Its own phone number
        #[arg(long, value_name = "NUMBER")]
        phone: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// All business users
    List {
        #[command(flatten)]
        why: Why,
    },
    /// One business user
    Show {
        /// Name or id
        user: String,
        #[command(flatten)]
        why: Why,
    },
    /// Change permissions or phone number
    Set {
        /// Name or id
        user: String,
        /// The new permissions, all of them
        #[arg(long, value_name = "LIST")]
        permission: Option<String>,
        /// The new phone number
        #[arg(long, value_name = "NUMBER")]
        phone: Option<String>,
        /// Let a disabled user in again
        #[arg(long)]
        enable: bool,
        /// Even if nobody is left then who may administer over the API
        #[arg(long)]
        even_last_admin: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Shut a user out: none of its tokens opens anything any more
    Disable {
        /// Name or id
        user: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Even if nobody is left then who may administer over the API
        #[arg(long)]
        even_last_admin: bool,
        #[command(flatten)]
        why: Why,
    },
}

const COLUMNS: &[&str] = &["id", "name", "permissions", "phone", "createdAt", "disabledAt"];

pub(super) async fn run(setup: &Setup, command: UserCommand) -> Result<(), Failure> {
    let opened = opened::open(setup).await?;
    let result = act(setup, &opened.app, command).await;
    opened.close(result).await
}

async fn act(setup: &Setup, app: &App, command: UserCommand) -> Result<(), Failure> {
    let view = match command {
        UserCommand::List { why } => {
            let users = app.list_users(&setup.by(&why)?, None, 10_000).await?;
            let users: Vec<UserView> = users.into_iter().map(UserView::from).collect();
            setup.output.records(COLUMNS, &users);
            return Ok(());
        }
        UserCommand::Add { name, permission, phone, why } => {
            let permissions = permissions(&permission)?;
            let phone = parse_phone(app, phone)?;
            app.add_user(&setup.by(&why)?, &name, permissions, phone).await?
        }
        UserCommand::Show { user, why } => app.show_user(&setup.by(&why)?, &user).await?,
        UserCommand::Set { user, permission, phone, enable, even_last_admin, why } => {
            let id = app.find_user(&user).await?.id;
            let change = Change {
                permissions: permission.as_deref().map(permissions).transpose()?,
                phone: parse_phone(app, phone)?,
                enabled: enable.then_some(true),
                even_last_admin,
            };
            app.change_user(&setup.by(&why)?, id, &change).await.map_err(last_admin)?
        }
        UserCommand::Disable { user, yes, even_last_admin, why } => {
            let user = app.find_user(&user).await?;
            confirm(&format!("Shut out {}?", user.name), yes)?;
            let change = Change { enabled: Some(false), even_last_admin, ..Change::default() };
            app.change_user(&setup.by(&why)?, user.id, &change).await.map_err(last_admin)?
        }
    };
    setup.output.record(&UserView::from(view));
    Ok(())
}

/// Refused is only the last administrator.
fn last_admin(error: app::Error) -> Failure {
    let refused = matches!(error, app::Error::Conflict(_));
    let failure = Failure::from(error);
    if refused {
        failure.hint("or give --even-last-admin: commands work without one")
    } else {
        failure
    }
}

fn permissions(list: &str) -> Result<Permissions, Failure> {
    Permissions::parse(list).map_err(|error| Failure::new(Kind::Usage, error.to_string()))
}

fn parse_phone(app: &App, phone: Option<String>) -> Result<Option<Phone>, Failure> {
    Ok(phone.map(|phone| app.parse_phone("phone", &phone)).transpose()?)
}
