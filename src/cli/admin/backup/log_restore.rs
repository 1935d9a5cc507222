//! `restore FOLDER --to TIME`: a base backup, and its log up to a time, in the place of the private Postgres. That
//! is kept under another name.

use std::path::Path;

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use super::{
    adopt::adopt_secrets_of_copy,
    log_backup::LOCK,
    log_folder::{self, LogBase, LogFolder},
    replay,
};
use crate::{
    app::{App, By, Clock},
    cli::{
        admin::query,
        io::exit::{ExitStatus, Failure, confirm_typed},
        process::{
            database::{self, OpenDatabase},
            keys,
        },
        setup::Setup,
    },
    domain::audit::AuditAction,
    secrets::KeyRing,
    server::timestamp,
    store::{
        Store,
        backup::{self, DatabaseContents},
        embedded::{ClosedFolder, Purpose, Replay, ReplayTarget},
        migrate,
    },
};

/// In the data folder: the copy that becomes the private Postgres.
const PLACE: &str = "restore";

/// What the caller asks for.
pub(super) struct LogRestore<'a> {
    pub(super) folder: &'a Path,
    /// `latest`, a time or an age.
    pub(super) to: &'a str,
    pub(super) check: bool,
    pub(super) yes: bool,
    /// The keys of another installation.
    pub(super) given: Option<KeyRing>,
    pub(super) by: By,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    checked: bool,
    restored: bool,
    base: String,
    /// The end of what was restored.
    #[serde(with = "crate::server::timestamp")]
    to: OffsetDateTime,
    messages: i64,
    /// Messages that reconciliation could not account for.
    unaccounted: u64,
    /// Of what was backed up.
    schema: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    migrated: Option<Vec<i32>>,
    /// Where the cluster that was there before is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_folder: Option<String>,
    seconds: f64,
}

/// What is restored.
struct Choice {
    base: LogBase,
    target: ReplayTarget,
    to: OffsetDateTime,
}

pub(super) async fn restore(setup: &Setup, asked: LogRestore<'_>) -> Result<(), Failure> {
    let began = std::time::Instant::now();
    if setup.loaded.config.database.url.is_some() {
        let what = "a folder of base backups is restored into the private Postgres only";
        return Err(Failure::new(ExitStatus::Usage, what)
            .hint("unset database.url, or restore your own Postgres with its tools"));
    }
    let own = keys::load(setup)?.map(|keys| (*keys.ring()).clone());
    let rings: Vec<KeyRing> = own.into_iter().chain(asked.given.clone()).collect();
    let choice = choose(asked.folder, asked.to, &rings)?;
    let known = migrate::MIGRATIONS.iter().map(|step| step.version).max().unwrap_or_default();
    let manifest = &choice.base.manifest;
    if manifest.schema > known {
        let what = format!(
            "the backup has schema version {}, this esh3ar supports up to {known}",
            manifest.schema
        );
        return Err(Failure::new(ExitStatus::Refused, what)
            .hint(format!("restore it with esh3ar {} or newer", manifest.esh3ar)));
    }
    std::fs::create_dir_all(&setup.data_dir)
        .map_err(|error| log_folder::unusable(&setup.data_dir, &error))?;
    let _alone = log_folder::lock(&setup.data_dir.join(LOCK))?;
    let closed = if asked.check { None } else { Some(close(setup, &asked, &choice).await?) };
    let place = setup.data_dir.join(PLACE);
    let made = make(setup, &asked, &choice, &rings, &place).await;
    let swapped = made.and_then(|(contents, migrated)| {
        let stamp = format_description!("[year][month][day]T[hour][minute][second]Z");
        let stamp = Clock::System.now().format(&stamp).unwrap_or_default();
        let kept = match &closed {
            Some(closed) => closed.replace_cluster(&place.join("postgres"), &stamp)?,
            None => None,
        };
        Ok((contents, migrated, kept))
    });
    let _ = replay::remove(&place).await;
    let was_closed = closed.is_some();
    drop(closed);
    let (contents, migrated, kept) = match swapped {
        Ok(done) => done,
        Err(failure) => {
            if was_closed {
                record_failure(setup, &asked.by).await;
            }
            return Err(failure);
        }
    };
    let old_folder = kept.map(|kept| kept.display().to_string());
    setup.output.record(&Report {
        checked: true,
        restored: !asked.check,
        base: manifest.name.clone(),
        to: choice.to,
        messages: contents.tables.get("messages").copied().unwrap_or_default(),
        unaccounted: contents.unaccounted,
        schema: manifest.schema,
        migrated,
        old_folder: old_folder.clone(),
        seconds: began.elapsed().as_secs_f64(),
    });
    if let Some(old) = old_folder {
        setup.output.note(&format!(
            "the previous data are kept in {old}; remove that folder when they are no longer needed"
        ));
    }
    Ok(())
}

