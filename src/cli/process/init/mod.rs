//! `init`: prepares an installation: a commented configuration, the
//! installation's keys, and the first administrator with a token.
//!
//! It may be repeated: it keeps and reports what exists, and creates only what is missing.

mod arguments;
mod ask;
mod file;
mod settings;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    database::{self, OpenApp},
    keys,
    operator::operator,
};
use crate::{
    app::{
        App, Clock,
        identity::{connection_secret, tokens::Lifetime},
    },
    cli::{
        config_loader::DEFAULT_CONFIG_PATH,
        io::{
            exit::{ExitStatus, Failure},
            output::Output,
        },
        privilege::{self, OpenFiles},
        setup::Setup,
        spec::{CommandFuture, Runnable, Scope, Spec},
    },
    domain::{Party, Permission, Permissions},
    server::timestamp,
    store::accounts::BusinessUser,
};
pub(crate) use arguments::InitArgs;

/// The administrator is searched among these.
const MAX_USERS: usize = 10_000;
/// If none of the newest tokens is valid, the administrator gets a new one.
const MAX_TOKENS: usize = 200;

/// What it asks, and what a repetition does.
pub(crate) const HELP: &str = "On a terminal, init asks for missing settings; elsewhere, and with --yes, it uses \
     the defaults. You may run init again: it never overwrites anything.";

impl Runnable for InitArgs {
    fn spec(&self) -> Spec {
        Spec { scope: Scope::THIS_MACHINE_WRITES, ..Spec::LOCAL }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { Box::pin(run(setup, &self)).await })
    }

    /// The first half, done by the caller: writes the file.
    fn config_file(
        &self,
        config: Option<&Path>,
        data_dir: Option<&Path>,
        output: &Output,
    ) -> Result<Option<PathBuf>, Failure> {
        if let Some(path) = privilege::inherited_config() {
            return Ok(Some(path));
        }
        file::write(self, config, data_dir, output).map(Some)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    config: String,
    data_dir: String,
    admin: String,
    /// Only if it was created now.
    token: Option<String>,
    next: Vec<String>,
}

/// The second half, done by the service's user: fills the database.
async fn run(setup: &Setup, arguments: &InitArgs) -> Result<(), Failure> {
    let opened = database::open_new(setup).await?;
    let result = begin(setup, &opened, arguments).await;
    let (admin, token) = opened.close(result).await?;
    let path = config_path(setup);
    let made = Made {
        config: path.clone(),
        data_dir: setup.data_dir.display().to_string(),
        admin,
        token,
        next: next(setup, &path),
    };
    tell(setup, &made);
    Ok(())
}

fn tell(setup: &Setup, made: &Made) {
    if !setup.output.is_table() {
        setup.output.record(made);
        return;
    }
    let token = match &made.token {
        Some(token) => format!("{token}\n               (this is the only time it is shown)"),
        None => format!("kept; create another with: esh3ar token create --user {}", made.admin),
    };
    let Made { config, data_dir, admin, next, .. } = made;
    setup.output.text(&format!(
        "Configuration  {config}\nData           {data_dir}\nAdministrator  {admin}\n\
         Token          {token}\n\nNext:\n  {}\n",
        next.join("\n  ")
    ));
}

/// Creates the key file, the secret that signs connections, and the administrator.
async fn begin(
    setup: &Setup,
    opened: &OpenApp,
    arguments: &InitArgs,
) -> Result<(String, Option<String>), Failure> {
    let keys = keys::open(setup, opened.database()).await?;
    let now = Clock::System.now();
    connection_secret(&opened.database().store, keys.as_ref(), now).await?;
    administrator(setup, &opened.app, arguments).await
}

/// Creates the administrator; returns its name, and the token if it is new.
async fn administrator(
    setup: &Setup,
    app: &App,
    arguments: &InitArgs,
) -> Result<(String, Option<String>), Failure> {
    let by = operator().because(Some("esh3ar init"))?;
    let users = app.identity.list_users(&by, None, MAX_USERS).await?;
    let wanted = |user: &&BusinessUser| match &arguments.admin {
        Some(name) => user.name.to_lowercase() == name.to_lowercase(),
        None => user.permissions.has(Permission::Admin) && user.disabled_at.is_none(),
    };
    let admin = match users.items.iter().find(wanted) {
        Some(user) if !user.permissions.has(Permission::Admin) => {
            let what = format!("{} already exists and is not an administrator", user.name);
            let hint = format!(
                "choose another --admin, or: esh3ar user set {} --permission …,Admin",
                user.name
            );
            return Err(Failure::new(ExitStatus::Refused, what).hint(hint));
        }
        Some(user) => user.clone(),
        None => {
            let name = match &arguments.admin {
                Some(name) => name.clone(),
                None if ask::may_ask(arguments) => {
                    ask::question("Name of the first administrator", "admin")?
                }
                None => "admin".to_owned(),
            };
            let permissions = Permissions::parse("Admin")
                .map_err(|error| Failure::new(ExitStatus::Failed, error.to_string()))?;
            app.identity.add_user(&by, &name, permissions, None).await?
        }
    };
    let owner = Party::Business(admin.id);
    let now = app.clock().now();
    let tokens = app.identity.list_tokens(&by, Some(&owner), None, MAX_TOKENS).await?;
    let has_one = tokens.items.iter().any(|token| {
        token.revoked_at.is_none() && token.expires_at.is_none_or(|expires_at| expires_at > now)
    });
    if has_one {
        setup.output.note(&format!("{} already has a token, which is kept", admin.name));
        return Ok((admin.name, None));
    }
    let issued = app.identity.issue_token(&by, &owner, Lifetime::Usual).await?;
    if let Some(end) = issued.expires_at {
        let end = timestamp::text(end);
        setup.output.note(&format!("the token expires at {end}; before that: esh3ar token rotate"));
    }
    Ok((admin.name, Some(issued.token)))
}

fn config_path(setup: &Setup) -> String {
    let file = setup.config_loader.file.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG_PATH));
    file.display().to_string()
}

/// Three commands to run now.
fn next(setup: &Setup, config: &str) -> Vec<String> {
    let is_default = config == DEFAULT_CONFIG_PATH;
    // The file names a data folder other than the default.
    let mut esh3ar = "esh3ar".to_owned();
    if !is_default {
        esh3ar.push_str(&format!(" --config {config}"));
    }
    let unit = ["/usr/lib/systemd/system", "/lib/systemd/system"]
        .iter()
        .any(|folder| Path::new(folder).join("esh3ar.service").exists());
    let by_systemd = is_default && unit && Path::new("/run/systemd/system").exists();
    let start = match (by_systemd, setup.loaded.config.queue.url.is_some()) {
        (true, false) => "systemctl enable --now esh3ar".to_owned(),
        (true, true) => "systemctl enable --now esh3ar esh3ar-worker".to_owned(),
        (false, _) => format!("{esh3ar} serve"),
    };
    vec![
        format!("{esh3ar} doctor"),
        start,
        format!("{esh3ar} user add Shop --permission SendMessages,Chat"),
    ]
}
