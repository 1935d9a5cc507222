//! The key file of this machine, and whether it fits the database.

use std::path::PathBuf;

use super::database::OpenDatabase;
use crate::{
    app::{
        Clock,
        sealed_secrets::{self, SecretsError},
    },
    cli::{
        io::exit::{ExitStatus, Failure},
        setup::Setup,
    },
    secrets::{KeyFile, KeyFileError, KeyStore, OpenError},
    store,
};

/// Beside the private Postgres.
const DEFAULT_NAME: &str = "secrets.key";

/// Where the key file is, or would be.
pub(crate) fn path(setup: &Setup) -> PathBuf {
    let given = setup.loaded.config.secrets.key_file.clone();
    given.unwrap_or_else(|| setup.data_dir.join(DEFAULT_NAME))
}

/// The keys of this machine. `None` if there is no file and the configuration names none.
pub(crate) fn load(setup: &Setup) -> Result<Option<KeyStore>, Failure> {
    let file = KeyFile::new(path(setup));
    match file.load() {
        Ok(ring) => Ok(Some(KeyStore::new(file, ring))),
        Err(KeyFileError::Missing(_)) if setup.loaded.config.secrets.key_file.is_none() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same, and creates the file for a private database that has never had one.
pub(crate) async fn load_or_create(
    setup: &Setup,
    opened: &OpenDatabase,
) -> Result<Option<KeyStore>, Failure> {
    if let Some(keys) = load(setup)? {
        return Ok(Some(keys));
    }
    let sealed = sealed_secrets::status(&opened.store.client().await?, None).await?;
    if let Some(key) = sealed.iter().find_map(|secret| secret.key) {
        // A new key would not open them, and would hide that this one is lost.
        return Err(SecretsError::NoKeys(key).into());
    }
    if opened.is_external() {
        return Ok(None);
    }
    let file = KeyFile::new(path(setup));
    let ring = file.load_or_create(Clock::System.now())?;
    tracing::info!(file = %file.path().display(), "created the key file; keep a copy of it elsewhere");
    Ok(Some(KeyStore::new(file, ring)))
}

/// The keys of a process that serves. Every sealed secret opens with them, and no secret is left unsealed.
pub(crate) async fn open(
    setup: &Setup,
    opened: &OpenDatabase,
) -> Result<Option<KeyStore>, Failure> {
    let keys = load_or_create(setup, opened).await?;
    if keys.is_none() {
        tracing::warn!(
            "there is no key file: secrets in the database are not sealed; run: esh3ar secrets init"
        );
    }
    sealed_secrets::prepare(&opened.store.client().await?, keys.as_ref()).await?;
    Ok(keys)
}

/// The keys that a backup needs.
pub(crate) async fn require(setup: &Setup, opened: &OpenDatabase) -> Result<KeyStore, Failure> {
    load_or_create(setup, opened).await?.ok_or_else(|| {
        Failure::new(ExitStatus::Config, "there is no key file to authenticate backups with")
            .hint("create one with esh3ar secrets init, and set secrets.key_file on every machine")
    })
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Failure {
        let text = error.to_string();
        let (kind, hint) = match error {
            KeyFileError::Missing(_) => (
                ExitStatus::Config,
                "copy it here from where it was kept; if it is lost: esh3ar secrets init --new-secrets",
            ),
            KeyFileError::Exists(_) => {
                (ExitStatus::Refused, "it is kept; esh3ar secrets rotate adds a key")
            }
            KeyFileError::Exposed { .. } => {
                (ExitStatus::Config, "chmod 600, or 640 for a file of root's")
            }
            KeyFileError::NoSuchKey(_) => (ExitStatus::NotFound, "run: esh3ar secrets status"),
            KeyFileError::Current(_) => {
                (ExitStatus::Refused, "add another key first: esh3ar secrets rotate")
            }
            KeyFileError::Randomness(_) => (ExitStatus::Failed, "check the operating system"),
            KeyFileError::Unfit(_)
            | KeyFileError::Malformed { .. }
            | KeyFileError::Duplicate { .. }
            | KeyFileError::Empty(_)
            | KeyFileError::Io { .. } => {
                (ExitStatus::Config, "check secrets.key_file, and restore the file from its copy")
            }
        };
        Failure::new(kind, text).hint(hint)
    }
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Failure {
        let text = error.to_string();
        match error {
            SecretsError::Store(error) => store::Error::into(error),
            SecretsError::Randomness(_) => Failure::new(ExitStatus::Failed, text),
            SecretsError::NoKeys(_)
            | SecretsError::Open { error: OpenError::UnknownKey(_), .. } => {
                Failure::new(ExitStatus::Config, text).hint(
                    "copy the key file to secrets.key_file from where it was kept; if it is lost, make the \
                     secrets anew: esh3ar secrets init --new-secrets",
                )
            }
            SecretsError::Open { error: OpenError::Forged, .. } => {
                Failure::new(ExitStatus::Config, text).hint(
                    "restore a backup, or make the secrets anew: esh3ar secrets init --new-secrets",
                )
            }
        }
    }
}