/// The newest base backup from which the time can be reached.
fn choose(folder: &Path, to: &str, rings: &[KeyRing]) -> Result<Choice, Failure> {
    let folder = LogFolder::open(folder)?;
    let names = folder.names()?;
    if names.is_empty() {
        let what = "the folder has no base backup";
        return Err(Failure::new(ExitStatus::NotFound, what)
            .hint("name a folder that esh3ar backup FOLDER --method wal has written"));
    }
    let mut bases = Vec::new();
    for name in names.iter().rev() {
        bases.push(folder.base(name, rings)?);
        // An older one is of interest only for an earlier time.
        let last = bases.last().map(|base| &base.manifest);
        if to == LATEST && last.is_some_and(|manifest| !manifest.segments.is_empty()) {
            break;
        }
    }
    if to == LATEST {
        let base = bases.into_iter().find(|base| !base.manifest.segments.is_empty());
        let base = base.ok_or_else(|| unreachable_time("no base backup has any log yet"))?;
        let to = base.manifest.covered_until;
        return Ok(Choice { base, target: ReplayTarget::End, to });
    }
    let at = query::since(to)?;
    let at = OffsetDateTime::parse(&at, &Rfc3339)
        .map_err(|error| Failure::new(ExitStatus::Usage, error.to_string()))?;
    let first = bases.iter().map(|base| base.manifest.ended_at).min();
    let last = bases.iter().map(|base| base.manifest.covered_until).max();
    let reaches = |base: &LogBase| {
        let manifest = &base.manifest;
        manifest.ended_at <= at && at <= manifest.covered_until && !manifest.segments.is_empty()
    };
    if let Some(base) = bases.into_iter().find(reaches) {
        // While it reads its settings Postgres knows no names of time zones, such as Z.
        let text = timestamp::text(at).replace('T', " ").replace('Z', "+00");
        let target = ReplayTarget::Time(text);
        return Ok(Choice { base, target, to: at });
    }
    let text = |at: Option<OffsetDateTime>| at.map(timestamp::text).unwrap_or_default();
    Err(unreachable_time(&if first.is_some_and(|first| at < first) {
        format!("the earliest possible time is {}", text(first))
    } else if last.is_some_and(|last| at > last) {
        format!("the latest possible time is {}", text(last))
    } else {
        "no base backup of the folder has the log of that time".to_owned()
    }))
}

const LATEST: &str = "latest";

fn unreachable_time(why: &str) -> Failure {
    Failure::new(ExitStatus::Refused, why).hint("choose another time, or --to latest")
}

