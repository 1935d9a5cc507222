//! The envelope of a backup file: authenticated always, encrypted if asked for.
//!
//! Not encrypted, the file is the archive with a trailer, so that any tar reads it: magic, version, key id, salt,
//! and an HMAC-SHA256 over everything before itself. Encrypted, it is a header of magic, version, key id and salt,
//! and the archive in chunks of 64 KiB, each sealed with AES-256-GCM. A chunk's nonce is its number and whether it
//! is the last, so that chunks cannot be removed, repeated or reordered. Keys are derived per file from its salt.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

use subtle::ConstantTimeEq as _;

use super::{KeyId, KeyPurpose, KeyRing, RandomnessError};

/// In bytes of the archive.
const CHUNK_LEN: usize = 64 * 1024;
const TAG_LEN: usize = 16;
const SEALED_CHUNK_LEN: u64 = (CHUNK_LEN + TAG_LEN) as u64;
const MAC_LEN: usize = 32;
const SALT_LEN: usize = 32;
const MAGIC_LEN: usize = 11;
const ENCRYPTED: &[u8; MAGIC_LEN] = b"esh3ar-enc\n";
const AUTHENTICATED: &[u8; MAGIC_LEN] = b"esh3ar-mac\n";
const VERSION: u8 = 1;
/// Magic, version, key id, salt.
const HEAD_LEN: usize = MAGIC_LEN + 1 + KeyId::LEN + SALT_LEN;

/// Why a backup file cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error(
        "it has no authentication code: it is from an earlier version, truncated or not from esh3ar"
    )]
    Unauthenticated,
    #[error("its envelope has version {0}, which is newer than this esh3ar supports")]
    Newer(u8),
    #[error("it was made with key {0}, which is not in the key file")]
    UnknownKey(KeyId),
    #[error("it was altered after it was made")]
    Forged,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The head of an envelope: at the beginning of an encrypted file, in the trailer of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head([u8; HEAD_LEN]);

impl Head {
    fn new(encrypted: bool, key: KeyId) -> Result<Head, RandomnessError> {
        let mut salt = [0; SALT_LEN];
        SystemRandom::new().fill(&mut salt).map_err(|_| RandomnessError)?;
        let magic = if encrypted { ENCRYPTED } else { AUTHENTICATED };
        let bytes = [&magic[..], &[VERSION], key.as_bytes(), &salt].concat();
        bytes.try_into().map(Head).map_err(|_| RandomnessError)
    }

    /// `None` if the bytes begin no envelope of this kind.
    fn parse(bytes: &[u8], magic: &[u8; MAGIC_LEN]) -> Option<Result<Head, EnvelopeError>> {
        let head = Head(*bytes.first_chunk::<HEAD_LEN>()?);
        if !head.0.starts_with(magic) {
            return None;
        }
        let version = head.0.get(MAGIC_LEN).copied().unwrap_or_default();
        Some(if version == VERSION { Ok(head) } else { Err(EnvelopeError::Newer(version)) })
    }

    fn key(&self) -> KeyId {
        let bytes = self.0.get(MAGIC_LEN + 1..).and_then(|rest| rest.first_chunk());
        KeyId::from_bytes(bytes.copied().unwrap_or_default())
    }

    fn derive(&self, rings: &[KeyRing]) -> Option<zeroize::Zeroizing<[u8; 32]>> {
        let id = self.key();
        rings.iter().find_map(|ring| ring.derive_for(&id, KeyPurpose::BackupFile, &self.0))
    }

    fn aead(&self, rings: &[KeyRing]) -> Option<LessSafeKey> {
        let key = self.derive(rings)?;
        UnboundKey::new(&AES_256_GCM, key.as_slice()).ok().map(LessSafeKey::new)
    }

    fn mac(&self, rings: &[KeyRing]) -> Option<hmac::Context> {
        let key = self.derive(rings)?;
        Some(hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())))
    }
}

