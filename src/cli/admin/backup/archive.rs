//! The archive of a backup, in its envelope (`secrets/envelope`): a tar archive that any tar can read, unless it is
//! encrypted.
//!
//! `database.dump` is what pg_dump wrote, `configuration/…` the configuration file and the secrets,
//! `media/…` is for media, and `manifest.json`, the last, lists the other files with their hashes:
//! a truncated archive has none.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Write},
};

use indicatif::ProgressBar;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::secrets::{EnvelopeError, EnvelopeFile, EnvelopeWriter};

pub(super) const DATABASE: &str = "database.dump";
pub(super) const CONFIGURATION: &str = "configuration/";
const MANIFEST: &str = "manifest.json";
/// The format that this version writes; raised when older versions cannot read it.
pub(super) const FORMAT: u32 = 1;
/// In bytes.
const MAX_MANIFEST_LEN: u64 = 16 * 1024 * 1024;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// The version of esh3ar that wrote it.
    pub(super) esh3ar: String,
    /// The newest migration of the database.
    pub(super) schema: i32,
    /// The version of Postgres.
    pub(super) postgres: String,
    /// The moment of the snapshot.
    #[serde(with = "crate::server::timestamp")]
    pub(super) created_at: OffsetDateTime,
    /// Rows by table.
    pub(super) tables: BTreeMap<String, i64>,
    /// Messages that reconciliation could not account for at that moment.
    pub(super) unaccounted: u64,
    /// The other files of the archive.
    pub(super) entries: Vec<ArchiveEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ArchiveEntry {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    #[error("not a backup of esh3ar, or truncated: {0}")]
    NotWhole(String),
    #[error("{0} is corrupted")]
    Changed(String),
    #[error("format {0} is newer than this esh3ar supports")]
    Newer(u32),
    #[error("{0}")]
    Envelope(EnvelopeError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

pub(super) struct ArchiveWriter {
    tar: tar::Builder<EnvelopeWriter>,
    entries: Vec<ArchiveEntry>,
    bar: ProgressBar,
}

/// Passes bytes on, and counts and hashes them.
struct Summed<'a, T> {
    inner: T,
    bytes: u64,
    sum: Context,
    bar: &'a ProgressBar,
}

impl<'a, T> Summed<'a, T> {
    fn new(inner: T, bar: &'a ProgressBar) -> Summed<'a, T> {
        Summed { inner, bytes: 0, sum: Context::new(&SHA256), bar }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sum.update(bytes);
        self.bar.inc(bytes.len() as u64);
    }

    fn entry(self, name: &str) -> ArchiveEntry {
        let sum = self.sum.finish();
        let sha256 = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        ArchiveEntry { name: name.to_owned(), bytes: self.bytes, sha256 }
    }
}

impl<T: Write> Write for Summed<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.add(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Summed<'_, T> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.add(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }
}

fn header(at: OffsetDateTime) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(at.unix_timestamp()).unwrap_or_default());
    header
}

impl From<EnvelopeError> for ArchiveError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Io(error) => ArchiveError::Io(error),
            error => ArchiveError::Envelope(error),
        }
    }
}

impl ArchiveWriter {
    pub(super) fn new(file: EnvelopeWriter, bar: ProgressBar) -> ArchiveWriter {
        ArchiveWriter { tar: tar::Builder::new(file), entries: Vec::new(), bar }
    }

    /// Adds a file of unknown length, which `write` writes. Only the first can be one, because its header is written
    /// again when the length is known.
    pub(super) fn stream<E: From<std::io::Error>>(
        &mut self,
        name: &str,
        at: OffsetDateTime,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut header = header(at);
        let mut summed = Summed::new(self.tar.append_writer(&mut header, name)?, &self.bar);
        write(&mut summed)?;
        summed.flush()?;
        let Summed { inner, bytes, sum, bar } = summed;
        inner.finish()?;
        self.entries.push(Summed { inner: (), bytes, sum, bar }.entry(name));
        Ok(())
    }

    pub(super) fn text(
        &mut self,
        name: &str,
        at: OffsetDateTime,
        text: &str,
    ) -> Result<(), ArchiveError> {
        let mut header = header(at);
        header.set_size(text.len() as u64);
        let mut summed = Summed::new(text.as_bytes(), &self.bar);
        self.tar.append_data(&mut header, name, &mut summed)?;
        let Summed { bytes, sum, bar, .. } = summed;
        self.entries.push(Summed { inner: (), bytes, sum, bar }.entry(name));
        Ok(())
    }

    /// Ends the archive and syncs it to the disk. `describe` completes the manifest.
    pub(super) fn finish(
        mut self,
        describe: impl FnOnce(Vec<ArchiveEntry>) -> Manifest,
    ) -> Result<(File, Manifest), ArchiveError> {
        let manifest = describe(std::mem::take(&mut self.entries));
        let text = serde_json::to_string_pretty(&manifest).map_err(std::io::Error::other)?;
        self.text(MANIFEST, manifest.created_at, &text)?;
        Ok((self.tar.into_inner()?.finish()?, manifest))
    }
}

pub(super) fn manifest(file: &EnvelopeFile) -> Result<Manifest, ArchiveError> {
    let not_whole = |error: std::io::Error| ArchiveError::NotWhole(error.to_string());
    let mut archive = tar::Archive::new(file.reader()?);
    for entry in archive.entries_with_seek().map_err(not_whole)? {
        let entry = entry.map_err(not_whole)?;
        if entry.path_bytes().as_ref() != MANIFEST.as_bytes() {
            continue;
        }
        let mut text = Vec::new();
        entry.take(MAX_MANIFEST_LEN).read_to_end(&mut text).map_err(not_whole)?;
        // First only the format: another one may have other fields.
        let wrong = |error: serde_json::Error| ArchiveError::NotWhole(error.to_string());
        let any: serde_json::Value = serde_json::from_slice(&text).map_err(wrong)?;
        let format = any["format"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
        if format > FORMAT {
            return Err(ArchiveError::Newer(format));
        }
        return serde_json::from_value(any).map_err(wrong);
    }
    Err(ArchiveError::NotWhole("no manifest.json".to_owned()))
}

/// Reads every file of an archive in order, checks each against the manifest, and fails if one is
/// missing. `take` gets each; what it leaves unread is read after it.
pub(super) fn read<E: From<ArchiveError>>(
    file: &EnvelopeFile,
    manifest: &Manifest,
    bar: &ProgressBar,
    mut take: impl FnMut(&str, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let io = |error: std::io::Error| E::from(ArchiveError::Io(error));
    let reader = file.reader().map_err(io)?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(256 * 1024, reader));
    let mut left: Vec<&ArchiveEntry> = manifest.entries.iter().collect();
    for entry in archive.entries().map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name == MANIFEST {
            continue;
        }
        let mut summed = Summed::new(entry, bar);
        take(&name, &mut summed)?;
        std::io::copy(&mut summed, &mut std::io::sink()).map_err(io)?;
        let Summed { bytes, sum, bar, .. } = summed;
        let found = Summed { inner: (), bytes, sum, bar }.entry(&name);
        let place = left.iter().position(|wanted| **wanted == found);
        left.remove(place.ok_or_else(|| ArchiveError::Changed(name.clone()))?);
    }
    match left.first() {
        None => Ok(()),
        Some(missing) => Err(ArchiveError::Changed(missing.name.clone()).into()),
    }
}
