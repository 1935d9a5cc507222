//! `user`: manages business users.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    audit_reason::AuditReason,
    query::Query,
    transport::{AdminClient, MAX_LISTED},
};
use crate::{
    cli::{
        io::{
            answer::columns,
            exit::{ExitStatus, Failure, confirm},
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Runnable, Spec},
    },
    client::encode,
    domain::{Permission, Permissions},
    server::view::admin::UserView,
};

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a business user
    Add {
        /// Name, shown to recipients
        name: String,
        /// Permissions, comma-separated: SendMessages, Chat, Broadcast, Admin
        #[arg(long, value_name = "LIST", default_value = "SendMessages")]
        permission: String,
        /// Phone number of the business
        #[arg(long, value_name = "NUMBER")]
        phone: Option<String>,
        #[command(flatten)]
        why: AuditReason,
    },
    /// List business users
    List {
        #[command(flatten)]
        why: AuditReason,
    },
    /// Show a business user
    Show {
        /// Name or id
        user: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Change permissions or phone number
    Set {
        /// Name or id
        user: String,
        /// New permissions; they replace the present ones
        #[arg(long, value_name = "LIST")]
        permission: Option<String>,
        /// New phone number
        #[arg(long, value_name = "NUMBER")]
        phone: Option<String>,
        /// Re-enable a disabled user
        #[arg(long)]
        enable: bool,
        /// Apply the change even if no administrator can use the API afterwards
        #[arg(long)]
        even_last_admin: bool,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Disable a business user: its tokens stop working
    Disable {
        /// Name or id
        user: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
        /// Apply the change even if no administrator can use the API afterwards
        #[arg(long)]
        even_last_admin: bool,
        #[command(flatten)]
        why: AuditReason,
    },
}

impl Runnable for UserCommand {
    fn spec(&self) -> Spec {
        match self {
            UserCommand::List { .. } | UserCommand::Show { .. } => Spec::ADMIN_READ,
            UserCommand::Add { .. } => Spec { needs_installation: false, ..Spec::ADMIN },
            UserCommand::Set { .. } | UserCommand::Disable { .. } => Spec::ADMIN,
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self).await })
    }
}

const COLUMNS: &[&str] =
    columns!(UserView<'_>: id, name, permissions, phone, created_at, disabled_at);

async fn run(setup: &Setup, command: UserCommand) -> Result<(), Failure> {
    let admin = AdminClient::open(setup).await?;
    let result = act(setup, &admin, command).await;
    admin.close(result).await
}

async fn act(setup: &Setup, admin: &AdminClient, command: UserCommand) -> Result<(), Failure> {
    let user = match command {
        UserCommand::List { why } => {
            let (users, more) = admin.list(&why, "/users", &Query::default(), MAX_LISTED).await?;
            setup.output.records(COLUMNS, &users);
            if more {
                setup.output.note(&format!("only the first {MAX_LISTED} are shown"));
            }
            return Ok(());
        }
        UserCommand::Add { name, permission, phone, why } => {
            let body = json!({
                "name": name, "permissions": permissions(&permission)?, "phone": phone,
            });
            admin.request(&why, "POST", "/users", Some(&body)).await?
        }
        UserCommand::Show { user, why } => admin.get(&why, &place(&user)).await?,
        UserCommand::Set { user, permission, phone, enable, even_last_admin, why } => {
            let body = json!({
                "permissions": permission.as_deref().map(permissions).transpose()?,
                "phone": phone,
                "enabled": enable.then_some(true),
                "evenLastAdmin": even_last_admin,
            });
            change(admin, &why, &user, &body).await?
        }
        UserCommand::Disable { user, yes, even_last_admin, why } => {
            confirm(&format!("Disable {user}?"), yes)?;
            let body = json!({ "enabled": false, "evenLastAdmin": even_last_admin });
            change(admin, &why, &user, &body).await?
        }
    };
    setup.output.record(&user);
    Ok(())
}

async fn change(
    admin: &AdminClient,
    why: &AuditReason,
    user: &str,
    body: &Value,
) -> Result<Value, Failure> {
    admin.request(why, "PATCH", &place(user), Some(body)).await.map_err(|failure| {
        // Only the last administrator is refused.
        let here = admin.is_in_process();
        if failure.kind == ExitStatus::Refused && here {
            return failure.hint(
                "or use --even-last-admin: commands on the server work without an administrator",
            );
        }
        failure
    })
}

fn place(user: &str) -> String {
    format!("/users/{}", encode(user))
}

fn permissions(list: &str) -> Result<Vec<&'static str>, Failure> {
    let known = Permissions::parse(list);
    let known = known.map_err(|error| Failure::new(ExitStatus::Usage, error.to_string()))?;
    Ok(known.iter().map(Permission::name).collect())
}
