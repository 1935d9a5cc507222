//! `restore`: a backup into a new database, which replaces the old one once it is
//! verified. The old one is kept under another name.

use std::{
    fs::File,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use time::macros::format_description;
use zeroize::Zeroizing;

use super::{
    adopt::adopt_secrets,
    archive::{self, Manifest},
    log_restore::{self, LogRestore},
    tools::{BackupError, BackupTools, Restoration, authenticate, bar, blocking, refuse},
};
use crate::{
    app::{App, Clock},
    cli::{
        admin::audit_reason::AuditReason,
        io::exit::{ExitStatus, Failure, confirm_typed},
        privilege::{self, OpenFiles},
        process::{
            database::{self, OpenDatabase},
            keys,
        },
        setup::Setup,
        spec::{CallerFiles, CommandFuture, Privilege, Runnable, Scope, Spec, TERMINABLE_NAMES},
    },
    domain::audit::AuditAction,
    secrets::{EnvelopeFile, KeyFile, KeyRing},
    store::{
        backup::{self, DatabaseSession, Databases},
        embedded::Purpose,
        migrate,
    },
};

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Backup file, or a folder that backup --method wal has written
    file: PathBuf,
    /// Of a folder: the time to restore, such as 2026-01-31T12:00:00Z, an age such as 30m, or latest
    #[arg(long, value_name = "TIME", conflicts_with_all = ["trust", "configuration_to"])]
    to: Option<String>,
    /// Only verify the backup: restore it into a scratch database, compare, and drop that
    #[arg(long)]
    check: bool,
    /// Key file of the installation that made the backup, if it is another one
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Load the backup even if no known key authenticates it: one of an earlier version, or of unknown keys
    #[arg(long)]
    trust: bool,
    /// Write the configuration and secrets of the backup into this folder; restore nothing
    #[arg(long, value_name = "FOLDER", conflicts_with = "check")]
    configuration_to: Option<PathBuf>,
    /// Do not ask before replacing existing data
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    why: AuditReason,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    checked: bool,
    restored: bool,
    messages: i64,
    /// Of what was backed up.
    schema: i32,
    #[serde(with = "crate::server::timestamp")]
    created_at: time::OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    migrated: Option<Vec<i32>>,
    /// The name of the database that was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_database: Option<String>,
    seconds: f64,
}

impl Runnable for RestoreArgs {
    fn spec(&self) -> Spec {
        let scope = Scope::ThisMachine {
            changes: true,
            what: "a backup is restored on the server, while no other process uses its database",
            hint: "copy the backup to the server, and run there: esh3ar restore FILE",
        };
        let privilege = match self.configuration_to {
            // The folder is the caller's.
            Some(_) => Privilege::Caller,
            None => Privilege::Data,
        };
        Spec { name: "restore", scope, privilege, ..Spec::LOCAL }
    }

    fn run(self: Box<Self>, setup: &Setup, files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move {
            if let Some(to) = &self.to {
                let asked = LogRestore {
                    folder: &self.file,
                    to,
                    check: self.check,
                    yes: self.yes,
                    given: self.given_keys(files.text)?,
                    by: setup.by(&self.why)?,
                };
                return Box::pin(log_restore::restore(setup, asked)).await;
            }
            match &self.configuration_to {
                Some(folder) => self.write_configuration(setup, folder, files).await,
                None => Box::pin(restore(setup, &self, files)).await,
            }
        })
    }

    fn open_files(&self) -> Result<CallerFiles, Failure> {
        let is_folder = self.file.is_dir();
        if is_folder != self.to.is_some() && !privilege::input_is_file() {
            let what = "--to TIME restores from a folder, and a folder needs it";
            return Err(Failure::new(ExitStatus::Usage, what)
                .hint("give --to latest for everything that the folder has"));
        }
        // What is in a folder is opened by the owner of the data folder.
        let input = if is_folder { None } else { privilege::open_input(&self.file)? };
        let keys = match &self.key_file {
            Some(path) if !privilege::has_inherited_text() => Some(KeyFile::new(path).read()?),
            _ => None,
        };
        let open = OpenFiles { input, text: keys, ..OpenFiles::default() };
        Ok(CallerFiles { open, ..CallerFiles::default() })
    }
}

impl RestoreArgs {
    /// The keys of `--key-file`.
    fn given_keys(&self, text: Option<Zeroizing<String>>) -> Result<Option<KeyRing>, Failure> {
        let Some(path) = &self.key_file else { return Ok(None) };
        let text = privilege::text(text, path)?;
        Ok(Some(KeyFile::new(path).parse(&text)?))
    }

