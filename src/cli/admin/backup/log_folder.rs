//! The folder of base backups with the archived log of each: `base-TIME/base.tar`, `base-TIME/wal/SEGMENT` and
//! `base-TIME/manifest.json`, each in an envelope (`secrets/envelope`). A base is complete once its folder has its
//! final name; segments count once the manifest lists them.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, UtcOffset, macros::format_description};

use crate::{
    cli::io::{
        exit::{ExitStatus, Failure},
        temp_file,
    },
    secrets::{EnvelopeError, EnvelopeFile, EnvelopeWriter, KeyRing},
    store::backup::log::LogSeries,
};

const PREFIX: &str = "base-";
const MANIFEST: &str = "manifest.json";
const SEGMENTS: &str = "wal";
/// The file of a base backup, and the cluster's files in it.
pub(super) const BASE: &str = "base.tar";
const LOCK: &str = ".esh3ar.lock";
/// The format that this version writes; raised when older versions cannot read it.
const FORMAT: u32 = 1;

/// One base backup and its log.
#[derive(Clone, Debug)]
pub(super) struct LogBase {
    pub(super) path: PathBuf,
    pub(super) manifest: LogManifest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogManifest {
    pub(super) format: u32,
    /// That of the folder.
    pub(super) name: String,
    /// The version of esh3ar that made the base backup.
    pub(super) esh3ar: String,
    pub(super) schema: i32,
    pub(super) postgres: String,
    pub(super) system: String,
    pub(super) timeline: u32,
    pub(super) segment_len: u64,
    /// The number of the first segment that the base backup needs.
    pub(super) first_segment: u64,
    #[serde(with = "crate::server::timestamp")]
    pub(super) began_at: OffsetDateTime,
    /// From here on the base backup can be restored.
    #[serde(with = "crate::server::timestamp")]
    pub(super) ended_at: OffsetDateTime,
    /// Everything committed before is in the segments.
    #[serde(with = "crate::server::timestamp")]
    pub(super) covered_until: OffsetDateTime,
    /// Whether the last test restore failed.
    pub(super) proof_failed: bool,
    /// Without gaps, from the first one.
    pub(super) segments: Vec<ArchivedSegment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchivedSegment {
    /// Without the zeros at its end.
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl LogManifest {
    /// The manifest of a base backup without log.
    pub(super) fn new(name: &str, series: &LogSeries, began_at: OffsetDateTime) -> LogManifest {
        LogManifest {
            format: FORMAT,
            name: name.to_owned(),
            esh3ar: env!("CARGO_PKG_VERSION").to_owned(),
            schema: 0,
            postgres: String::new(),
            system: series.system.clone(),
            timeline: series.timeline,
            segment_len: series.segment_len,
            first_segment: 0,
            began_at,
            ended_at: began_at,
            covered_until: began_at,
            proof_failed: false,
            segments: Vec::new(),
        }
    }

    pub(super) fn series(&self) -> LogSeries {
        let (system, timeline, segment_len) =
            (self.system.clone(), self.timeline, self.segment_len);
        LogSeries { system, timeline, segment_len }
    }

    /// The number of the segment after the last one.
    pub(super) fn next_segment(&self) -> u64 {
        self.first_segment.saturating_add(self.segments.len() as u64)
    }
}

impl LogBase {
    pub(super) fn segment_path(&self, number: u64) -> PathBuf {
        self.path.join(SEGMENTS).join(self.manifest.series().name(number))
    }

    /// Writes the manifest, durably.
    pub(super) fn write_manifest(&self, ring: &KeyRing, encrypt: bool) -> Result<(), Failure> {
        let path = self.path.join(MANIFEST);
        let text = serde_json::to_vec(&self.manifest)
            .map_err(|error| unusable(&path, &std::io::Error::other(error)))?;
        write(&path, &text, ring, encrypt)
    }

    /// Copies the segments up to `last` from the cluster's own folder. Returns how many bytes were written.
    pub(super) fn collect(
        &mut self,
        from: &Path,
        last: u64,
        covered_until: OffsetDateTime,
        ring: &KeyRing,
        encrypt: bool,
    ) -> Result<u64, Failure> {
        temp_file::remove_stale(&self.path, |_| true);
        temp_file::remove_stale(&self.path.join(SEGMENTS), |_| true);
        let mut bytes = 0;
        for number in self.manifest.next_segment()..=last {
            let source = from.join(self.manifest.series().name(number));
            let mut segment = fs::read(&source).map_err(|error| unreadable(&source, &error))?;
            if segment.len() as u64 != self.manifest.segment_len {
                let error = std::io::Error::other("it is not a whole segment");
                return Err(unreadable(&source, &error));
            }
            // The rest of a segment that was ended early.
            let length = segment.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            segment.truncate(length);
            write(&self.segment_path(number), &segment, ring, encrypt)?;
            bytes += length as u64;
            let sha256 = hash(&segment);
            self.manifest.segments.push(ArchivedSegment { bytes: length as u64, sha256 });
        }
        self.manifest.covered_until = covered_until;
        self.write_manifest(ring, encrypt)?;
        Ok(bytes)
    }

    /// A segment in its full length, compared with the manifest.
    pub(super) fn segment(&self, number: u64, rings: &[KeyRing]) -> Result<Vec<u8>, Failure> {
        let path = self.segment_path(number);
        let index = number.checked_sub(self.manifest.first_segment);
        let index = index.and_then(|index| usize::try_from(index).ok());
        let wanted = index.and_then(|index| self.manifest.segments.get(index));
        let mut bytes = read(&path, rings)?;
        let found = ArchivedSegment { bytes: bytes.len() as u64, sha256: hash(&bytes) };
        if wanted != Some(&found) || found.bytes > self.manifest.segment_len {
            return Err(altered(&path, "it is not the segment that the manifest lists"));
        }
        bytes.resize(usize::try_from(self.manifest.segment_len).unwrap_or_default(), 0);
        Ok(bytes)
    }
}

/// The folder, read or written.
pub(super) struct LogFolder {
    path: PathBuf,
    _lock: Option<File>,
}

impl LogFolder {
    /// For reading.
    pub(super) fn open(path: &Path) -> Result<LogFolder, Failure> {
        let path = path.canonicalize().map_err(|error| unreadable(path, &error))?;
        Ok(LogFolder { path, _lock: None })
    }

    /// For writing, alone. Removes what interrupted runs left.
    pub(super) fn lock(path: &Path) -> Result<LogFolder, Failure> {
        let path = path.canonicalize().map_err(|error| unusable(path, &error))?;
        let lock = lock(&path.join(LOCK))?;
        let folder = LogFolder { path, _lock: Some(lock) };
        for name in folder.all_names()? {
            if name.starts_with(&format!(".{PREFIX}")) && name.ends_with(".part") {
                let _ = fs::remove_dir_all(folder.path.join(name));
            }
        }
        Ok(folder)
    }

    fn all_names(&self) -> Result<Vec<String>, Failure> {
        let entries = fs::read_dir(&self.path).map_err(|error| unreadable(&self.path, &error))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The names of the complete base backups, oldest first.
    pub(super) fn names(&self) -> Result<Vec<String>, Failure> {
        let mut names = self.all_names()?;
        names.retain(|name| is_base(name));
        Ok(names)
    }

    /// A base backup by its name.
    pub(super) fn base(&self, name: &str, rings: &[KeyRing]) -> Result<LogBase, Failure> {
        let path = self.path.join(name);
        let file = path.join(MANIFEST);
        let bytes = read(&file, rings)?;
        let manifest: LogManifest =
            serde_json::from_slice(&bytes).map_err(|error| altered(&file, &error.to_string()))?;
        if manifest.format > FORMAT {
            let what = format!("{}: a newer esh3ar wrote it", file.display());
            return Err(
                Failure::new(ExitStatus::Refused, what).hint("use the esh3ar version that made it")
            );
        }
        if manifest.name != name || manifest.segment_len == 0 {
            return Err(altered(&file, "it belongs to another base backup"));
        }
        Ok(LogBase { path, manifest })
    }

    /// Creates the folder of a new base backup under a temporary name.
    pub(super) fn begin(&self, series: &LogSeries, at: OffsetDateTime) -> Result<LogBase, Failure> {
        let form = format_description!("[year][month][day]T[hour][minute][second]Z");
        let mut second = at.to_offset(UtcOffset::UTC);
        let name = loop {
            let name = format!("{PREFIX}{}", second.format(&form).unwrap_or_default());
            if !self.path.join(&name).exists() {
                break name;
            }
            second += time::Duration::SECOND;
        };
        let path = self.path.join(format!(".{name}.part"));
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join(SEGMENTS));
        made.map_err(|error| unusable(&path, &error))?;
        Ok(LogBase { path, manifest: LogManifest::new(&name, series, at) })
    }

    /// Gives a complete base backup its name, durably.
    pub(super) fn finish(&self, base: &mut LogBase) -> Result<(), Failure> {
        let path = self.path.join(&base.manifest.name);
        let synced = sync(&base.path.join(SEGMENTS)).and_then(|()| sync(&base.path));
        synced
            .and_then(|()| fs::rename(&base.path, &path))
            .and_then(|()| sync(&self.path))
            .map_err(|error| unusable(&path, &error))?;
        base.path = path;
        Ok(())
    }

    /// Removes the oldest of more than `keep` base backups with their log. Returns how many.
    pub(super) fn rotate(&self, keep: usize) -> Result<usize, Failure> {
        let names = self.names()?;
        let surplus = names.len().saturating_sub(keep);
        for name in names.iter().take(surplus) {
            let (path, gone) = (self.path.join(name), self.path.join(format!(".{name}.part")));
            // First the name: an incomplete one must not be taken for a base backup.
            fs::rename(&path, &gone)
                .and_then(|()| fs::remove_dir_all(&gone))
                .map_err(|error| unusable(&path, &error))?;
        }
        Ok(surplus)
    }
}

/// Locks a file for as long as the result lives.
pub(super) fn lock(path: &Path) -> Result<File, Failure> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| unusable(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            let what = "another backup or restore is running".to_owned();
            Err(Failure::new(ExitStatus::Refused, what).hint("wait until it ends"))
        }
        Err(fs::TryLockError::Error(error)) => Err(unusable(path, &error)),
    }
}

fn is_base(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|at| {
        at.len() == 16
            && at.bytes().enumerate().all(|(place, byte)| match place {
                8 => byte == b'T',
                15 => byte == b'Z',
                _ => byte.is_ascii_digit(),
            })
    })
}

fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Under a temporary name until it is complete and on the disk.
fn write(path: &Path, bytes: &[u8], ring: &KeyRing, encrypt: bool) -> Result<(), Failure> {
    let temporary = temp_file::path_for(path);
    let _ = fs::remove_file(&temporary);
    let written = temp_file::create(&temporary).and_then(|file| {
        let mut writer = EnvelopeWriter::new(file, ring, encrypt)?;
        writer.write_all(bytes)?;
        writer.finish()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), sync)
    });
    written.map_err(|error| unusable(path, &error))
}

fn read(path: &Path, rings: &[KeyRing]) -> Result<Vec<u8>, Failure> {
    let file = open(path, rings)?;
    let mut bytes = Vec::new();
    let read = file.reader().and_then(|mut reader| reader.read_to_end(&mut bytes));
    read.map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

/// Opens and authenticates a file. A base backup is as powerful as the data folder: none is trusted without its code.
pub(super) fn open(path: &Path, rings: &[KeyRing]) -> Result<EnvelopeFile, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    EnvelopeFile::open(file, rings, false).map_err(|error| match error {
        EnvelopeError::Io(error) => unreadable(path, &error),
        EnvelopeError::UnknownKey(_) => {
            let what = format!("{}: {error}", path.display());
            Failure::new(ExitStatus::Refused, what)
                .hint("name the key file of the installation that made it with --key-file FILE")
        }
        error => altered(path, &error.to_string()),
    })
}

