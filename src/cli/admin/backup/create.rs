//! `backup`: everything in one file, or base backups and the log in a folder.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    destination::BackupDestination,
    disk_space,
    log_backup::{self, LogOptions},
    tools::{self, BackupTools},
};
use crate::{
    app::{App, Clock},
    cli::{
        admin::audit_reason::AuditReason,
        io::exit::{ExitStatus, Failure},
        privilege::{self, OpenFiles},
        process::{database, keys},
        setup::Setup,
        spec::{CallerFiles, CommandFuture, Finalizer, Runnable, Scope, Spec},
    },
    domain::audit::AuditAction,
    store::embedded::Purpose,
};

/// How a backup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackupMethod {
    /// A dump of everything in one file
    Dump,
    /// Into a folder: base backups of the private Postgres, and its write-ahead log since the last run
    Wal,
    /// wal for the private Postgres and a folder, else dump
    Auto,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Output file, or a folder for a file named after the time
    file: PathBuf,
    /// How it is made
    #[arg(long, value_enum, default_value_t = BackupMethod::Dump)]
    method: BackupMethod,
    /// Skip the test restore
    #[arg(long)]
    no_verify: bool,
    /// Encrypt the file with the key of secrets.key_file, also where backup.encrypt is false
    #[arg(long)]
    encrypt: bool,
    /// Keep only the newest N files in the folder; of base backups backup.keep_bases are kept
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
    #[command(flatten)]
    why: AuditReason,
}

impl BackupArgs {
    /// The destination and the open file: before the process becomes the owner of the data, who may not be able to
    /// write there.
    fn prepare(&self) -> Result<Option<(BackupDestination, File)>, Failure> {
        if privilege::input_is_file() {
            return Ok(None);
        }
        let is_folder = self.file.is_dir();
        match self.method {
            BackupMethod::Wal if !is_folder => {
                return Err(Failure::new(ExitStatus::Usage, "--method wal needs a folder")
                    .hint("create one that the owner of the data folder may write"));
            }
            BackupMethod::Wal if self.keep.is_some() => {
                return Err(Failure::new(ExitStatus::Usage, "--keep counts files")
                    .hint("set backup.keep_bases"));
            }
            // Written by the process that runs the private Postgres.
            BackupMethod::Wal | BackupMethod::Auto if is_folder => return Ok(None),
            BackupMethod::Dump | BackupMethod::Wal | BackupMethod::Auto => {}
        }
        let place = BackupDestination::new(&self.file, Clock::System.now())?;
        if self.keep.is_some() && !place.is_rotated() {
            return Err(Failure::new(ExitStatus::Usage, "--keep needs a folder")
                .hint("give an existing folder instead of a file"));
        }
        let file = place.open()?;
        Ok(Some((place, file)))
    }
}

impl Runnable for BackupArgs {
    fn spec(&self) -> Spec {
        let scope = Scope::ThisMachine {
            changes: true,
            what: "backups are made on the server, which has the Postgres programs",
            hint: "run esh3ar backup FILE on the server, and copy FILE here",
        };
        Spec { name: "backup", scope, needs_installation: true, ..Spec::LOCAL }
    }

    fn run(self: Box<Self>, setup: &Setup, files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move {
            if files.input.is_none() && !privilege::input_is_file() {
                return Box::pin(run_in_folder(setup, &self)).await;
            }
            let file = privilege::input(files.input, Path::new("the backup"))?;
            Box::pin(run(setup, &self, file)).await
        })
    }

    fn open_files(&self) -> Result<CallerFiles, Failure> {
        let Some((place, file)) = self.prepare()? else { return Ok(CallerFiles::default()) };
        let keep = self.keep.map(usize::from);
        Ok(CallerFiles {
            open: OpenFiles { input: Some(file), ..OpenFiles::default() },
            finalizer: Finalizer::Caller(Box::new(move |setup, whole| {
                finish(setup, &place, keep, whole)
            })),
            ..CallerFiles::default()
        })
    }
}

/// Renames the complete file and removes old ones, or discards an incomplete one.
fn finish(
    setup: &Setup,
    place: &BackupDestination,
    keep: Option<usize>,
    whole: bool,
) -> Result<(), Failure> {
    if !whole {
        place.discard();
        return Ok(());
    }
    let removed = place.finish(keep)?;
    if removed > 0 {
        setup.output.note(&format!("removed {removed} older backups"));
    }
    setup.output.note(&format!("wrote the backup to {}", place.path.display()));
    Ok(())
}