/// Unique for each chunk of a file, and each file has a key of its own.
fn nonce(chunk: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    let (number, flag) = bytes.split_at_mut(8);
    number.copy_from_slice(&chunk.to_be_bytes());
    if let Some(first) = flag.first_mut() {
        *first = u8::from(last);
    }
    Nonce::assume_unique_for_key(bytes)
}

fn failed() -> io::Error {
    io::Error::other("cannot encrypt")
}

/// Writes a backup file. Seeking is possible within the first chunk and the one being written: that is enough for
/// the header of an archive's first file.
pub struct EnvelopeWriter {
    file: File,
    head: Head,
    ring: KeyRing,
    encrypting: Option<Encrypting>,
}

struct Encrypting {
    key: LessSafeKey,
    /// Held back until the end, because its beginning is written again.
    first: Vec<u8>,
    /// The chunk being written, after the first.
    chunk: Vec<u8>,
    /// Its number.
    number: u64,
    position: u64,
    length: u64,
}

impl EnvelopeWriter {
    /// Begins an empty file.
    ///
    /// # Errors
    /// Without randomness, or if the file cannot be written.
    pub fn new(mut file: File, ring: &KeyRing, encrypted: bool) -> io::Result<EnvelopeWriter> {
        let head = Head::new(encrypted, ring.current()).map_err(io::Error::other)?;
        let encrypting = if encrypted {
            file.write_all(&head.0)?;
            let key = head.aead(std::slice::from_ref(ring)).ok_or_else(failed)?;
            let (first, chunk) = (Vec::new(), Vec::with_capacity(CHUNK_LEN + TAG_LEN));
            Some(Encrypting { key, first, chunk, number: 1, position: 0, length: 0 })
        } else {
            None
        };
        Ok(EnvelopeWriter { file, head, ring: ring.clone(), encrypting })
    }

    /// Completes the file, on the disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(mut self) -> io::Result<File> {
        match self.encrypting.take() {
            Some(encrypting) => encrypting.finish(&mut self.file, &self.head)?,
            None => {
                self.file.flush()?;
                let mut mac = self.head.mac(std::slice::from_ref(&self.ring)).ok_or_else(failed)?;
                self.file.seek(SeekFrom::Start(0))?;
                update(&mut mac, &self.file, u64::MAX)?;
                mac.update(&self.head.0);
                self.file.seek(SeekFrom::End(0))?;
                self.file.write_all(&self.head.0)?;
                self.file.write_all(mac.sign().as_ref())?;
            }
        }
        self.file.sync_all()?;
        Ok(self.file)
    }
}

fn update(mac: &mut hmac::Context, file: &File, length: u64) -> io::Result<()> {
    let mut left = BufReader::with_capacity(CHUNK_LEN, file).take(length);
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        let count = left.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        mac.update(buffer.get(..count).unwrap_or_default());
    }
}

impl Encrypting {
    fn write(&mut self, file: &mut File, head: &Head, bytes: &[u8]) -> io::Result<usize> {
        if self.position < CHUNK_LEN as u64 {
            let at = usize::try_from(self.position).unwrap_or(CHUNK_LEN);
            let count = bytes.len().min(CHUNK_LEN - at);
            let end = at + count;
            if self.first.len() < end {
                self.first.resize(end, 0);
            }
            if let (Some(to), Some(from)) = (self.first.get_mut(at..end), bytes.get(..count)) {
                to.copy_from_slice(from);
            }
            self.advance(count);
            return Ok(count);
        }
        if self.position != self.length {
            return Err(io::Error::other("an encrypted backup is written in order"));
        }
        // Only when more follows is it known that a full chunk is not the last.
        if self.chunk.len() == CHUNK_LEN {
            self.seal_chunk(file, head, false)?;
        }
        let count = bytes.len().min(CHUNK_LEN - self.chunk.len());
        self.chunk.extend_from_slice(bytes.get(..count).unwrap_or_default());
        self.advance(count);
        Ok(count)
    }

    fn advance(&mut self, count: usize) {
        self.position += count as u64;
        self.length = self.length.max(self.position);
    }