pub(super) fn altered(path: &Path, why: &str) -> Failure {
    Failure::new(ExitStatus::Refused, format!("{}: {why}", path.display()))
        .hint("restore to a time before it, or use another copy of the folder")
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ExitStatus::NotFound,
        _ => ExitStatus::Failed,
    };
    Failure::new(kind, format!("{} cannot be read: {error}", path.display()))
        .hint("the folder must be complete, and readable for the owner of the data folder")
}

pub(super) fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::write_error(
        path,
        error,
        "choose an existing folder that the owner of the data folder may write",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::KeyFile;

    const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn segments_come_back_whole_and_only_those_that_are_listed() {
        let place = tempfile::tempdir().unwrap();
        let ring = KeyFile::new(place.path().join("keys")).create(AT).unwrap();
        let rings = std::slice::from_ref(&ring);
        let log = place.path().join("pg_wal");
        fs::create_dir(&log).unwrap();
        let series = LogSeries { system: "1".to_owned(), timeline: 1, segment_len: 1 << 20 };
        for number in 5..=7_u8 {
            let mut segment = vec![number; 10];
            segment.resize(1 << 20, 0);
            fs::write(log.join(series.name(number.into())), segment).unwrap();
        }
        let target = place.path().join("backups");
        fs::create_dir(&target).unwrap();
        let folder = LogFolder::lock(&target).unwrap();
        assert!(LogFolder::lock(&target).is_err(), "one at a time");
        let mut base = folder.begin(&series, AT).unwrap();
        base.manifest.first_segment = 5;
        base.write_manifest(&ring, false).unwrap();
        assert!(folder.names().unwrap().is_empty(), "it is not complete yet");
        folder.finish(&mut base).unwrap();
        assert_eq!(base.collect(&log, 6, AT, &ring, false).unwrap(), 20);
        assert_eq!(base.collect(&log, 7, AT, &ring, true).unwrap(), 10);
        assert!(base.collect(&log, 8, AT, &ring, false).is_err(), "it does not exist");

        let name = folder.names().unwrap().pop().unwrap();
        let base = folder.base(&name, rings).unwrap();
        assert_eq!((base.manifest.segments.len(), base.manifest.next_segment()), (3, 8));
        let found = base.segment(6, rings).unwrap();
        assert_eq!(
            (found.len(), found.get(..11)),
            (1 << 20, Some(&[6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 0][..]))
        );
        fs::copy(base.segment_path(5), base.segment_path(6)).unwrap();
        let swapped = base.segment(6, rings).unwrap_err();
        assert_eq!(swapped.kind, ExitStatus::Refused, "{}", swapped.what);
        fs::remove_file(base.segment_path(6)).unwrap();
        assert_eq!(base.segment(6, rings).unwrap_err().kind, ExitStatus::NotFound);
        fs::write(base.segment_path(7), "altered").unwrap();
        assert_eq!(base.segment(7, rings).unwrap_err().kind, ExitStatus::Refused);
        let other = target.join("base-19700101T000001Z");
        fs::create_dir(&other).unwrap();
        fs::copy(base.path.join(MANIFEST), other.join(MANIFEST)).unwrap();
        let moved = folder.base("base-19700101T000001Z", rings).unwrap_err();
        assert!(moved.what.contains("another base backup"), "{}", moved.what);
    }

    #[test]
    fn the_oldest_go_and_what_is_interrupted_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let names = ["base-20260101T000000Z", "base-20260102T000000Z", "base-20260103T000000Z"];
        for name in names.into_iter().chain([".base-20260104T000000Z.part", "base-mine"]) {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let folder = LogFolder::lock(place.path()).unwrap();
        assert!(!place.path().join(".base-20260104T000000Z.part").exists());
        assert_eq!(folder.rotate(2).unwrap(), 1);
        assert_eq!(folder.names().unwrap(), names[1..]);
        assert!(place.path().join("base-mine").exists());
    }
}