    async fn write_configuration(
        &self,
        setup: &Setup,
        folder: &Path,
        files: OpenFiles,
    ) -> Result<(), Failure> {
        let file = privilege::input(files.input, &self.file)?;
        let own = keys::load(setup)?.map(|keys| (*keys.ring()).clone());
        let rings = own.into_iter().chain(self.given_keys(files.text)?).collect();
        let file = authenticate(file, rings, self.trust).await?;
        let manifest = archive::manifest(&file).map_err(BackupError::from)?;
        let mut count = 0;
        let bar = bar(0, "reading");
        archive::read(&file, &manifest, &bar, |name, bytes| {
            let Some(name) = name.strip_prefix(archive::CONFIGURATION) else { return Ok(()) };
            let mut text = Vec::new();
            bytes.read_to_end(&mut text)?;
            put(folder, name, &text)?;
            count += 1;
            Ok::<_, BackupError>(())
        })?;
        let files = if count == 1 { "file" } else { "files" };
        setup.output.note(&format!("wrote {count} {files} to {}", folder.display()));
        Ok(())
    }
}

/// Never outside the folder, whatever the name, and never over a file.
fn put(folder: &Path, name: &str, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let plain = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !plain {
        return Err(std::io::Error::other(format!("{name} is not a plain file name")));
    }
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)
}

async fn restore(setup: &Setup, arguments: &RestoreArgs, files: OpenFiles) -> Result<(), Failure> {
    let began = std::time::Instant::now();
    let file = privilege::input(files.input, &arguments.file)?;
    let given = arguments.given_keys(files.text)?;
    let own = keys::load(setup)?.map(|keys| (*keys.ring()).clone());
    let rings = own.into_iter().chain(given.clone()).collect();
    let file = authenticate(file, rings, arguments.trust).await?;
    if file.key().is_none() {
        setup
            .output
            .note("no known key authenticates this backup; it is loaded because of --trust");
    }
    let manifest = archive::manifest(&file).map_err(BackupError::from)?;
    if !manifest.entries.iter().any(|entry| entry.name == archive::DATABASE) {
        return Err(Failure::new(ExitStatus::Refused, "this file is a base backup")
            .hint("restore the folder that it is in: esh3ar restore FOLDER --to latest"));
    }
    let known = migrate::MIGRATIONS.iter().map(|step| step.version).max().unwrap_or_default();
    if manifest.schema > known {
        let what = format!(
            "the backup has schema version {}, this esh3ar supports up to {known}",
            manifest.schema
        );
        return Err(Failure::new(ExitStatus::Refused, what)
            .hint(format!("restore it with esh3ar {} or newer", manifest.esh3ar)));
    }
    let store = database::open_database(setup, Purpose::Command).await?;
    let result = async {
        let work = BackupTools::prepare(setup, &store).await?;
        if arguments.check {
            check_sums(&file, &manifest).await?;
            refuse(&work.verify(&file, &manifest).await?)?;
            return Ok((None, None));
        }
        replace(setup, arguments, &store, &work, &file, &manifest, given).await
    }
    .await;
    let closed = store.close().await;
    let (migrated, old_database) = result?;
    closed?;
    let report = Report {
        checked: true,
        restored: !arguments.check,
        messages: manifest.tables.get("messages").copied().unwrap_or_default(),
        schema: manifest.schema,
        created_at: manifest.created_at,
        migrated,
        old_database,
        seconds: began.elapsed().as_secs_f64(),
    };
    setup.output.record(&report);
    if let Some(old) = &report.old_database {
        setup.output.note(&format!(
            "the previous data are kept as the database {old}; when they are no longer needed, drop it in \
             psql: DROP DATABASE {old}"
        ));
    }
    Ok(())
}

/// Reads the whole file and checks the hashes, before anything is restored.
async fn check_sums(file: &EnvelopeFile, manifest: &Manifest) -> Result<(), Failure> {
    let bar = bar(file.archive_len(), "checking the file");
    let (shown, wanted) = (bar.clone(), manifest.clone());
    let file = file.try_clone().map_err(BackupError::from)?;
    let checked =
        blocking(move || archive::read(&file, &wanted, &shown, |_, _| Ok::<_, BackupError>(())))
            .await;
    bar.finish_and_clear();
    Ok(checked??)
}

