//! `secrets`: the key file of the installation.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    app::{App, Clock, sealed_secrets},
    cli::{
        admin::audit_reason::AuditReason,
        io::exit::{ExitStatus, Failure, confirm_typed},
        privilege::{self, OpenFiles},
        process::{
            database::{self, OpenDatabase},
            keys,
        },
        setup::Setup,
        spec::{CommandFuture, Privilege, Runnable, Scope, Spec},
    },
    domain::audit::AuditAction,
    secrets::{KeyFile, KeyId, KeyRing, KeyStore},
    store::{self, embedded::Purpose},
};

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Create the key file; or, if its keys are lost, remove the secrets that they sealed
    Init {
        /// The file; unset: secrets.key_file, else secrets.key in the data folder
        file: Option<PathBuf>,
        /// Remove the sealed secrets of the database that the key file does not open: they are made anew
        #[arg(long, conflicts_with = "file")]
        new_secrets: bool,
        /// Do not ask before removing secrets
        #[arg(long, requires = "new_secrets")]
        yes: bool,
        #[command(flatten)]
        why: AuditReason,
    },
    /// List the keys, and how many secrets each of them seals
    Status,
    /// Add a key, and seal all secrets with it
    Rotate {
        /// Only add the key: before the file is copied to the other machines
        #[arg(long, conflicts_with = "reseal_only")]
        add_only: bool,
        /// Only seal secrets with the newest key: after the file was copied, or after an interruption
        #[arg(long)]
        reseal_only: bool,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Remove a key that nothing needs any more
    Forget {
        /// The key's id, from secrets status
        key: String,
        /// Remove it although backups were made with it: none of them is kept any more
        #[arg(long)]
        backups_gone: bool,
        #[command(flatten)]
        why: AuditReason,
    },
}

impl Runnable for SecretsCommand {
    fn spec(&self) -> Spec {
        let scope = match self {
            SecretsCommand::Status => Scope::THIS_MACHINE_READS,
            _ => Scope::THIS_MACHINE_WRITES,
        };
        // The new file may be in a folder of root's.
        let privilege = match self {
            SecretsCommand::Init { new_secrets: false, .. } => Privilege::Caller,
            _ => Privilege::Data,
        };
        // Of `init` only what concerns the database needs one.
        let needs_installation = !matches!(self, SecretsCommand::Init { new_secrets: false, .. });
        Spec { name: "secrets", scope, needs_installation, privilege, ..Spec::LOCAL }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move {
            if let SecretsCommand::Init { file, new_secrets: false, .. } = *self {
                return create(setup, file);
            }
            let opened = database::open_database(setup, Purpose::Command).await?;
            let done = with_database(setup, *self, &opened).await;
            let closed = opened.close().await;
            done.and(closed)
        })
    }
}