    fn seal_chunk(&mut self, file: &mut File, head: &Head, last: bool) -> io::Result<()> {
        let nonce = nonce(self.number, last);
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::from(&head.0), &mut self.chunk);
        sealed.map_err(|_| failed())?;
        file.seek(SeekFrom::Start(offset(self.number)))?;
        file.write_all(&self.chunk)?;
        self.chunk.clear();
        self.number += 1;
        Ok(())
    }

    fn finish(mut self, file: &mut File, head: &Head) -> io::Result<()> {
        let only_first = self.length <= CHUNK_LEN as u64;
        if !only_first {
            self.seal_chunk(file, head, true)?;
        }
        self.chunk = std::mem::take(&mut self.first);
        self.number = 0;
        self.seal_chunk(file, head, only_first)
    }

    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        let position = position.filter(|at| *at <= self.length);
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

/// Where a chunk begins in the file.
fn offset(chunk: u64) -> u64 {
    HEAD_LEN as u64 + chunk.saturating_mul(SEALED_CHUNK_LEN)
}

impl Write for EnvelopeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.encrypting {
            Some(encrypting) => encrypting.write(&mut self.file, &self.head, bytes),
            None => self.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for EnvelopeWriter {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.encrypting {
            Some(encrypting) => encrypting.seek(to),
            None => self.file.seek(to),
        }
    }
}

/// A backup file whose every byte was authenticated, or that is trusted without that.
#[derive(Debug)]
pub struct EnvelopeFile {
    file: File,
    /// Of the archive in it.
    length: u64,
    key: Option<KeyId>,
    encrypted: Option<(Head, LessSafeKey)>,
}

impl EnvelopeFile {
    /// Reads the whole file once before anything of it is used. With `trust`, a file that is not encrypted is
    /// accepted without a valid authentication code.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn open(file: File, rings: &[KeyRing], trust: bool) -> Result<EnvelopeFile, EnvelopeError> {
        let length = file.metadata()?.len();
        let mut start = Vec::new();
        (&file).seek(SeekFrom::Start(0))?;
        (&file).take(HEAD_LEN as u64).read_to_end(&mut start)?;
        if let Some(head) = Head::parse(&start, ENCRYPTED) {
            return EnvelopeFile::open_encrypted(file, length, head?, rings);
        }
        match EnvelopeFile::check_mac(&file, length, rings) {
            Ok((length, key)) => Ok(EnvelopeFile { file, length, key: Some(key), encrypted: None }),
            Err(error @ EnvelopeError::Io(_)) => Err(error),
            Err(_) if trust => Ok(EnvelopeFile { file, length, key: None, encrypted: None }),
            Err(error) => Err(error),
        }
    }

    fn check_mac(
        file: &File,
        length: u64,
        rings: &[KeyRing],
    ) -> Result<(u64, KeyId), EnvelopeError> {
        let trailer_len = (HEAD_LEN + MAC_LEN) as u64;
        let archive = length.checked_sub(trailer_len).ok_or(EnvelopeError::Unauthenticated)?;
        let mut trailer = Vec::new();
        let mut reader = file;
        reader.seek(SeekFrom::Start(archive))?;
        reader.take(trailer_len).read_to_end(&mut trailer)?;
        let head = Head::parse(&trailer, AUTHENTICATED).ok_or(EnvelopeError::Unauthenticated)??;
        let mut mac = head.mac(rings).ok_or_else(|| EnvelopeError::UnknownKey(head.key()))?;
        reader.seek(SeekFrom::Start(0))?;
        update(&mut mac, file, archive)?;
        mac.update(&head.0);
        let found = trailer.get(HEAD_LEN..).unwrap_or_default();
        if !bool::from(mac.sign().as_ref().ct_eq(found)) {
            return Err(EnvelopeError::Forged);
        }
        Ok((archive, head.key()))
    }

    fn open_encrypted(
        file: File,
        length: u64,
        head: Head,
        rings: &[KeyRing],
    ) -> Result<EnvelopeFile, EnvelopeError> {
        let key = head.aead(rings).ok_or_else(|| EnvelopeError::UnknownKey(head.key()))?;
        let sealed = length.checked_sub(HEAD_LEN as u64).ok_or(EnvelopeError::Forged)?;
        let chunks = sealed.div_ceil(SEALED_CHUNK_LEN);
        let archive = sealed.checked_sub(chunks.saturating_mul(TAG_LEN as u64));
        let archive = archive.filter(|_| chunks > 0).ok_or(EnvelopeError::Forged)?;
        let id = head.key();
        let file =
            EnvelopeFile { file, length: archive, key: Some(id), encrypted: Some((head, key)) };
        let mut reader = file.reader()?;
        for chunk in 0..chunks {
            reader.load(chunk).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => EnvelopeError::Forged,
                _ => EnvelopeError::Io(error),
            })?;
        }
        Ok(file)
    }

    /// Length of the archive, in bytes.
    pub const fn archive_len(&self) -> u64 {
        self.length
    }

    /// The key that authenticates it; `None` if it is only trusted.
    pub const fn key(&self) -> Option<KeyId> {
        self.key
    }

    pub const fn is_encrypted(&self) -> bool {
        self.encrypted.is_some()
    }

    /// Another handle of the same file.
    ///
    /// # Errors
    /// If the operating system gives none.
    pub fn try_clone(&self) -> io::Result<EnvelopeFile> {
        let (file, encrypted) = (self.file.try_clone()?, self.encrypted.clone());
        Ok(EnvelopeFile { file, length: self.length, key: self.key, encrypted })
    }

    /// Reads the archive from its beginning. Of several readers of a file, one may be used at a time.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn reader(&self) -> io::Result<EnvelopeReader<'_>> {
        (&self.file).seek(SeekFrom::Start(0))?;
        Ok(EnvelopeReader { file: self, position: 0, chunk: Vec::new(), loaded: None })
    }
}