type RestoreResult = (Option<Vec<i32>>, Option<String>);

async fn replace(
    setup: &Setup,
    arguments: &RestoreArgs,
    opened: &OpenDatabase,
    work: &BackupTools,
    file: &EnvelopeFile,
    manifest: &Manifest,
    given: Option<KeyRing>,
) -> Result<RestoreResult, Failure> {
    require_stopped(opened).await?;
    let Some(_alone) = work.databases.alone().await? else {
        return Err(Failure::new(ExitStatus::Refused, "another restore is running on this server")
            .hint("wait until it ends, and check its result"));
    };
    require_no_connections(work).await?;
    let there = backup::contents(&opened.store).await?;
    let empty = backup::is_empty(&there);
    if !empty {
        let messages = there.tables.get("messages").copied().unwrap_or_default();
        let what = format!(
            "This replaces the current data, {messages} messages, with the backup of {}.",
            manifest.created_at
        );
        confirm_typed(&what, "restore", arguments.yes)?;
    }
    for left in work.databases.left_by_restores().await? {
        // It was never complete, and nobody uses it.
        work.databases.drop(&left).await?;
        setup.output.note(&format!("dropped {left}, left by an interrupted restore"));
    }
    check_sums(file, manifest).await?;
    let restoration = work.restoration(file, manifest).await?;
    let restored =
        fill_and_swap(setup, arguments, opened, work, &restoration, file, manifest, given, empty)
            .await;
    work.end(restoration).await;
    restored
}

#[expect(clippy::too_many_arguments, reason = "the second half of `replace`")]
async fn fill_and_swap(
    setup: &Setup,
    arguments: &RestoreArgs,
    opened: &OpenDatabase,
    work: &BackupTools,
    restoration: &Restoration,
    file: &EnvelopeFile,
    manifest: &Manifest,
    given: Option<KeyRing>,
    empty: bool,
) -> Result<RestoreResult, Failure> {
    // In the old database, which stays: the end is recorded in the new one, or the failure here.
    let by = setup.by(&arguments.why)?;
    let begin = async |app: &App| app.admin.record_begin(&by, AuditAction::BackupRestore).await;
    database::with_app(setup, &opened.store, begin).await?;
    let form = format_description!("[year][month][day]_[hour][minute][second]");
    let stamp = Clock::System.now().format(&form).unwrap_or_default();
    let (new, kept) = (Databases::new_name(&stamp), format!("esh3ar_before_{stamp}"));
    let mut swapping = false;
    let ready = async {
        work.create(restoration, &new).await?;
        refuse(&work.fill(restoration, &new, file, manifest, "restoring").await?)?;
        work.hand_over(restoration, &new).await?;
        let store = work.database(&new)?;
        let prepared = async {
            let migrated = prepare(setup, arguments, opened, &store, manifest).await?;
            adopt_secrets(setup, opened, &store, given).await?;
            Ok::<_, Failure>(migrated)
        };
        let prepared = prepared.await;
        store.close();
        let migrated = prepared?;
        // Again: that took time, and a process may have been started meanwhile.
        require_stopped(opened).await?;
        opened.store.close();
        require_no_connections(work).await?;
        swapping = true;
        swap(work, &new, &kept).await?;
        Ok(migrated)
    }
    .await;
    match ready {
        Ok(migrated) if empty => {
            work.databases.drop(&kept).await?;
            Ok((Some(migrated), None))
        }
        Ok(migrated) => Ok((Some(migrated), Some(kept))),
        Err(failure) => {
            // A partial restore is useless. After an attempted swap it is dropped only if the old database is
            // known to be in its place.
            let own = work.databases.own();
            if !swapping || work.databases.is_there(own).await.unwrap_or(false) {
                let _ = work.databases.drop(&new).await;
                let failed = async |app: &App| {
                    app.admin.record_failure(&by, AuditAction::BackupRestore).await
                };
                if let Ok(old) = work.database(own) {
                    let _ = database::with_app(setup, &old, failed).await;
                    old.close();
                }
            }
            Err(failure)
        }
    }
}

