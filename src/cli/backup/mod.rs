//! `backup` and `restore`: everything in one file, and back.

mod archive;
mod place;
mod restore;
mod room;

use std::{
    fs::File,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    Setup,
    exit::{Failure, Kind},
    opened::{self, OpenedStore},
    privilege::{self, Given},
    spec::{Files, Finish, Location, Run, Running, Spec},
    why::Why,
};
use crate::{
    app::{App, Clock},
    domain::audit::Action,
    store::{
        Store,
        backup::{self, Contents, Databases, ProgramError, Programs},
        embedded::Purpose,
        pool::Target,
    },
};
use archive::{ArchiveError, Manifest};
use place::Place;
pub(super) use restore::RestoreArgs;

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// A file, or a folder in which a new one is called after the time
    file: PathBuf,
    /// Do not restore it into a scratch database to see that everything is in it
    #[arg(long)]
    no_verify: bool,
    /// Of the backups in the folder keep only so many, the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
    #[command(flatten)]
    why: Why,
}

impl BackupArgs {
    /// Where to, and the open file: before the process becomes the owner of the data, who may not be able to
    /// write there.
    fn prepare(&self) -> Result<Option<(Place, File)>, Failure> {
        if privilege::input_is_file() {
            return Ok(None);
        }
        let place = Place::new(&self.file, Clock::System.now())?;
        if self.keep.is_some() && !place.is_rotated() {
            return Err(Failure::new(Kind::Usage, "--keep counts the backups in a folder")
                .hint("name a folder that is there instead of a file"));
        }
        let file = place.open()?;
        Ok(Some((place, file)))
    }
}

impl Run for BackupArgs {
    fn spec(&self) -> Spec {
        let location = Location::ThisMachine {
            changes: true,
            what: "a backup is made on the server itself, which has the database's own programs",
            hint: "run there: esh3ar backup FILE, and copy FILE here",
        };
        Spec { name: "backup", location, needs_installation: true, ..Spec::LOCAL }
    }

    fn run(self: Box<Self>, setup: &Setup, files: Given) -> Running<'_> {
        Box::pin(async move {
            let file = privilege::input(files.input, Path::new("the backup"))?;
            Box::pin(run(setup, &self, file)).await
        })
    }

    fn open_files(&self) -> Result<Files, Failure> {
        let Some((place, file)) = self.prepare()? else { return Ok(Files::default()) };
        let keep = self.keep.map(usize::from);
        Ok(Files {
            given: Given { out: None, input: Some(file) },
            finish: Finish::Caller(Box::new(move |setup, whole| {
                finish(setup, &place, keep, whole)
            })),
            ..Files::default()
        })
    }
}

/// What is left to do when the file is written, or could not be.
fn finish(setup: &Setup, place: &Place, keep: Option<usize>, whole: bool) -> Result<(), Failure> {
    if !whole {
        place.give_up();
        return Ok(());
    }
    let removed = place.finish(keep)?;
    if removed > 0 {
        setup.output.note(&format!("{removed} older backups were removed"));
    }
    setup.output.note(&format!("everything is in {}", place.path.display()));
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    bytes: u64,
    verified: bool,
    schema: i32,
    messages: i64,
    seconds: f64,
    #[serde(with = "crate::server::timestamp")]
    created_at: OffsetDateTime,
}

/// What can go wrong beside the database.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    #[error("{0}")]
    Program(#[from] ProgramError),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Broken::Archive(error.into())
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        let text = broken.to_string();
        match broken {
            Broken::Archive(ArchiveError::Newer(_)) => {
                Failure::new(Kind::Refused, text).hint("restore it with the esh3ar that made it")
            }
            Broken::Archive(ArchiveError::Io(_)) => {
                Failure::new(Kind::Failed, format!("the backup's file: {text}"))
                    .hint("see whether the disk is full")
            }
            Broken::Archive(_) => Failure::new(Kind::Failed, format!("the backup's file: {text}"))
                .hint("use another backup"),
            Broken::Program(ProgramError::NotFound(_)) => Failure::new(Kind::Config, text).hint(
                "install that version of Postgres' client programs, or say where they are \
                 (database.bin_dir)",
            ),
            Broken::Program(_) => Failure::new(Kind::Failed, text).hint("run: esh3ar doctor"),
        }
    }
}

