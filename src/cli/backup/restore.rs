//! `restore`: a backup into a new database, which takes the place of the old one when it is known to be
//! whole. The old one is kept under another name.

use std::{
    fs::File,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use time::macros::format_description;

use super::{
    Broken, Work,
    archive::{self, Manifest},
    backup, bar, blocking,
};
use crate::{
    app::{App, Clock},
    cli::{
        Setup,
        exit::{Failure, Kind, confirm_typed},
        opened::{self, OpenedStore},
        privilege::{self, Given},
        spec::{Files, Location, Privilege, READERS, Run, Running, Spec},
        why::Why,
    },
    domain::audit::Action,
    store::{
        backup::{Databases, Guest},
        embedded::Purpose,
        migrate,
    },
};

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// The file of a backup
    file: PathBuf,
    /// Only restore into a scratch database, compare, and drop it
    #[arg(long)]
    check: bool,
    /// Write the configuration and secrets of the backup into this folder, and restore nothing
    #[arg(long, value_name = "FOLDER", conflicts_with = "check")]
    configuration_to: Option<PathBuf>,
    /// Do not ask before data that are there are replaced
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    why: Why,
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

impl Run for RestoreArgs {
    fn spec(&self) -> Spec {
        let location = Location::ThisMachine {
            changes: true,
            what: "a backup is restored on the server itself, while nothing else works on its database",
            hint: "copy the backup there, and run there: esh3ar restore FILE",
        };
        let privilege = match self.configuration_to {
            // The folder is the caller's.
            Some(_) => Privilege::Caller,
            None => Privilege::Data,
        };
        Spec { name: "restore", location, privilege, ..Spec::LOCAL }
    }

    fn run(self: Box<Self>, setup: &Setup, files: Given) -> Running<'_> {
        Box::pin(async move {
            match &self.configuration_to {
                Some(folder) => self.write_configuration(setup, folder, files.input),
                None => Box::pin(restore(setup, &self, files.input)).await,
            }
        })
    }

    fn open_files(&self) -> Result<Files, Failure> {
        let input = privilege::open_input(&self.file)?;
        Ok(Files { given: Given { out: None, input }, ..Files::default() })
    }
}

impl RestoreArgs {
    /// Writes the configuration out, and nothing else.
    fn write_configuration(
        &self,
        setup: &Setup,
        folder: &Path,
        input: Option<File>,
    ) -> Result<(), Failure> {
        let file = privilege::input(input, &self.file)?;
        let manifest = archive::manifest(&file).map_err(Broken::from)?;
        let mut count = 0;
        let bar = bar(0, "reading");
        archive::read(&file, &manifest, &bar, |name, bytes| {
            let Some(name) = name.strip_prefix(archive::CONFIGURATION) else { return Ok(()) };
            let mut text = Vec::new();
            bytes.read_to_end(&mut text)?;
            put(folder, name, &text)?;
            count += 1;
            Ok::<_, Broken>(())
        })?;
        let are = if count == 1 { "file is" } else { "files are" };
        setup.output.note(&format!("{count} {are} in {}", folder.display()));
        Ok(())
    }
}

/// Never outside the folder, whatever a name says, and never over a file.
fn put(folder: &Path, name: &str, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let plain = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !plain {
        return Err(std::io::Error::other(format!("{name} is no plain name")));
    }
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)
}

/// Restores a backup.
async fn restore(
    setup: &Setup,
    arguments: &RestoreArgs,
    input: Option<File>,
) -> Result<(), Failure> {
    let began = std::time::Instant::now();
    let file = privilege::input(input, &arguments.file)?;
    let manifest = archive::manifest(&file).map_err(Broken::from)?;
    let known = migrate::MIGRATIONS.iter().map(|step| step.version).max().unwrap_or_default();
    if manifest.schema > known {
        let what = format!(
            "the backup's schema is at version {}, and this esh3ar knows only {known}",
            manifest.schema
        );
        return Err(Failure::new(Kind::Refused, what)
            .hint(format!("restore it with esh3ar {} or newer", manifest.esh3ar)));
    }
    let store = opened::open_store(setup, Purpose::Command).await?;
    let result = async {
        let work = Work::prepare(setup, &store).await?;
        if arguments.check {
            check_sums(&file, &manifest).await?;
            work.verify(&file, &manifest).await?;
            return Ok((None, None));
        }
        replace(setup, arguments, &store, &work, &file, &manifest).await
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
            "what was there before is kept as the database {old}; when it is not needed any more, drop \
             it with psql: DROP DATABASE {old}"
        ));
    }
    Ok(())
}