/// Reads the archive of a backup file.
pub struct EnvelopeReader<'a> {
    file: &'a EnvelopeFile,
    position: u64,
    /// Of an encrypted file: the chunk that was opened last, and its number.
    chunk: Vec<u8>,
    loaded: Option<u64>,
}

impl EnvelopeReader<'_> {
    fn load(&mut self, number: u64) -> io::Result<()> {
        let Some((head, key)) = &self.file.encrypted else { return Ok(()) };
        if self.loaded == Some(number) {
            return Ok(());
        }
        self.loaded = None;
        self.chunk.clear();
        let start = number.saturating_mul(CHUNK_LEN as u64);
        let length = self.file.length.saturating_sub(start).min(CHUNK_LEN as u64);
        let last = start.saturating_add(CHUNK_LEN as u64) >= self.file.length;
        let mut file = &self.file.file;
        file.seek(SeekFrom::Start(offset(number)))?;
        file.take(length + TAG_LEN as u64).read_to_end(&mut self.chunk)?;
        let forged = |_| io::Error::new(io::ErrorKind::InvalidData, "the file was altered");
        let nonce = nonce(number, last);
        let opened = key.open_in_place(nonce, Aad::from(&head.0), &mut self.chunk);
        let length = opened.map_err(forged)?.len();
        self.chunk.truncate(length);
        self.loaded = Some(number);
        Ok(())
    }
}

impl Read for EnvelopeReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.file.length.saturating_sub(self.position);
        if left == 0 || bytes.is_empty() {
            return Ok(0);
        }
        let count = if self.file.encrypted.is_some() {
            self.load(self.position / CHUNK_LEN as u64)?;
            let at = usize::try_from(self.position % CHUNK_LEN as u64).unwrap_or_default();
            self.chunk.get(at..).unwrap_or_default().read(bytes)?
        } else {
            (&self.file.file).take(left).read(bytes)?
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for EnvelopeReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.file.length.checked_add_signed(by),
        };
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if self.file.encrypted.is_none() {
            (&self.file.file).seek(SeekFrom::Start(position))?;
        }
        self.position = position;
        Ok(position)
    }
}

#[cfg(test)]
mod tests;
