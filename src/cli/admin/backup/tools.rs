//! What writing and reading backups share.

use std::{fs::File, io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::archive::{self, ArchiveError, Manifest};
use crate::{
    app::Clock,
    cli::{
        io::exit::{ExitStatus, Failure},
        process::database::OpenDatabase,
        setup::Setup,
    },
    secrets::{EnvelopeError, EnvelopeFile, EnvelopeWriter, KeyRing},
    store::{
        Store,
        backup::{self, DatabaseContents, Databases, ProgramError, Programs},
        pool::Target,
    },
};

/// Errors other than the database's.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    #[error("{0}")]
    Program(#[from] ProgramError),
}

impl From<std::io::Error> for BackupError {
    fn from(error: std::io::Error) -> Self {
        BackupError::Archive(error.into())
    }
}

impl From<BackupError> for Failure {
    fn from(broken: BackupError) -> Self {
        let text = broken.to_string();
        match broken {
            BackupError::Archive(ArchiveError::Newer(_)) => Failure::new(ExitStatus::Refused, text)
                .hint("restore it with the esh3ar version that made it"),
            BackupError::Archive(ArchiveError::Io(_)) => {
                Failure::new(ExitStatus::Failed, format!("backup file: {text}"))
                    .hint("check whether the disk is full")
            }
            BackupError::Archive(ArchiveError::Envelope(error)) => {
                let hint = match error {
                    EnvelopeError::Newer(_) => "restore it with the esh3ar version that made it",
                    EnvelopeError::Forged => {
                        "use another backup; --trust loads an unencrypted one as it is"
                    }
                    _ => {
                        "name the key file of the installation that made it with --key-file FILE, or load an \
                         unencrypted backup of known origin with --trust"
                    }
                };
                Failure::new(
                    ExitStatus::Refused,
                    format!("the backup is not authenticated: {text}"),
                )
                .hint(hint)
            }
            BackupError::Archive(_) => {
                Failure::new(ExitStatus::Failed, format!("backup file: {text}"))
                    .hint("use another backup")
            }
            BackupError::Program(ProgramError::NotFound(_)) => {
                Failure::new(ExitStatus::Config, text).hint(
                    "install that version of Postgres' client programs, or set their folder \
                 (database.bin_dir)",
                )
            }
            BackupError::Program(_) => {
                Failure::new(ExitStatus::Failed, text).hint("run: esh3ar doctor")
            }
        }
    }
}

/// The database server, and its programs.
pub(super) struct BackupTools {
    store: Store,
    target: Target,
    version: String,
    programs: Programs,
    pub(super) databases: Databases,
}

impl BackupTools {
    pub(super) async fn prepare(
        setup: &Setup,
        opened: &OpenDatabase,
    ) -> Result<BackupTools, Failure> {
        let target = opened.admin_target(setup)?;
        let version = opened.store.version().await?;
        let bin_dir = setup.loaded.config.database.bin_dir.as_deref();
        let encrypted = backup::is_encrypted(&opened.store).await?;
        let programs =
            Programs::find(bin_dir, &version, &target, encrypted).map_err(BackupError::from)?;
        let databases = Databases::beside(&target)?;
        Ok(BackupTools { store: opened.store.clone(), target, version, programs, databases })
    }

    pub(super) async fn write(
        &self,
        setup: &Setup,
        file: File,
        ring: &KeyRing,
        encrypt: bool,
    ) -> Result<(File, Manifest), Failure> {
        let snapshot = backup::snapshot(&self.store).await?;
        let at = Clock::System.now();
        let bar = spinner("backing up");
        let file = EnvelopeWriter::new(file, ring, encrypt).map_err(BackupError::from)?;
        let mut writer = archive::ArchiveWriter::new(file, bar.clone());
        let (programs, id) = (self.programs.clone(), snapshot.id.clone());
        let database = self.databases.own().to_owned();
        let configuration = configuration(setup);
        let version = self.version.clone();
        let (contents, schema) = (snapshot.contents.clone(), snapshot.schema);
        let written = blocking(move || {
            writer.stream(archive::DATABASE, at, |mut to| {
                programs.dump(&database, &id, &mut to)?;
                Ok::<_, BackupError>(())
            })?;
            for (name, text) in &configuration {
                writer.text(&format!("{}{name}", archive::CONFIGURATION), at, text)?;
            }
            let whole = writer.finish(|entries| Manifest {
                format: archive::FORMAT,
                esh3ar: env!("CARGO_PKG_VERSION").to_owned(),
                schema,
                postgres: version,
                created_at: at,
                tables: contents.tables,
                unaccounted: contents.unaccounted,
                entries,
            })?;
            Ok::<_, BackupError>(whole)
        })
        .await;
        // The snapshot has to last until everything is read.
        drop(snapshot);
        bar.finish_and_clear();
        Ok(written??)
    }

    /// Restores into a scratch database, compares, and drops it.
    pub(super) async fn verify(
        &self,
        file: &EnvelopeFile,
        manifest: &Manifest,
    ) -> Result<(), Failure> {
        let name = Databases::scratch_name();
        self.databases.create(&name).await.map_err(|error| {
            Failure::new(ExitStatus::Failed, format!("cannot create a scratch database: {error}"))
                .hint("allow the user of database.url to create databases, or use --no-verify")
        })?;
        let checked = self.fill(&name, file, manifest, "verifying").await;
        let dropped = self.databases.drop(&name).await;
        checked?;
        Ok(dropped?)
    }

    /// Fills an empty database from an archive, and compares it with the manifest.
    pub(super) async fn fill(
        &self,
        name: &str,
        file: &EnvelopeFile,
        manifest: &Manifest,
        what: &'static str,
    ) -> Result<(), Failure> {
        let bar = bar(file.archive_len(), what);
        let (programs, shown) = (self.programs.clone(), bar.clone());
        let (database, wanted) = (name.to_owned(), manifest.clone());
        let file = file.try_clone().map_err(BackupError::from)?;
        let filled = blocking(move || {
            archive::read(&file, &wanted, &shown, |entry, mut bytes| {
                if entry == archive::DATABASE {
                    programs.restore(&database, &mut bytes)?;
                }
                Ok::<_, BackupError>(())
            })
        })
        .await;
        bar.finish_and_clear();
        filled??;
        let store = self.database(name)?;
        let found = backup::contents(&store).await;
        store.close();
        compare(&found?, manifest)
    }

    /// Another database of the same server.
    pub(super) fn database(&self, name: &str) -> Result<Store, Failure> {
        let mut target = self.target.clone();
        target.dbname(name);
        Ok(Store::new(target, 2)?)
    }
}

fn compare(found: &DatabaseContents, manifest: &Manifest) -> Result<(), Failure> {
    let differs = |what: &str| {
        Failure::new(
            ExitStatus::Failed,
            format!("the restored data differ from the backup: {what}"),
        )
        .hint("make the backup again; if it fails again, report a bug")
    };
    for (table, wanted) in &manifest.tables {
        let there = found.tables.get(table).copied().unwrap_or_default();
        if there != *wanted {
            return Err(differs(&format!("{there} rows of {wanted} in {table}")));
        }
    }
    if found.unaccounted != manifest.unaccounted {
        let (found, wanted) = (found.unaccounted, manifest.unaccounted);
        return Err(differs(&format!("{found} unaccounted messages, {wanted} before")));
    }
    Ok(())
}

/// The configuration file and every secret that is set, from any source, by name.
fn configuration(setup: &Setup) -> Vec<(String, String)> {
    let file = setup.file.iter().map(|(_, text)| ("esh3ar.toml".to_owned(), text.clone()));
    let secrets = setup.loaded.secrets.iter();
    let secrets =
        secrets.map(|(key, secret)| (format!("secrets/{key}"), secret.expose().to_owned()));
    file.chain(secrets).collect()
}

/// Reads a backup file once and authenticates all of it, before anything of it is used.
pub(super) async fn authenticate(
    file: File,
    rings: Vec<KeyRing>,
    trust: bool,
) -> Result<EnvelopeFile, Failure> {
    let opened = blocking(move || EnvelopeFile::open(file, &rings, trust)).await?;
    Ok(opened.map_err(ArchiveError::from).map_err(BackupError::from)?)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(ExitStatus::Failed, error.to_string()))
}

/// Drawn on a terminal only.
fn spinner(what: &'static str) -> ProgressBar {
    drawn(ProgressBar::new_spinner(), "{spinner} {msg} {bytes} ({bytes_per_sec}, {elapsed})", what)
}

pub(super) fn bar(length: u64, what: &'static str) -> ProgressBar {
    drawn(ProgressBar::new(length), "{msg} {bar:40} {bytes}/{total_bytes} ({eta} left)", what)
}

fn drawn(bar: ProgressBar, style: &str, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