/// Reads the whole file, and compares every part with its sum: before anything is made of it.
async fn check_sums(file: &File, manifest: &Manifest) -> Result<(), Failure> {
    let bar = bar(file.metadata().map_or(0, |metadata| metadata.len()), "checking the file");
    let (shown, wanted) = (bar.clone(), manifest.clone());
    let file = file.try_clone().map_err(Broken::from)?;
    let checked =
        blocking(move || archive::read(&file, &wanted, &shown, |_, _| Ok::<_, Broken>(()))).await;
    bar.finish_and_clear();
    Ok(checked??)
}

type Done = (Option<Vec<i32>>, Option<String>);

async fn replace(
    setup: &Setup,
    arguments: &RestoreArgs,
    opened: &OpenedStore,
    work: &Work,
    file: &File,
    manifest: &Manifest,
) -> Result<Done, Failure> {
    nobody_works(opened).await?;
    let Some(_alone) = work.databases.alone().await? else {
        return Err(Failure::new(Kind::Refused, "another restore is at work on this server")
            .hint("wait for its end, and look at what it said"));
    };
    nobody_is_connected(work).await?;
    let there = backup::contents(&opened.store).await?;
    let empty = backup::is_empty(&there);
    if !empty {
        let messages = there.tables.get("messages").copied().unwrap_or_default();
        let what = format!(
            "This puts the backup of {} in the place of what is there: {messages} messages.",
            manifest.created_at
        );
        confirm_typed(&what, "restore", arguments.yes)?;
    }
    for left in work.databases.left_by_restores().await? {
        // Ours alone, and nobody's: it was never whole.
        work.databases.drop(&left).await?;
        setup.output.note(&format!("{left}, left by a restore that was broken off, was dropped"));
    }
    check_sums(file, manifest).await?;
    // In the old one, which stays: what is begun there comes to an end in the new one, or is told as failed.
    let by = setup.by(&arguments.why)?;
    let begin = async |app: &App| app.record_begin(&by, Action::BackupRestore).await;
    opened::with_app(setup, &opened.store, begin).await?;
    let form = format_description!("[year][month][day]_[hour][minute][second]");
    let stamp = Clock::System.now().format(&form).unwrap_or_default();
    let (new, kept) = (Databases::new_name(&stamp), format!("esh3ar_before_{stamp}"));
    work.databases.create(&new).await?;
    let mut swapping = false;
    let ready = async {
        work.fill(&new, file, manifest, "restoring").await?;
        let store = work.database(&new)?;
        let prepared = prepare(setup, arguments, &store, manifest).await;
        store.close();
        let migrated = prepared?;
        // Once more: it took its time, and somebody may have been started meanwhile.
        nobody_works(opened).await?;
        opened.store.close();
        nobody_is_connected(work).await?;
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
            // What is half restored is in nobody's way, but of no use either. Once it may have taken the
            // other's place, only if that is seen to be where it was.
            let own = work.databases.own();
            if !swapping || work.databases.is_there(own).await.unwrap_or(false) {
                let _ = work.databases.drop(&new).await;
                let failed = async |app: &App| app.record_failure(&by, Action::BackupRestore).await;
                if let Ok(old) = work.database(own) {
                    let _ = opened::with_app(setup, &old, failed).await;
                    old.close();
                }
            }
            Err(failure)
        }
    }
}

