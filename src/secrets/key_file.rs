//! The key file: text, one key a line, `v1 ID BASE64 CREATED`. The newest is the current one; empty lines and lines
//! that begin with `#` are comments.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use super::key_ring::{KEY_LEN, KeyId, KeyRing, RandomnessError, SecretKey};

/// In bytes; a key takes about 100.
const MAX_LEN: u64 = 64 * 1024;
const FORMAT: &str = "v1";
/// Group and others, except that the group may read a file of root's: so systemd passes credentials, and so a file
/// in `/etc` is for root to change and for the service to read.
const EXPOSED_BITS: u32 = 0o077;
const EXPOSED_BITS_OF_ROOT: u32 = 0o037;
const COMMENT: &str = "# Keys of esh3ar. What they seal cannot be opened without them: keep a copy of this file apart \
     from the database and its backups.\n";

/// Why a key file cannot be used. No text contains a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("the key file {0} does not exist")]
    Missing(PathBuf),
    #[error("the key file {0} already exists")]
    Exists(PathBuf),
    #[error("the key file {path} can be read or changed by others (mode {mode:04o})")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the key file {0} is no plain file, or larger than 64 KiB")]
    Unfit(PathBuf),
    #[error("line {line} of the key file {path} is no key")]
    Malformed { path: PathBuf, line: usize },
    #[error("the key file {path} has key {id} twice")]
    Duplicate { path: PathBuf, id: KeyId },
    #[error("the key file {0} has no key")]
    Empty(PathBuf),
    #[error("key {0} is not in the key file")]
    NoSuchKey(KeyId),
    #[error("key {0} is the current key")]
    Current(KeyId),
    #[error("the key file {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

/// Reads and changes a key file.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyRing {
    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn load(path: &Path) -> Result<KeyRing, KeyFileError> {
        KeyFile::new(path).load()
    }
}

