//! `user`: business users.

use clap::Subcommand;
use serde::Serialize;

use super::{
    Setup,
    exit::{Failure, Kind, confirm},
    opened,
};
use crate::{
    app::App,
    domain::{Permission, Permissions, Phone},
    store::accounts::{BusinessUser, UserChange},
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
    },
    /// All business users
    List,
    /// One business user
    Show {
        /// Name or id
        user: String,
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
    },
    /// Shut a user out: none of its tokens opens anything any more
    Disable {
        /// Name or id
        user: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserView {
    id: uuid::Uuid,
    name: String,
    phone: Option<String>,
    permissions: Vec<&'static str>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: time::OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    disabled_at: Option<time::OffsetDateTime>,
}

impl From<BusinessUser> for UserView {
    fn from(user: BusinessUser) -> Self {
        UserView {
            id: user.id.0,
            name: user.name,
            phone: user.phone.map(|phone| phone.as_str().to_owned()),
            permissions: user.permissions.iter().map(Permission::name).collect(),
            created_at: user.created_at,
            disabled_at: user.disabled_at,
        }
    }
}

const COLUMNS: &[&str] = &["id", "name", "permissions", "phone", "createdAt", "disabledAt"];

pub(super) async fn run(setup: &Setup, command: UserCommand) -> Result<(), Failure> {
    let opened = opened::open(setup).await?;
    let result = act(setup, &opened.app, command).await;
    opened.close(result).await
}

async fn act(setup: &Setup, app: &App, command: UserCommand) -> Result<(), Failure> {
    let view = match command {
        UserCommand::List => {
            let users: Vec<UserView> =
                app.list_users().await?.into_iter().map(UserView::from).collect();
            setup.output.records(COLUMNS, &users);
            return Ok(());
        }
        UserCommand::Add { name, permission, phone } => {
            let permissions = permissions(&permission)?;
            app.add_user(&name, permissions, parse_phone(app, phone)?).await?
        }
        UserCommand::Show { user } => app.find_user(&user).await?,
        UserCommand::Set { user, permission, phone, enable } => {
            let id = app.find_user(&user).await?.id;
            let change = UserChange {
                permissions: permission.as_deref().map(permissions).transpose()?,
                phone: parse_phone(app, phone)?,
                disabled_at: enable.then_some(None),
            };
            app.change_user(id, &change).await?
        }
        UserCommand::Disable { user, yes } => {
            let user = app.find_user(&user).await?;
            confirm(&format!("Shut out {}?", user.name), yes)?;
            let change =
                UserChange { disabled_at: Some(Some(app.clock().now())), ..UserChange::default() };
            app.change_user(user.id, &change).await?
        }
    };
    setup.output.record(&UserView::from(view));
    Ok(())
}

fn permissions(list: &str) -> Result<Permissions, Failure> {
    Permissions::parse(list).map_err(|error| Failure::new(Kind::Usage, error.to_string()))
}

fn parse_phone(app: &App, phone: Option<String>) -> Result<Option<Phone>, Failure> {
    Ok(phone.map(|phone| app.parse_phone("phone", &phone)).transpose()?)
}