async fn run_in_folder(setup: &Setup, arguments: &BackupArgs) -> Result<(), Failure> {
    if arguments.method == BackupMethod::Wal || setup.loaded.config.database.url.is_none() {
        return archive_log(setup, arguments).await;
    }
    let place = BackupDestination::new(&arguments.file, Clock::System.now())?;
    let file = place.open()?;
    let made = run(setup, arguments, file).await;
    let finished = finish(setup, &place, arguments.keep.map(usize::from), made.is_ok());
    made?;
    finished
}

/// Copies the log of the private Postgres, after a base backup if one is due.
async fn archive_log(setup: &Setup, arguments: &BackupArgs) -> Result<(), Failure> {
    let by = setup.by(&arguments.why)?;
    let opened = database::open_database(setup, Purpose::Command).await?;
    let made = async {
        log_backup::require_private(setup, &opened)?;
        let ring = keys::require(setup, &opened).await?.ring();
        let options = LogOptions {
            folder: &arguments.file,
            verify: !arguments.no_verify,
            encrypt: arguments.encrypt || setup.loaded.config.backup.encrypt,
        };
        let begin = async |app: &App| app.admin.record_begin(&by, AuditAction::BackupCreate).await;
        database::with_app(setup, &opened.store, begin).await?;
        let report = Box::pin(log_backup::run(setup, &options, &opened, &ring)).await?;
        let done =
            async |app: &App| app.admin.record_backup(&by, report.messages, ring.current()).await;
        if let Err(failure) = database::with_app(setup, &opened.store, done).await {
            setup.output.note(&format!(
                "its completion was not recorded in the audit log: {}",
                failure.what
            ));
        }
        Ok::<_, Failure>(report)
    };
    let made = made.await;
    if made.is_err() {
        let failed =
            async |app: &App| app.admin.record_failure(&by, AuditAction::BackupCreate).await;
        let _ = database::with_app(setup, &opened.store, failed).await;
    }
    let closed = opened.close().await;
    let report = made?;
    closed?;
    setup.output.record(&report);
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    bytes: u64,
    verified: bool,
    encrypted: bool,
    /// The key that authenticates it.
    key: String,
    schema: i32,
    messages: i64,
    seconds: f64,
    #[serde(with = "crate::server::timestamp")]
    created_at: OffsetDateTime,
}

async fn run(setup: &Setup, arguments: &BackupArgs, file: File) -> Result<(), Failure> {
    let by = setup.by(&arguments.why)?;
    let began = std::time::Instant::now();
    // Whatever its schema: backups are made before migrations.
    let store = database::open_database(setup, Purpose::Command).await?;
    let made: Result<Report, Failure> = async {
        let work = BackupTools::prepare(setup, &store).await?;
        let verified = !arguments.no_verify;
        let ring = keys::require(setup, &store).await?.ring();
        let encrypted = arguments.encrypt || setup.loaded.config.backup.encrypt;
        disk_space::require(setup, &store, &file, verified).await?;
        let begin = async |app: &App| app.admin.record_begin(&by, AuditAction::BackupCreate).await;
        database::with_app(setup, &store.store, begin).await?;
        let (file, manifest) = work.write(setup, file, &ring, encrypted).await?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        if verified {
            let file = tools::authenticate(file, vec![(*ring).clone()], false).await?;
            let foreign = work.verify(&file, &manifest).await?;
            if !foreign.is_empty() {
                setup.output.note(&format!(
                    "the database has other objects than esh3ar's, and a restore of this backup would be \
                     refused: {}",
                    foreign.join("; ")
                ));
            }
        }
        let messages = manifest.tables.get("messages").copied().unwrap_or_default();
        let report = Report {
            bytes,
            verified,
            encrypted,
            key: ring.current().to_string(),
            schema: manifest.schema,
            messages,
            seconds: began.elapsed().as_secs_f64(),
            created_at: manifest.created_at,
        };
        let done = async |app: &App| app.admin.record_backup(&by, Some(messages), ring.current()).await;
        if let Err(failure) = database::with_app(setup, &store.store, done).await {
            // The backup is complete anyway, and its start is recorded.
            setup.output.note(&format!(
                "its completion was not recorded in the audit log: {}",
                failure.what
            ));
        }
        Ok(report)
    }
    .await;
    if made.is_err() {
        let failed =
            async |app: &App| app.admin.record_failure(&by, AuditAction::BackupCreate).await;
        let _ = database::with_app(setup, &store.store, failed).await;
    }
    let closed = store.close().await;
    let report = made?;
    closed?;
    setup.output.record(&report);
    Ok(())
}