impl KeyFile {
    pub fn new(path: impl Into<PathBuf>) -> KeyFile {
        KeyFile { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// [`KeyFileError`].
    pub fn load(&self) -> Result<KeyRing, KeyFileError> {
        self.parse(&self.read()?)
    }

    /// The text of the file, for a process that cannot read the file itself.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(&self) -> Result<Zeroizing<String>, KeyFileError> {
        // First, because opening a pipe would wait for its other end.
        if fs::metadata(&self.path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(KeyFileError::Unfit(self.path.clone()));
        }
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyFileError::Missing(self.path.clone()));
            }
            Err(error) => return Err(self.io(error)),
        };
        let metadata = file.metadata().map_err(|error| self.io(error))?;
        if !metadata.is_file() || metadata.len() > MAX_LEN {
            return Err(KeyFileError::Unfit(self.path.clone()));
        }
        let mode = metadata.mode() & 0o777;
        let exposed = if metadata.uid() == 0 { EXPOSED_BITS_OF_ROOT } else { EXPOSED_BITS };
        if mode & exposed != 0 {
            return Err(KeyFileError::Exposed { path: self.path.clone(), mode });
        }
        // Of the full length from the beginning: growing would leave copies in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(MAX_LEN as usize + 1));
        let mut limited = file.take(MAX_LEN + 1);
        limited.read_to_string(&mut text).map_err(|error| self.io(error))?;
        if text.len() as u64 > MAX_LEN {
            return Err(KeyFileError::Unfit(self.path.clone()));
        }
        Ok(text)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn parse(&self, text: &str) -> Result<KeyRing, KeyFileError> {
        let mut keys: Vec<SecretKey> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let malformed = || KeyFileError::Malformed { path: self.path.clone(), line };
            let key = parse_line(text).ok_or_else(malformed)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyFileError::Duplicate { path: self.path.clone(), id: key.id });
            }
            keys.push(key);
        }
        KeyRing::new(keys).ok_or_else(|| KeyFileError::Empty(self.path.clone()))
    }

    /// Makes the file with one new key; of several processes that do so at once, one makes it.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`], or another one.
    pub fn create(&self, now: OffsetDateTime) -> Result<KeyRing, KeyFileError> {
        let ring = self.ring_of(vec![SecretKey::generate(now)?])?;
        let temporary = self.write_temporary(&ring)?;
        // A link, because it fails where a rename replaces.
        let linked = fs::hard_link(&temporary, &self.path);
        let _ = fs::remove_file(&temporary);
        match linked {
            Ok(()) => self.sync_folder().map(|()| ring),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(KeyFileError::Exists(self.path.clone()))
            }
            Err(error) => Err(self.io(error)),
        }
    }

    /// Reads the file, which is made if it does not exist.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn load_or_create(&self, now: OffsetDateTime) -> Result<KeyRing, KeyFileError> {
        match self.load() {
            Err(KeyFileError::Missing(_)) => {}
            found => return found,
        }
        match self.create(now) {
            Err(KeyFileError::Exists(_)) => self.load(),
            made => made,
        }
    }

    /// Adds a key, which is the current one from now on.
    ///
    /// # Errors
    /// [`KeyFileError`]; the file is then unchanged.
    pub fn add(&self, now: OffsetDateTime) -> Result<KeyRing, KeyFileError> {
        let _lock = self.lock()?;
        let ring = self.load()?;
        let mut keys = ring.keys().to_vec();
        // Also with a clock that was set back: the newest is the current one.
        let newest = keys.last().map_or(now, |key| key.created_at + time::Duration::SECOND);
        keys.push(SecretKey::generate(now.max(newest))?);
        self.replace(keys)
    }

    /// Removes a key that is not the current one.
    ///
    /// # Errors
    /// [`KeyFileError`]; the file is then unchanged.
    pub fn remove(&self, id: KeyId) -> Result<KeyRing, KeyFileError> {
        let _lock = self.lock()?;
        let ring = self.load()?;
        if ring.current() == id {
            return Err(KeyFileError::Current(id));
        }
        if !ring.contains(id) {
            return Err(KeyFileError::NoSuchKey(id));
        }
        self.replace(ring.keys().iter().filter(|key| key.id != id).cloned().collect())
    }

    /// Keeps other commands from changing the file at the same time. On the folder, because the file is replaced.
    fn lock(&self) -> Result<File, KeyFileError> {
        let folder = File::open(self.folder()).map_err(|error| self.io(error))?;
        folder.lock().map_err(|error| self.io(error))?;
        Ok(folder)
    }

    fn ring_of(&self, keys: Vec<SecretKey>) -> Result<KeyRing, KeyFileError> {
        KeyRing::new(keys).ok_or_else(|| KeyFileError::Empty(self.path.clone()))
    }

    fn replace(&self, keys: Vec<SecretKey>) -> Result<KeyRing, KeyFileError> {
        let ring = self.ring_of(keys)?;
        let there = fs::metadata(&self.path).map_err(|error| self.io(error))?;
        let temporary = self.write_temporary(&ring)?;
        let renamed = (|| {
            let new = fs::metadata(&temporary)?;
            if (new.uid(), new.gid()) != (there.uid(), there.gid()) {
                // As root, of whom the file may not be.
                std::os::unix::fs::chown(&temporary, Some(there.uid()), Some(there.gid()))?;
            }
            fs::set_permissions(&temporary, there.permissions())?;
            fs::rename(&temporary, &self.path)
        })();
        if let Err(error) = renamed {
            let _ = fs::remove_file(&temporary);
            return Err(self.io(error));
        }
        self.sync_folder().map(|()| ring)
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The complete file under another name, on the disk.
    fn write_temporary(&self, ring: &KeyRing) -> Result<PathBuf, KeyFileError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = self.path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let written = (|| {
            let mut file =
                File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(COMMENT.as_bytes())?;
            for key in ring.keys() {
                file.write_all(text_of(key)?.as_bytes())?;
            }
            file.sync_all()
        })();
        written.map_err(|error| {
            let _ = fs::remove_file(&temporary);
            self.io(error)
        })?;
        Ok(temporary)
    }

    fn sync_folder(&self) -> Result<(), KeyFileError> {
        let synced = File::open(self.folder()).and_then(|folder| folder.sync_all());
        synced.map_err(|error| self.io(error))
    }

    fn io(&self, error: io::Error) -> KeyFileError {
        KeyFileError::Io { path: self.path.clone(), error }
    }
}