/// Writes a backup into the open file.
async fn run(setup: &Setup, arguments: &BackupArgs, file: File) -> Result<(), Failure> {
    let by = setup.by(&arguments.why)?;
    let began = std::time::Instant::now();
    // Whatever its schema: a backup is what one makes before bringing it up to date.
    let store = opened::open_store(setup, Purpose::Command).await?;
    let made: Result<Report, Failure> = async {
        let work = Work::prepare(setup, &store).await?;
        let verified = !arguments.no_verify;
        room::enough(setup, &store, &file, verified).await?;
        let begin = async |app: &App| app.record_begin(&by, Action::BackupCreate).await;
        opened::with_app(setup, &store.store, begin).await?;
        let (file, manifest) = work.write(setup, file).await?;
        if verified {
            work.verify(&file, &manifest).await?;
        }
        let messages = manifest.tables.get("messages").copied().unwrap_or_default();
        let report = Report {
            bytes: file.metadata().map_or(0, |metadata| metadata.len()),
            verified,
            schema: manifest.schema,
            messages,
            seconds: began.elapsed().as_secs_f64(),
            created_at: manifest.created_at,
        };
        let done = async |app: &App| app.record_backup(&by, messages).await;
        if let Err(failure) = opened::with_app(setup, &store.store, done).await {
            // It is whole all the same. That it was begun is recorded.
            setup.output.note(&format!("that it is whole was not recorded: {}", failure.what));
        }
        Ok(report)
    }
    .await;
    if made.is_err() {
        let failed = async |app: &App| app.record_failure(&by, Action::BackupCreate).await;
        let _ = opened::with_app(setup, &store.store, failed).await;
    }
    let closed = store.close().await;
    let report = made?;
    closed?;
    setup.output.record(&report);
    Ok(())
}

/// What writing and reading backups needs of the server.
struct Work {
    store: Store,
    target: Target,
    version: String,
    programs: Programs,
    databases: Databases,
}

impl Work {
    async fn prepare(setup: &Setup, opened: &OpenedStore) -> Result<Work, Failure> {
        let target = opened.target(setup)?;
        let version = opened.store.version().await?;
        let bin_dir = setup.loaded.config.database.bin_dir.as_deref();
        let encrypted = backup::is_encrypted(&opened.store).await?;
        let programs =
            Programs::find(bin_dir, &version, &target, encrypted).map_err(Broken::from)?;
        let databases = Databases::beside(&target)?;
        Ok(Work { store: opened.store.clone(), target, version, programs, databases })
    }

    async fn write(&self, setup: &Setup, file: File) -> Result<(File, Manifest), Failure> {
        let snapshot = backup::snapshot(&self.store).await?;
        let at = Clock::System.now();
        let bar = spinner("backing up");
        let mut writer = archive::Writer::new(file, bar.clone());
        let (programs, id) = (self.programs.clone(), snapshot.id.clone());
        let database = self.databases.own().to_owned();
        let configuration = configuration(setup);
        let version = self.version.clone();
        let (contents, schema) = (snapshot.contents.clone(), snapshot.schema);
        let written = blocking(move || {
            writer.stream(archive::DATABASE, at, |mut to| {
                programs.dump(&database, &id, &mut to)?;
                Ok::<_, Broken>(())
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
            Ok::<_, Broken>(whole)
        })
        .await;
        // The moment has to last until everything is read.
        drop(snapshot);
        bar.finish_and_clear();
        Ok(written??)
    }

    /// Restores into a database of its own, compares, and drops it.
    async fn verify(&self, file: &File, manifest: &Manifest) -> Result<(), Failure> {
        let name = Databases::scratch_name();
        self.databases.create(&name).await.map_err(|error| {
            Failure::new(Kind::Failed, format!("a scratch database cannot be made: {error}"))
                .hint("let the user of database.url create databases, or give --no-verify")
        })?;
        let checked = self.fill(&name, file, manifest, "verifying").await;
        let dropped = self.databases.drop(&name).await;
        checked?;
        Ok(dropped?)
    }

    /// Fills an empty database from an archive and compares it with what was written.
    async fn fill(
        &self,
        name: &str,
        file: &File,
        manifest: &Manifest,
        what: &'static str,
    ) -> Result<(), Failure> {
        let bar = bar(file.metadata().map_or(0, |metadata| metadata.len()), what);
        let (programs, shown) = (self.programs.clone(), bar.clone());
        let (database, wanted) = (name.to_owned(), manifest.clone());
        let file = file.try_clone().map_err(Broken::from)?;
        let filled = blocking(move || {
            archive::read(&file, &wanted, &shown, |entry, mut bytes| {
                if entry == archive::DATABASE {
                    programs.restore(&database, &mut bytes)?;
                }
                Ok::<_, Broken>(())
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
    fn database(&self, name: &str) -> Result<Store, Failure> {
        let mut target = self.target.clone();
        target.dbname(name);
        Ok(Store::new(target, 2)?)
    }
}

fn compare(found: &Contents, manifest: &Manifest) -> Result<(), Failure> {
    let differs = |what: &str| {
        Failure::new(Kind::Failed, format!("what was restored is not what was backed up: {what}"))
            .hint("make the backup again; if that does not help, ask the makers of esh3ar")
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

/// The configuration file and every secret that is set, wherever it came from, by name.
fn configuration(setup: &Setup) -> Vec<(String, String)> {
    let file = setup.file.iter().map(|(_, text)| ("esh3ar.toml".to_owned(), text.clone()));
    let secrets = setup.loaded.secrets.iter();
    let secrets =
        secrets.map(|(key, secret)| (format!("secrets/{key}"), secret.expose().to_owned()));
    file.chain(secrets).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Kind::Failed, error.to_string()))
}

/// Drawn on a terminal only.
fn spinner(what: &'static str) -> ProgressBar {
    drawn(ProgressBar::new_spinner(), "{spinner} {msg} {bytes} ({bytes_per_sec}, {elapsed})", what)
}

fn bar(length: u64, what: &'static str) -> ProgressBar {
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