/// Asks before existing data are replaced, records it there, and closes the data folder to every other process. A
/// private Postgres that does not start any more is replaced without a count.
async fn close(
    setup: &Setup,
    asked: &LogRestore<'_>,
    choice: &Choice,
) -> Result<ClosedFolder, Failure> {
    let at = timestamp::text(choice.to);
    if setup.data_dir.join("postgres").exists() {
        match database::open_database(setup, Purpose::Command).await {
            Ok(opened) => {
                let ready = async {
                    if opened.is_in_use() {
                        let what = "the embedded database is in use by esh3ar serve, or by an open command such \
                                    as esh3ar top";
                        return Err(Failure::new(ExitStatus::Refused, what).hint(
                            "stop it; the file lock in the data folder contains its process id",
                        ));
                    }
                    let there = backup::contents(&opened.store).await?;
                    if !backup::is_empty(&there) {
                        let messages = there.tables.get("messages").copied().unwrap_or_default();
                        let what = format!(
                            "This replaces the current data, {messages} messages, with those of {at}."
                        );
                        confirm_typed(&what, "restore", asked.yes)?;
                    }
                    let begin = async |app: &App| {
                        app.admin.record_begin(&asked.by, AuditAction::BackupRestore).await
                    };
                    database::with_app(setup, &opened.store, begin).await
                };
                let ready = ready.await;
                let closed = opened.close().await;
                ready?;
                closed?;
            }
            Err(failure) if failure.kind == ExitStatus::Refused => return Err(failure),
            Err(failure) => {
                let what = format!(
                    "The current data cannot be opened ({}). This replaces them with those of {at}, and keeps \
                     their folder.",
                    failure.what
                );
                confirm_typed(&what, "restore", asked.yes)?;
            }
        }
    }
    Ok(ClosedFolder::close(&setup.data_dir).await?)
}

type Made = (DatabaseContents, Option<Vec<i32>>);

/// Makes the cluster in a folder of its own, stopped; unless it is only checked, ready to be used.
async fn make(
    setup: &Setup,
    asked: &LogRestore<'_>,
    choice: &Choice,
    rings: &[KeyRing],
    place: &Path,
) -> Result<Made, Failure> {
    replay::unpack(place, &choice.base, rings, "restoring").await?;
    replay::put_segments(place, &choice.base, rings, choice.base.manifest.first_segment).await?;
    let bin_dir = setup.loaded.config.database.bin_dir.as_deref();
    let mut copy = Replay::start(place, bin_dir, &choice.target).await?;
    let made = async {
        copy.wait_promoted().await?;
        let store = Store::new(copy.owner_config(), 2)?;
        let made = async {
            let contents = backup::contents(&store).await?;
            let migrated = if asked.check {
                None
            } else {
                Some(prepare(setup, asked, choice, &copy, &store).await?)
            };
            Ok::<_, Failure>((contents, migrated))
        };
        let made = made.await;
        store.close();
        made
    };
    let made = made.await;
    let stopped = copy.stop().await;
    let made = made?;
    stopped?;
    Ok(made)
}

/// Migrates the cluster, and resets what was in progress at that time.
async fn prepare(
    setup: &Setup,
    asked: &LogRestore<'_>,
    choice: &Choice,
    copy: &Replay,
    store: &Store,
) -> Result<Vec<i32>, Failure> {
    let opened = OpenDatabase::of_copy(store.clone(), copy.owner_config());
    let migrated = opened.migrate_on(store).await?;
    let client = store.client().await?;
    backup::clear_runtime_state(&client).await?;
    let record = async |app: &App| app.admin.record_restore(&asked.by, choice.to).await;
    database::with_app(setup, store, record).await?;
    drop(client);
    adopt_secrets_of_copy(setup, store, asked.given.clone()).await?;
    Ok(migrated)
}

/// In the data that stay.
async fn record_failure(setup: &Setup, by: &By) {
    if !setup.data_dir.join("postgres").exists() {
        return;
    }
    let Ok(opened) = database::open_database(setup, Purpose::Command).await else { return };
    let failed = async |app: &App| app.admin.record_failure(by, AuditAction::BackupRestore).await;
    let _ = database::with_app(setup, &opened.store, failed).await;
    let _ = opened.close().await;
}