async fn with_database(
    setup: &Setup,
    command: SecretsCommand,
    opened: &OpenDatabase,
) -> Result<(), Failure> {
    // The schema of an earlier version has no sealed secrets.
    opened.prepare_schema(false).await?;
    match command {
        SecretsCommand::Init { yes, why, .. } => renew(setup, opened, yes, &why).await,
        SecretsCommand::Status => status(setup, opened).await,
        SecretsCommand::Rotate { add_only, reseal_only, why } => {
            rotate(setup, opened, add_only, reseal_only, &why).await
        }
        SecretsCommand::Forget { key, backups_gone, why } => {
            forget(setup, opened, &key, backups_gone, &why).await
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyView {
    key: String,
    current: bool,
    #[serde(with = "crate::server::timestamp")]
    created_at: OffsetDateTime,
    /// Sealed secrets of the database; 0 without a look at it.
    secrets: usize,
}

const COLUMNS: &[&str] = &["key", "current", "createdAt", "secrets"];

fn show(setup: &Setup, ring: &KeyRing, count: impl Fn(KeyId) -> usize) {
    let views = ring.created().map(|(id, created_at)| KeyView {
        key: id.to_string(),
        current: id == ring.current(),
        created_at,
        secrets: count(id),
    });
    setup.output.records(COLUMNS, &views.collect::<Vec<_>>());
}

fn create(setup: &Setup, file: Option<PathBuf>) -> Result<(), Failure> {
    let file = KeyFile::new(file.unwrap_or_else(|| keys::path(setup)));
    let ring = file.create(Clock::System.now())?;
    privilege::share_file(file.path(), &setup.data_dir)?;
    setup.output.note(&format!(
        "created {}; copy it to the other machines of the installation, and to a place apart from the database \
         and its backups",
        file.path().display()
    ));
    setup.output.note(
        "if an earlier key file was lost, its secrets in the database are made anew by: esh3ar secrets init \
         --new-secrets",
    );
    show(setup, &ring, |_| 0);
    Ok(())
}

fn require(setup: &Setup) -> Result<KeyStore, Failure> {
    keys::load(setup)?.ok_or_else(|| {
        let what = format!("the key file {} does not exist", keys::path(setup).display());
        Failure::new(ExitStatus::NotFound, what).hint(
            "copy it here from where it was kept; if it is lost: esh3ar secrets init --new-secrets",
        )
    })
}

/// Removes the secrets that no key opens. A private database gets a key file if there is none.
async fn renew(
    setup: &Setup,
    opened: &OpenDatabase,
    yes: bool,
    why: &AuditReason,
) -> Result<(), Failure> {
    let by = setup.by(why)?;
    let keys = match keys::load(setup)? {
        Some(keys) => keys,
        None => {
            let file = KeyFile::new(keys::path(setup));
            let ring = file.create(Clock::System.now())?;
            setup.output.note(&format!("created {}", file.path().display()));
            KeyStore::new(file, ring)
        }
    };
    let client = opened.store.client().await?;
    let ring = keys.ring();
    let closed = sealed_secrets::status(&client, Some(&ring)).await?;
    let closed = closed.iter().filter(|secret| !secret.opens).count();
    if closed > 0 {
        let what = format!("This removes {closed} secrets of the database that no key opens.");
        confirm_typed(&what, "remove", yes)?;
        let record = async |app: &App| {
            app.admin.record_keys(&by, AuditAction::SecretRenew, ring.current(), closed).await
        };
        database::with_app(setup, &opened.store, record).await?;
        sealed_secrets::adopt(&client, &ring, &[]).await?;
    }
    setup.output.note(&format!("removed {closed} secrets; restart esh3ar, which makes them anew"));
    show_counted(setup, &client, &ring).await
}

async fn show_counted(
    setup: &Setup,
    client: &store::Client,
    ring: &KeyRing,
) -> Result<(), Failure> {
    let secrets = sealed_secrets::status(client, Some(ring)).await?;
    show(setup, ring, |id| secrets.iter().filter(|secret| secret.key == Some(id)).count());
    Ok(())
}

async fn status(setup: &Setup, opened: &OpenDatabase) -> Result<(), Failure> {
    let ring = require(setup)?.ring();
    let client = opened.store.client().await?;
    for secret in sealed_secrets::status(&client, Some(&ring)).await? {
        if !secret.opens {
            let key = secret.key.map_or_else(String::new, |key| format!(" (sealed with {key})"));
            setup.output.note(&format!("the secret {} does not open{key}", secret.name));
        }
    }
    let plain = sealed_secrets::count_plain(&client).await?;
    if plain > 0 {
        setup.output.note(&format!("{plain} secrets are not sealed; the next start seals them"));
    }
    show_counted(setup, &client, &ring).await
}

async fn rotate(
    setup: &Setup,
    opened: &OpenDatabase,
    add_only: bool,
    reseal_only: bool,
    why: &AuditReason,
) -> Result<(), Failure> {
    let by = setup.by(why)?;
    let keys = require(setup)?;
    let client = opened.store.client().await?;
    if !reseal_only {
        keys.file().add(Clock::System.now())?;
    }
    let ring = keys.reload()?;
    // Before the secrets are sealed again: an interruption leaves no unrecorded change.
    let secrets = sealed_secrets::status(&client, Some(&ring)).await?;
    let others = secrets.iter().filter(|secret| secret.key != Some(ring.current())).count();
    let count = if add_only { 0 } else { others };
    let record = async |app: &App| {
        app.admin.record_keys(&by, AuditAction::SecretRotate, ring.current(), count).await
    };
    database::with_app(setup, &opened.store, record).await?;
    if !add_only {
        sealed_secrets::reseal(&client, &ring).await?;
    }
    show_counted(setup, &client, &ring).await
}

async fn forget(
    setup: &Setup,
    opened: &OpenDatabase,
    key: &str,
    backups_gone: bool,
    why: &AuditReason,
) -> Result<(), Failure> {
    let by = setup.by(why)?;
    let id = KeyId::parse(key).ok_or_else(|| {
        Failure::new(ExitStatus::Usage, "a key's id has 16 hexadecimal digits")
            .hint("run: esh3ar secrets status")
    })?;
    let keys = require(setup)?;
    if !keys.ring().ids().any(|known| known == id) {
        return Err(Failure::new(ExitStatus::NotFound, format!("the key file has no key {id}"))
            .hint("run: esh3ar secrets status"));
    }
    let client = opened.store.client().await?;
    let secrets = sealed_secrets::status(&client, Some(&keys.ring())).await?;
    let needed = secrets.iter().filter(|secret| secret.key == Some(id)).count();
    if needed > 0 {
        let what = format!("{needed} secrets of the database are sealed with key {id}");
        return Err(Failure::new(ExitStatus::Refused, what)
            .hint("seal them again first: esh3ar secrets rotate --reseal-only"));
    }
    let mut has_backup = false;
    let look = async |app: &App| {
        has_backup = app.admin.has_backup_of_key(id).await?;
        Ok(())
    };
    database::with_app(setup, &opened.store, look).await?;
    if has_backup && !backups_gone {
        let what = format!("backups were made with key {id}, and cannot be verified without it");
        return Err(Failure::new(ExitStatus::Refused, what)
            .hint("if none of them is kept any more, add --backups-gone"));
    }
    let ring = keys.file().remove(id)?;
    let record =
        async |app: &App| app.admin.record_keys(&by, AuditAction::SecretForget, id, 0).await;
    database::with_app(setup, &opened.store, record).await?;
    show_counted(setup, &client, &ring).await
}
