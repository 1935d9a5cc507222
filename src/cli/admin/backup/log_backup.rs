//! `backup --method wal`: a base backup now and then, and at each run the log since the last one.

use std::{path::Path, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;

use super::{
    disk_space,
    log_folder::{self, BASE, LogBase, LogFolder, unusable},
    replay,
    tools::{BackupTools, blocking},
};
use crate::{
    app::Clock,
    cli::{
        io::{
            exit::{ExitStatus, Failure},
            temp_file,
        },
        process::database::OpenDatabase,
        setup::Setup,
    },
    secrets::KeyRing,
    store::backup::{
        DatabaseContents,
        log::{LogPosition, LogSeries, LogSlot, LogSource},
    },
};

/// In the data folder: one backup or restore of the log at a time.
pub(super) const LOCK: &str = "backup.lock";

/// What the caller asks for.
pub(super) struct LogOptions<'a> {
    pub(super) folder: &'a Path,
    pub(super) verify: bool,
    pub(super) encrypt: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogReport {
    /// The base backup that the log belongs to.
    base: String,
    new_base: bool,
    segments: usize,
    /// Written by this run.
    bytes: u64,
    verified: bool,
    encrypted: bool,
    key: String,
    schema: i32,
    /// Rows of messages, counted after a new base backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) messages: Option<i64>,
    seconds: f64,
    /// Everything accepted before can be restored.
    #[serde(with = "crate::server::timestamp")]
    covered_until: OffsetDateTime,
}

/// Whether the log of a database can be backed up.
pub(super) fn require_private(setup: &Setup, opened: &OpenDatabase) -> Result<(), Failure> {
    if opened.is_external() {
        let what = "--method wal backs up the private Postgres only";
        return Err(Failure::new(ExitStatus::Usage, what).hint(
            "archive the log of your own Postgres with its tools, such as pgBackRest (docs/operations/backup.md), \
             or use --method dump",
        ));
    }
    if opened.restore_target(setup).is_none() {
        let what = "the running private Postgres was started by an earlier version";
        return Err(Failure::new(ExitStatus::Refused, what).hint("restart esh3ar first"));
    }
    Ok(())
}

pub(super) async fn run(
    setup: &Setup,
    options: &LogOptions<'_>,
    opened: &OpenDatabase,
    ring: &KeyRing,
) -> Result<LogReport, Failure> {
    let began = std::time::Instant::now();
    let _alone = log_folder::lock(&setup.data_dir.join(LOCK))?;
    let folder = LogFolder::lock(options.folder)?;
    let source = LogSource::new(opened.admin_target(setup)?)?;
    let copied = copy(setup, options, opened, ring, &folder, &source).await;
    source.close();
    let (mut base, is_new, segments, bytes) = copied?;
    let mut counted: Option<DatabaseContents> = None;
    if options.verify {
        counted = match replay::prove(setup, &base, ring).await {
            Ok(counted) => counted,
            Err(failure) => {
                base.manifest.proof_failed = true;
                base.write_manifest(ring, options.encrypt)?;
                return Err(replay::unproven(&base, failure));
            }
        };
    }
    let removed = folder.rotate(setup.loaded.config.backup.keep_bases)?;
    if removed > 0 {
        setup.output.note(&format!("removed {removed} older base backups with their log"));
    }
    let messages = counted.and_then(|counted| counted.tables.get("messages").copied());
    Ok(LogReport {
        base: base.manifest.name,
        new_base: is_new,
        segments,
        bytes,
        verified: options.verify,
        encrypted: options.encrypt,
        key: ring.current().to_string(),
        schema: base.manifest.schema,
        messages,
        seconds: began.elapsed().as_secs_f64(),
        covered_until: base.manifest.covered_until,
    })
}

/// The base backup that the folder continues, and why a new one is needed.
struct Present {
    /// Whose log can be continued.
    base: Option<LogBase>,
    why_new: Option<String>,
}

fn present(
    folder: &LogFolder,
    ring: &KeyRing,
    series: &LogSeries,
    slot: Option<&LogSlot>,
    interval: Duration,
) -> Result<Present, Failure> {
    let none = |why: String| Ok(Present { base: None, why_new: Some(why) });
    let Some(name) = folder.names()?.pop() else {
        return none("the folder has no base backup".to_owned());
    };
    let base = match folder.base(&name, std::slice::from_ref(ring)) {
        Ok(base) => base,
        Err(failure) => return none(failure.what),
    };
    if base.manifest.series() != *series {
        return none(
            "the private Postgres was restored or made anew since the last one".to_owned(),
        );
    }
    if !keeps(slot, series, base.manifest.next_segment()) {
        let status = slot.map_or("missing", |slot| slot.status.as_str());
        return none(format!("log since the last one was lost (replication slot: {status})"));
    }
    let age = Clock::System.now() - base.manifest.began_at;
    let why_new = if base.manifest.proof_failed {
        Some("the test restore of the last one failed".to_owned())
    } else if age >= interval {
        Some("the last one is old enough".to_owned())
    } else {
        None
    };
    Ok(Present { base: Some(base), why_new })
}

/// Whether the server still has everything from a segment on.
fn keeps(slot: Option<&LogSlot>, series: &LogSeries, from: u64) -> bool {
    let begins = slot.and_then(|slot| slot.begins);
    begins.is_some_and(|begins| series.segment_of(begins) <= from)
}

/// The last segment that a switch has ended.
fn last_ended(series: &LogSeries, ends: LogPosition) -> u64 {
    series.segment_of(LogPosition(ends.0.saturating_sub(1)))
}

/// Makes a base backup if one is needed, and copies the log. The results are the base, whether it is new, and how
/// many segments and bytes were written.
async fn copy(
    setup: &Setup,
    options: &LogOptions<'_>,
    opened: &OpenDatabase,
    ring: &KeyRing,
    folder: &LogFolder,
    source: &LogSource,
) -> Result<(LogBase, bool, usize, u64), Failure> {
    let series = source.series().await?;
    let slot = source.slot().await?;
    let interval = setup.loaded.config.backup.base_interval;
    let present = present(folder, ring, &series, slot.as_ref(), interval)?;
    match &slot {
        Some(slot) if slot.begins.is_some() => {}
        found => {
            if found.is_some() {
                source.drop_slot().await?;
            }
            source.create_slot().await?;
        }
    }
    let mut written = (0, 0);
    let mut new = None;
    if let Some(why) = &present.why_new {
        setup.output.note(&format!("making a base backup: {why}"));
        let base = make_base(setup, options, opened, ring, folder, source, &series).await?;
        written.1 += base.1;
        new = Some(base.0);
    }
    let (covered_until, ends) = source.switch().await?;
    let last = last_ended(&series, ends);
    let log = setup.data_dir.join("postgres/pg_wal");
    let encrypt = options.encrypt;
    // First the earlier base backup: its log covers the time that the new one took.
    let mut kept_from = u64::MAX;
    let mut base = None;
    for (mut of, is_new) in
        present.base.into_iter().map(|base| (base, false)).chain(new.map(|base| (base, true)))
    {
        let first = of.manifest.next_segment();
        kept_from = kept_from.min(first);
        if is_new {
            folder.finish(&mut of)?;
        }
        let (from, ring) = (log.clone(), ring.clone());
        let (of, bytes) = blocking(move || {
            let bytes = of.collect(&from, last, covered_until, &ring, encrypt)?;
            Ok::<_, Failure>((of, bytes))
        })
        .await??;
        let segments = of.manifest.next_segment().saturating_sub(first);
        written.0 += usize::try_from(segments).unwrap_or_default();
        written.1 += bytes;
        base = Some((of, is_new));
    }
    // The server could have removed segments while they were copied.
    if !keeps(source.slot().await?.as_ref(), &series, kept_from) {
        let what = "the server removed log while it was copied";
        return Err(Failure::new(ExitStatus::Failed, what)
            .hint("run it again: it makes a new base backup; more free disk keeps more log"));
    }
    source.advance(series.beginning(last.saturating_add(1))).await?;
    let (base, is_new) =
        base.ok_or_else(|| Failure::new(ExitStatus::Failed, "there is no base backup"))?;
    Ok((base, is_new, written.0, written.1))
}

/// Makes a base backup under a temporary name. The second result is its size.
async fn make_base(
    setup: &Setup,
    options: &LogOptions<'_>,
    opened: &OpenDatabase,
    ring: &KeyRing,
    folder: &LogFolder,
    source: &LogSource,
    series: &LogSeries,
) -> Result<(LogBase, u64), Failure> {
    let work = BackupTools::prepare(setup, opened).await?;
    let (began, starts) = source.switch().await?;
    let mut base = folder.begin(series, began)?;
    base.manifest.first_segment = last_ended(series, starts).saturating_add(1);
    let path = base.path.join(BASE);
    let file = temp_file::create(&path).map_err(|error| unusable(&path, &error))?;
    disk_space::require(setup, opened, &file, options.verify).await?;
    let (file, manifest) = work.write_base(setup, file, ring, options.encrypt, began).await?;
    base.manifest.schema = manifest.schema;
    base.manifest.postgres = manifest.postgres;
    base.manifest.ended_at = source.now().await?;
    base.write_manifest(ring, options.encrypt)?;
    Ok((base, file.metadata().map_or(0, |metadata| metadata.len())))
}