fn parse_line(text: &str) -> Option<SecretKey> {
    let mut words = text.split_ascii_whitespace();
    let (format, id, key, created) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if format != FORMAT || words.next().is_some() {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(key).ok()?);
    let bytes = Zeroizing::new(<[u8; KEY_LEN]>::try_from(decoded.as_slice()).ok()?);
    let key = SecretKey::new(bytes, OffsetDateTime::parse(created, &Rfc3339).ok()?)?;
    // The id follows from the key, so a mistyped key is found here.
    (KeyId::parse(id) == Some(key.id)).then_some(key)
}

fn text_of(key: &SecretKey) -> io::Result<Zeroizing<String>> {
    let created = key.created_at.format(&Rfc3339).map_err(io::Error::other)?;
    let encoded = Zeroizing::new(STANDARD.encode(key.bytes.as_slice()));
    Ok(Zeroizing::new(format!("{FORMAT} {} {} {created}\n", key.id, *encoded)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn file() -> (tempfile::TempDir, KeyFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path().join("secrets.key"));
        (folder, file)
    }

    fn mode(file: &KeyFile, mode: u32) {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn keys_are_made_added_and_removed() {
        let (folder, file) = file();
        assert!(matches!(file.load(), Err(KeyFileError::Missing(_))));
        let first = file.load_or_create(NOW).unwrap().current();
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(file.create(NOW), Err(KeyFileError::Exists(_))));
        assert_eq!(file.load_or_create(NOW).unwrap().current(), first);
        // The clock has not moved: the added key is the newest nevertheless.
        let second = file.add(NOW).unwrap().current();
        assert_ne!(first, second);
        let ring = file.load().unwrap();
        assert_eq!((ring.current(), ring.ids().collect::<Vec<_>>()), (second, vec![first, second]));
        assert!(matches!(file.remove(second), Err(KeyFileError::Current(_))));
        file.remove(first).unwrap();
        assert!(matches!(file.remove(first), Err(KeyFileError::NoSuchKey(_))));
        assert_eq!(file.load().unwrap().ids().collect::<Vec<_>>(), [second]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_pipe_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(KeyFile::new(path).load(), Err(KeyFileError::Unfit(_))));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_folder, file) = file();
        file.create(NOW).unwrap();
        for open in [0o604, 0o660, 0o620, 0o602, 0o644] {
            mode(&file, open);
            assert!(matches!(file.load(), Err(KeyFileError::Exposed { .. })), "{open:o}");
        }
        for closed in [0o600, 0o400] {
            mode(&file, closed);
            assert!(file.load().is_ok(), "{closed:o}");
        }
        // As systemd passes a credential: of root's, for a group.
        mode(&file, 0o440);
        let of_root = fs::metadata(file.path()).unwrap().uid() == 0;
        assert_eq!(file.load().is_ok(), of_root);
    }

    #[test]
    fn what_is_no_key_is_named_by_its_line_only() {
        let (_folder, file) = file();
        file.create(NOW).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        let line = text.lines().nth(1).unwrap();
        let read = |text: &str| {
            fs::write(file.path(), text).unwrap();
            file.load()
        };
        assert!(read(&format!("\n  # a comment\n{line}\n\n")).is_ok());
        let twice = read(&format!("{line}\n{line}\n")).unwrap_err();
        assert!(matches!(twice, KeyFileError::Duplicate { .. }));
        assert!(matches!(read("# nothing\n"), Err(KeyFileError::Empty(_))));
        let words: Vec<&str> = line.split(' ').collect();
        let mistyped =
            words[2].replacen(&words[2][..1], if words[2].starts_with('A') { "B" } else { "A" }, 1);
        for wrong in [
            line.replace("v1", "v2"),
            format!("{line} more"),
            words[..3].join(" "),
            format!("v1 {} {mistyped} {}", words[1], words[3]),
            format!("v1 {} AAAA {}", words[1], words[3]),
        ] {
            let error = read(&format!("# a comment\n{wrong}\n")).unwrap_err();
            assert!(matches!(error, KeyFileError::Malformed { line: 2, .. }), "{error}");
            assert!(!error.to_string().contains(words[2]), "the text has no key");
        }
        let large = format!("{line}\n{}", "#".repeat(MAX_LEN as usize));
        assert!(matches!(read(&large), Err(KeyFileError::Unfit(_))));
    }
}