/// Swaps the databases. If the answer is lost, looks which one is
/// in place.
async fn swap(work: &BackupTools, new: &str, kept: &str) -> Result<(), Failure> {
    let mut tries = 0;
    let error = loop {
        let Err(error) = work.databases.swap(new, kept).await else { return Ok(()) };
        tries += 1;
        // Readers, such as a dashboard, reconnect by themselves.
        if tries == MAX_SWAP_ATTEMPTS || end_readers(work).await? == 0 {
            break error;
        }
    };
    match work.databases.is_there(new).await {
        Ok(false) => Ok(()),
        Ok(true) => {
            Err(Failure::new(ExitStatus::Refused, format!("cannot swap the databases: {error}"))
                .hint("close the connections to the old database, and run the command again"))
        }
        Err(_) => Err(Failure::new(
            ExitStatus::Unavailable,
            format!("cannot tell whether the databases were swapped: {error}"),
        )
        .hint(format!(
            "when the server answers again, run psql -l: if there is no {new}, the backup is \
             in place and the previous data are in {kept}; otherwise run the command again"
        ))),
    }
}

/// Migrates the new database, and resets what was in progress when it was backed up.
async fn prepare(
    setup: &Setup,
    arguments: &RestoreArgs,
    opened: &OpenDatabase,
    store: &crate::store::Store,
    manifest: &Manifest,
) -> Result<Vec<i32>, Failure> {
    let migrated = opened.migrate_on(store).await?;
    let client = store.client().await?;
    backup::clear_runtime_state(&client).await?;
    drop(client);
    let by = setup.by(&arguments.why)?;
    let at = manifest.created_at;
    database::with_app(setup, store, async |app| app.admin.record_restore(&by, at).await).await?;
    Ok(migrated)
}

/// While readers reconnect.
const MAX_SWAP_ATTEMPTS: u32 = 5;
/// For a terminated connection to disappear.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the connection of a command that has just ended.
const DISCONNECT_GRACE: Duration = Duration::from_secs(2);

/// Terminates the connections of our own reading commands, and returns how many there were.
async fn end_readers(work: &BackupTools) -> Result<usize, Failure> {
    let guests = work.databases.guests().await?;
    let readers = guests.iter().filter(|guest| reads(guest)).map(|guest| guest.pid);
    let readers: Vec<i32> = readers.collect();
    if !readers.is_empty() {
        // Without the permission they are reported like any other.
        let _ = work.databases.end(&readers).await;
    }
    Ok(readers.len())
}

fn reads(guest: &DatabaseSession) -> bool {
    TERMINABLE_NAMES.iter().any(|name| guest.name.starts_with(name))
}

/// Any connection prevents the swap, so fails early if there is one. Terminates those of
/// reading commands.
async fn require_no_connections(work: &BackupTools) -> Result<(), Failure> {
    let begun = std::time::Instant::now();
    let guests = loop {
        let ended = end_readers(work).await?;
        let guests = work.databases.guests().await?;
        let others = guests.iter().any(|guest| !reads(guest));
        let timeout = if others && ended == 0 { DISCONNECT_GRACE } else { TERMINATE_TIMEOUT };
        if guests.is_empty() || begun.elapsed() > timeout {
            break guests;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    if guests.is_empty() {
        return Ok(());
    }
    let text = |guest: &DatabaseSession| {
        let name = if guest.name.is_empty() { "an unnamed program" } else { &guest.name };
        let from = guest.from.as_deref().map_or_else(String::new, |from| format!(" from {from}"));
        format!("{name} as {}{from} (backend {})", guest.user, guest.pid)
    };
    let names: Vec<String> = guests.iter().map(text).collect();
    let what = format!("the database has other connections: {}", names.join("; "));
    Err(Failure::new(ExitStatus::Refused, what).hint(
        "close them (the number after esh3ar's name is the process id), or end them in psql: SELECT \
         pg_terminate_backend(BACKEND); then run the command again; nothing was changed",
    ))
}

/// An embedded database is in use by the owner of its folder; at an external one each process has a
/// heartbeat every two seconds.
async fn require_stopped(opened: &OpenDatabase) -> Result<(), Failure> {
    let refused = |who: &str| {
        Failure::new(ExitStatus::Refused, format!("the database is in use by {who}")).hint(
            "stop all esh3ar processes of this installation; ten seconds later they count as stopped",
        )
    };
    if opened.is_in_use() {
        let what = "the embedded database is in use by esh3ar serve, or by an open command such as \
                    esh3ar top";
        return Err(Failure::new(ExitStatus::Refused, what)
            .hint("stop it; the file lock in the data folder contains its process id"));
    }
    let working = backup::live_processes(&opened.store.client().await?).await?;
    if opened.is_external() && !working.is_empty() {
        return Err(refused(&working.join("; ")));
    }
    Ok(())
}
