//! `user`: manages business users.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use zeroize::Zeroizing;

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
        privilege::{self, OpenFiles},
        setup::Setup,
        spec::{CallerFiles, CommandFuture, Runnable, Spec},
    },
    client::encode,
    domain::{Permission, Permissions},
    server::view::admin::UserView,
    store::content_policy,
};

/// In place of a file: no content policy.
const NONE: &str = "none";

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
    /// Change permissions, phone number or content policy
    Set {
        /// Name or id
        user: String,
        /// New permissions; they replace the present ones
        #[arg(long, value_name = "LIST")]
        permission: Option<String>,
        /// New phone number
        #[arg(long, value_name = "NUMBER")]
        phone: Option<String>,
        /// Content policy from a JSON file, or `none` to remove it
        #[arg(long, value_name = "FILE|none")]
        content_policy: Option<PathBuf>,
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

    fn run(self: Box<Self>, setup: &Setup, files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self, files.text).await })
    }

    fn open_files(&self) -> Result<CallerFiles, Failure> {
        let text = match self {
            UserCommand::Set { content_policy: Some(path), .. }
                if path.as_os_str() != NONE && !privilege::has_inherited_text() =>
            {
                Some(privilege::text(None, path)?)
            }
            _ => None,
        };
        let open = OpenFiles { text, ..OpenFiles::default() };
        Ok(CallerFiles { open, ..CallerFiles::default() })
    }
}

const COLUMNS: &[&str] =
    columns!(UserView<'_>: id, name, permissions, phone, created_at, disabled_at);

async fn run(
    setup: &Setup,
    command: UserCommand,
    file: Option<Zeroizing<String>>,
) -> Result<(), Failure> {
    let admin = AdminClient::open(setup).await?;
    let result = act(setup, &admin, command, file).await;
    admin.close(result).await
}

async fn act(
    setup: &Setup,
    admin: &AdminClient,
    command: UserCommand,
    file: Option<Zeroizing<String>>,
) -> Result<(), Failure> {
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
        UserCommand::Set {
            user,
            permission,
            phone,
            content_policy,
            enable,
            even_last_admin,
            why,
        } => {
            let mut body = json!({
                "permissions": permission.as_deref().map(permissions).transpose()?,
                "phone": phone,
                "enabled": enable.then_some(true),
                "evenLastAdmin": even_last_admin,
            });
            if let Some(path) = content_policy {
                body["contentPolicy"] = policy(&path, file)?;
            }
            change(admin, &why, &user, &body).await?
        }
        UserCommand::Disable { user, yes, even_last_admin, why } => {
            confirm(&format!("Disable {user}?"), yes)?;
            let body = json!({ "enabled": false, "evenLastAdmin": even_last_admin });
            change(admin, &why, &user, &body).await?
        }
    };
    setup.output.record(&if setup.output.is_table() { summarized(user) } else { user });
    Ok(())
}

/// The content policy in a file; null for `none`.
fn policy(path: &Path, file: Option<Zeroizing<String>>) -> Result<Value, Failure> {
    if path.as_os_str() == NONE {
        return Ok(Value::Null);
    }
    let text = privilege::text(file, path)?;
    let usage = |why: String| Failure::new(ExitStatus::Usage, why);
    content_policy::parse(&text).map_err(|why| usage(why.to_string()))?;
    serde_json::from_str(&text).map_err(|why| usage(why.to_string()))
}

/// A user with the size of its content policy in place of the policy.
fn summarized(mut user: Value) -> Value {
    if let Some(policy) = user.get_mut("contentPolicy").filter(|policy| policy.is_object())
        && let Ok(compiled) = content_policy::parse(&policy.to_string())
    {
        *policy = json!(format!("{} rules, {} hosts", compiled.rules(), compiled.hosts()));
    }
    user
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
