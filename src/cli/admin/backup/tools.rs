//! What writing and reading backups share.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use time::OffsetDateTime;

use super::{
    archive::{self, ArchiveError, Manifest},
    log_folder::BASE,
};
use crate::{
    app::Clock,
    cli::{
        io::exit::{ExitStatus, Failure},
        privilege,
        process::database::OpenDatabase,
        setup::Setup,
    },
    secrets::{EnvelopeError, EnvelopeFile, EnvelopeWriter, KeyRing},
    store::{
        Store,
        backup::{
            self, DatabaseContents, Databases, Filler, FillerError, ProgramError, Programs, catalog,
        },
        migrate,
        pool::Target,
        roles,
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
                    .hint("the file is cut off or no backup, or the disk is full")
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
            BackupError::Program(ProgramError::Foreign(_)) => {
                Failure::new(ExitStatus::Refused, text).hint("use another backup")
            }
            BackupError::Program(ProgramError::NotFound(_) | ProgramError::NoBaseBackup(_)) => {
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
    /// The login that may create databases.
    target: Target,
    owner: Target,
    /// The login of the private Postgres for restores.
    private: Option<Target>,
    app: Option<String>,
    version: String,
    bin_dir: Option<PathBuf>,
    encrypted: bool,
    programs: Programs,
    pub(super) databases: Databases,
}

/// How a backup file is restored: as which role, and what must come of it.
pub(super) struct Restoration {
    filler: Filler,
    programs: Programs,
    /// The objects of a freshly migrated database of the same version.
    wanted: BTreeSet<String>,
    /// The entries of the dump.
    entries: String,
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
        Ok(BackupTools {
            store: opened.store.clone(),
            owner: opened.owner_target(setup)?,
            private: opened.restore_target(setup),
            app: opened.app_role(),
            bin_dir: bin_dir.map(Path::to_owned),
            target,
            version,
            encrypted,
            programs,
            databases,
        })
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

    /// Writes all files of the private cluster, the configuration and the secrets.
    pub(super) async fn write_base(
        &self,
        setup: &Setup,
        file: File,
        ring: &KeyRing,
        encrypt: bool,
        at: OffsetDateTime,
    ) -> Result<(File, Manifest), Failure> {
        let schema = backup::schema_of(&self.store).await?;
        let bar = spinner("backing up");
        let file = EnvelopeWriter::new(file, ring, encrypt).map_err(BackupError::from)?;
        let mut writer = archive::ArchiveWriter::new(file, bar.clone());
        let (programs, configuration) = (self.programs.clone(), configuration(setup));
        let postgres = self.version.clone();
        let written = blocking(move || {
            writer.stream(BASE, at, |mut to| {
                programs.base_backup(&mut to)?;
                Ok::<_, BackupError>(())
            })?;
            for (name, text) in &configuration {
                writer.text(&format!("{}{name}", archive::CONFIGURATION), at, text)?;
            }
            let whole = writer.finish(|entries| Manifest {
                format: archive::FORMAT,
                esh3ar: env!("CARGO_PKG_VERSION").to_owned(),
                schema,
                postgres,
                created_at: at,
                tables: BTreeMap::new(),
                unaccounted: 0,
                entries,
            })?;
            Ok::<_, BackupError>(whole)
        })
        .await;
        bar.finish_and_clear();
        Ok(written??)
    }

    /// Restores into a scratch database, compares, and drops it. The result is what the file has besides
    /// esh3ar's own objects, or lacks.
    pub(super) async fn verify(
        &self,
        file: &EnvelopeFile,
        manifest: &Manifest,
    ) -> Result<Vec<String>, Failure> {
        let work = self.restoration(file, manifest).await?;
        let name = Databases::scratch_name();
        let checked = async {
            self.create(&work, &name).await?;
            let checked = self.fill(&work, &name, file, manifest, "verifying").await;
            let dropped = self.databases.drop(&name).await;
            let differences = checked?;
            dropped?;
            Ok(differences)
        };
        let checked = checked.await;
        self.end(work).await;
        checked
    }

    /// Reads the list of the file's entries, and prepares the role that restores it.
    pub(super) async fn restoration(
        &self,
        file: &EnvelopeFile,
        manifest: &Manifest,
    ) -> Result<Restoration, Failure> {
        let entries = self.entries(file, manifest).await?;
        let filler = Filler::new(&self.target, self.private.clone()).await.map_err(|error| {
            let hint = "set database.owner_url to a role without these rights; see: esh3ar migrate --roles";
            match error {
                FillerError::Store(error) => Failure::from(error),
                reaches => Failure::new(ExitStatus::Refused, reaches.to_string()).hint(hint),
            }
        })?;
        let prepared = async {
            let bin_dir = self.bin_dir.as_deref();
            let programs = Programs::find(bin_dir, &self.version, &filler.target, self.encrypted);
            let programs = programs.map_err(BackupError::from)?;
            Ok((programs, self.reference(&filler, manifest.schema).await?))
        };
        match prepared.await {
            Ok((programs, wanted)) => Ok(Restoration { filler, programs, wanted, entries }),
            Err(failure) => {
                filler.release(&self.target).await;
                Err(failure)
            }
        }
    }

    pub(super) async fn end(&self, work: Restoration) {
        work.filler.release(&self.target).await;
    }

    async fn entries(&self, file: &EnvelopeFile, manifest: &Manifest) -> Result<String, Failure> {
        let bar = bar(file.archive_len(), "checking the file");
        let (programs, wanted, shown) = (self.programs.clone(), manifest.clone(), bar.clone());
        let file = file.try_clone().map_err(BackupError::from)?;
        let read = blocking(move || {
            let mut entries = String::new();
            archive::read(&file, &wanted, &shown, |entry, mut bytes| {
                if entry == archive::DATABASE {
                    entries = programs.entries(&mut bytes)?;
                }
                Ok::<_, BackupError>(())
            })?;
            Ok::<_, BackupError>(entries)
        })
        .await;
        bar.finish_and_clear();
        Ok(read??)
    }

    /// The objects of a freshly migrated database, made and dropped for this.
    async fn reference(&self, filler: &Filler, schema: i32) -> Result<BTreeSet<String>, Failure> {
        let name = Databases::reference_name();
        self.create_for(filler, &name).await?;
        let store = self.login(&filler.target, &name)?;
        let read = async {
            let mut client = store.client().await?;
            roles::create_schema_as_in(&client, &self.store).await?;
            migrate::run(&mut client, Some(schema)).await?;
            drop(client);
            Ok::<_, Failure>(catalog::objects(&store).await?)
        };
        let read = read.await;
        store.close();
        let dropped = self.databases.drop(&name).await;
        let wanted = read?;
        dropped?;
        Ok(wanted)
    }

    /// Creates the database that a backup file is restored into.
    pub(super) async fn create(&self, work: &Restoration, name: &str) -> Result<(), Failure> {
        self.create_for(&work.filler, name).await
    }

    async fn create_for(&self, filler: &Filler, name: &str) -> Result<(), Failure> {
        let created = async {
            self.databases.create(name).await?;
            filler.lend(&self.target, name).await
        };
        created.await.map_err(|error| {
            Failure::new(ExitStatus::Failed, format!("cannot create a scratch database: {error}"))
                .hint("allow the user of database.url to create databases, or use --no-verify")
        })
    }

    /// Fills an empty database from an archive, and compares it with the manifest. All of it is done as the
    /// restricted role. The result is as that of [`BackupTools::verify`].
    pub(super) async fn fill(
        &self,
        work: &Restoration,
        name: &str,
        file: &EnvelopeFile,
        manifest: &Manifest,
        what: &'static str,
    ) -> Result<Vec<String>, Failure> {
        let bar = bar(file.archive_len(), what);
        let (programs, shown) = (work.programs.clone(), bar.clone());
        let (database, wanted) = (name.to_owned(), manifest.clone());
        let entries = work.entries.clone();
        let file = file.try_clone().map_err(BackupError::from)?;
        let filled = blocking(move || {
            archive::read(&file, &wanted, &shown, |entry, mut bytes| {
                if entry == archive::DATABASE {
                    programs.restore(&database, &entries, &mut bytes)?;
                }
                Ok::<_, BackupError>(())
            })
        })
        .await;
        bar.finish_and_clear();
        filled??;
        let store = self.login(&work.filler.target, name)?;
        let read = async {
            let objects = catalog::objects(&store).await?;
            Ok::<_, Failure>((objects, backup::contents(&store).await?))
        };
        let read = read.await;
        store.close();
        let (objects, contents) = read?;
        let differences = catalog::differences(&objects, &work.wanted);
        if differences.is_empty() {
            compare(&contents, manifest)?;
        }
        Ok(differences)
    }

    /// Gives a checked database to the owner of the schema.
    pub(super) async fn hand_over(&self, work: &Restoration, name: &str) -> Result<(), Failure> {
        let owner = self.owner.get_user().map_or_else(privilege::user_name, str::to_owned);
        let app = self.app.as_deref();
        Ok(work.filler.hand_over(&self.target, name, &owner, app).await?)
    }

    /// Another database of the same server, as the owner of the schema.
    pub(super) fn database(&self, name: &str) -> Result<Store, Failure> {
        self.login(&self.owner, name)
    }

    fn login(&self, target: &Target, name: &str) -> Result<Store, Failure> {
        let mut target = target.clone();
        target.dbname(name);
        Ok(Store::new(target, 2)?)
    }
}

/// A file that has other objects than esh3ar's is not restored: a trigger or function would run in the serving
/// database.
pub(super) fn refuse(differences: &[String]) -> Result<(), Failure> {
    if differences.is_empty() {
        return Ok(());
    }
    let what = format!("the backup's database is not esh3ar's: {}", differences.join("; "));
    Err(Failure::new(ExitStatus::Refused, what).hint(
        "if these objects are your own, drop them where the backup is made, and make another; otherwise the \
         file was changed: use another backup",
    ))
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