/// Puts the new database in the place of the old one. When the answer was lost, it is looked up what
/// became of it.
async fn swap(work: &Work, new: &str, kept: &str) -> Result<(), Failure> {
    let mut tries = 0;
    let error = loop {
        let Err(error) = work.databases.swap(new, kept).await else { return Ok(()) };
        tries += 1;
        // What only looks on, such as a dashboard, comes back by itself.
        if tries == SWAPS || end_readers(work).await? == 0 {
            break error;
        }
    };
    match work.databases.is_there(new).await {
        Ok(false) => Ok(()),
        Ok(true) => {
            Err(Failure::new(Kind::Refused, format!("the databases cannot be swapped: {error}"))
                .hint("stop whatever is connected to the old one, and run the same again"))
        }
        Err(_) => Err(Failure::new(
            Kind::Unavailable,
            format!("it is not known whether the databases were swapped: {error}"),
        )
        .hint(format!(
            "when the server answers again, see with psql -l: where there is no {new}, the backup is \
             in place and what was there before is {kept}; else run the same again"
        ))),
    }
}

/// Brings the new database up to date and takes from it what was at work when it was backed up.
async fn prepare(
    setup: &Setup,
    arguments: &RestoreArgs,
    store: &crate::store::Store,
    manifest: &Manifest,
) -> Result<Vec<i32>, Failure> {
    let mut client = store.client().await?;
    let migrated = migrate::run(&mut client, None).await?;
    backup::put_to_rest(&client).await?;
    drop(client);
    let by = setup.by(&arguments.why)?;
    let at = manifest.created_at;
    opened::with_app(setup, store, async |app| app.record_restore(&by, at).await).await?;
    Ok(migrated)
}

/// How often the databases are tried to be swapped while somebody who only looks on comes back.
const SWAPS: u32 = 5;
/// How long it may take until a connection that was ended is gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// How long the connection of a command that has just ended may still be there.
const LINGERS: Duration = Duration::from_secs(2);

/// Ends the connections of our own commands that only look on, and gives how many those were.
async fn end_readers(work: &Work) -> Result<usize, Failure> {
    let guests = work.databases.guests().await?;
    let readers = guests.iter().filter(|guest| reads(guest)).map(|guest| guest.pid);
    let readers: Vec<i32> = readers.collect();
    if !readers.is_empty() {
        // Where that may not be done they are told like anybody else.
        let _ = work.databases.end(&readers).await;
    }
    Ok(readers.len())
}

fn reads(guest: &Guest) -> bool {
    READERS.iter().any(|name| guest.name.starts_with(name))
}

/// Whoever is connected keeps the databases from being swapped: that is better known at the beginning. What
/// only looks on is sent away.
async fn nobody_is_connected(work: &Work) -> Result<(), Failure> {
    let begun = std::time::Instant::now();
    let guests = loop {
        let ended = end_readers(work).await?;
        let guests = work.databases.guests().await?;
        let others = guests.iter().any(|guest| !reads(guest));
        let patience = if others && ended == 0 { LINGERS } else { GONE_WITHIN };
        if guests.is_empty() || begun.elapsed() > patience {
            break guests;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    if guests.is_empty() {
        return Ok(());
    }
    let text = |guest: &Guest| {
        let name = if guest.name.is_empty() { "a program without a name" } else { &guest.name };
        let from = guest.from.as_deref().map_or_else(String::new, |from| format!(" from {from}"));
        format!("{name} as {}{from} (backend {})", guest.user, guest.pid)
    };
    let names: Vec<String> = guests.iter().map(text).collect();
    let what = format!("somebody is connected to the database: {}", names.join("; "));
    Err(Failure::new(Kind::Refused, what).hint(
        "close it (a number after esh3ar's own name is its process), or end it with psql: SELECT \
         pg_terminate_backend(BACKEND); then run the same again. Nothing was changed",
    ))
}

/// A private database is served by whoever has its folder; at a given one each process says every two
/// seconds that it lives.
async fn nobody_works(opened: &OpenedStore) -> Result<(), Failure> {
    let refused = |who: &str| {
        Failure::new(Kind::Refused, format!("the database is in use by {who}")).hint(
            "stop every esh3ar of this installation first; ten seconds later it counts as gone",
        )
    };
    if opened.is_guest() {
        let what = "the private database is in use: by esh3ar serve, or by a command that was begun \
                    without it and is still open, such as esh3ar top";
        return Err(Failure::new(Kind::Refused, what)
            .hint("stop esh3ar and close such commands; the file lock in the data folder names the process"));
    }
    let working = backup::working(&opened.store.client().await?).await?;
    if opened.is_given() && !working.is_empty() {
        return Err(refused(&working.join("; ")));
    }
    Ok(())
}
