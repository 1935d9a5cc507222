//! Copies of the private Postgres made of a base backup and its log.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    archive,
    log_folder::{self, BASE, LogBase, altered, unreadable, unusable},
    tools::{BackupError, bar, blocking},
};
use crate::{
    cli::{
        io::exit::{ExitStatus, Failure},
        setup::Setup,
    },
    secrets::KeyRing,
    store::{
        Store,
        backup::{self, DatabaseContents},
        embedded::{Replay, ReplayTarget},
        migrate,
    },
};

/// In the data folder: the copy that proves the backups.
const VERIFIED: &str = "verify";
/// In it: of which base backup it is, and which segment it needs next.
const STATE: &str = "state";

/// Makes a folder with the cluster of a base backup, in the place of an earlier one.
pub(super) async fn unpack(
    place: &Path,
    base: &LogBase,
    rings: &[KeyRing],
    what: &'static str,
) -> Result<(), Failure> {
    remove(place).await?;
    let (place, base, rings) = (place.to_owned(), base.clone(), rings.to_vec());
    blocking(move || {
        for folder in [place.clone(), place.join("postgres"), place.join("wal")] {
            let made = fs::DirBuilder::new().mode(0o700).create(&folder);
            made.map_err(|error| unusable(&folder, &error))?;
        }
        let path = base.path.join(BASE);
        let file = log_folder::open(&path, &rings)?;
        let manifest = archive::manifest(&file).map_err(BackupError::from)?;
        if manifest.created_at != base.manifest.began_at {
            return Err(altered(&path, "it belongs to another base backup"));
        }
        let shown = bar(file.archive_len(), what);
        let read = archive::read(&file, &manifest, &shown, |name, bytes| {
            if name == BASE {
                tar::Archive::new(bytes).unpack(place.join("postgres"))?;
            }
            Ok::<_, BackupError>(())
        });
        shown.finish_and_clear();
        Ok::<_, Failure>(read?)
    })
    .await?
}

/// Stops a server that a killed process left on a copy, and removes the copy.
pub(super) async fn remove(place: &Path) -> Result<(), Failure> {
    Replay::stop_leftover(place).await?;
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unusable(place, &error)),
        _ => Ok(()),
    }
}

/// Puts the segments from a number on where the copy looks for them.
pub(super) async fn put_segments(
    place: &Path,
    base: &LogBase,
    rings: &[KeyRing],
    from: u64,
) -> Result<(), Failure> {
    let (place, base, rings) = (place.to_owned(), base.clone(), rings.to_vec());
    blocking(move || {
        for number in from..base.manifest.next_segment() {
            let bytes = base.segment(number, &rings)?;
            let path = place.join("wal").join(base.manifest.series().name(number));
            let mut options = fs::File::options();
            let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(&bytes))
                .map_err(|error| unusable(&path, &error))?;
        }
        Ok::<_, Failure>(())
    })
    .await?
}

/// Replays a base backup with its log in a copy that stays, so that only what is new is replayed next time. Counts
/// the rows the first time.
pub(super) async fn prove(
    setup: &Setup,
    base: &LogBase,
    ring: &KeyRing,
) -> Result<Option<DatabaseContents>, Failure> {
    let place = setup.data_dir.join(VERIFIED);
    let rings = std::slice::from_ref(ring);
    if let Some(from) = state(&place, base) {
        Replay::stop_leftover(&place).await?;
        match bring_forward(setup, &place, base, rings, from, false).await {
            Ok(counted) => return Ok(counted),
            Err(failure) => {
                setup.output.note(&format!("the test copy is made again: {}", failure.what));
            }
        }
    }
    unpack(&place, base, rings, "verifying").await?;
    let first = base.manifest.first_segment;
    bring_forward(setup, &place, base, rings, first, true).await
}

/// The next segment of the copy, if it is one of this base backup.
fn state(place: &Path, base: &LogBase) -> Option<u64> {
    let text = fs::read_to_string(place.join(STATE)).ok()?;
    let (next, of) = text.trim_end().split_once(' ')?;
    let next = next.parse().ok().filter(|next| *next <= base.manifest.next_segment())?;
    (Path::new(of) == base.path).then_some(next)
}

async fn bring_forward(
    setup: &Setup,
    place: &Path,
    base: &LogBase,
    rings: &[KeyRing],
    from: u64,
    counts: bool,
) -> Result<Option<DatabaseContents>, Failure> {
    put_segments(place, base, rings, from).await?;
    let bin_dir = setup.loaded.config.database.bin_dir.as_deref();
    let mut copy = Replay::start(place, bin_dir, &ReplayTarget::Standby).await?;
    let checked = async {
        let (series, next) = (base.manifest.series(), base.manifest.next_segment());
        if !base.manifest.segments.is_empty() {
            copy.wait_replayed(&series.beginning(next).to_string()).await?;
        }
        let store = Store::new(copy.admin_config(), 1)?;
        let read = async {
            if counts {
                return Ok::<_, Failure>(Some(backup::contents(&store).await?));
            }
            migrate::status(&store.client().await?).await?;
            Ok(None)
        };
        let read = read.await;
        store.close();
        Ok::<_, Failure>((read?, copy.oldest_needed().await?))
    };
    let checked = checked.await;
    copy.stop().await?;
    let (counted, needed) = checked?;
    forget_before(&place.join("wal"), &needed)?;
    let path = place.join(STATE);
    let text = format!("{} {}\n", base.manifest.next_segment(), base.path.display());
    fs::write(&path, text).map_err(|error| unusable(&path, &error))?;
    Ok(counted)
}

/// Removes the segments that the copy does not need again. Their names sort by position.
fn forget_before(folder: &Path, needed: &str) -> Result<(), Failure> {
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().as_ref() < needed {
            let path: PathBuf = entry.path();
            fs::remove_file(&path).map_err(|error| unusable(&path, &error))?;
        }
    }
    Ok(())
}

/// A proof that failed: what was backed up before stays.
pub(super) fn unproven(base: &LogBase, failure: Failure) -> Failure {
    let what = format!("the test restore of {} failed: {}", base.path.display(), failure.what);
    let hint = "older base backups are kept, and the next run makes a new one; see verify/postgres.log in the data \
                folder";
    Failure::new(ExitStatus::Failed, what).hint(hint)
}
