//! The keys of a running process.

use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

use super::{KeyFile, KeyFileError, KeyPurpose, KeyRing, OpenError, RandomnessError};

/// The keys of a process, with the file that they are from. Clones share them.
#[derive(Clone, Debug)]
pub struct KeyStore {
    file: KeyFile,
    ring: Arc<RwLock<Arc<KeyRing>>>,
}

impl KeyStore {
    pub fn new(file: KeyFile, ring: KeyRing) -> KeyStore {
        KeyStore { file, ring: Arc::new(RwLock::new(Arc::new(ring))) }
    }

    pub fn file(&self) -> &KeyFile {
        &self.file
    }

    /// The keys as they were last read.
    pub fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again. It is small and local: this does not block for long.
    ///
    /// # Errors
    /// [`KeyFileError`]; the keys are then unchanged.
    pub fn reload(&self) -> Result<Arc<KeyRing>, KeyFileError> {
        let ring = Arc::new(self.file.load()?);
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&ring);
        Ok(ring)
    }

    /// # Errors
    /// [`RandomnessError`].
    pub fn seal(
        &self,
        purpose: KeyPurpose,
        context: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, RandomnessError> {
        self.ring().seal(purpose, context, plain)
    }

    /// Opens a sealed value; if its key is unknown, reads the file again first: another process may have rotated.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        &self,
        purpose: KeyPurpose,
        context: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        match self.ring().open(purpose, context, sealed) {
            Err(OpenError::UnknownKey(id)) => match self.reload() {
                Ok(ring) => ring.open(purpose, context, sealed),
                Err(error) => {
                    tracing::warn!(%error, "cannot read the key file again");
                    Err(OpenError::UnknownKey(id))
                }
            },
            opened => opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_key_that_another_process_added_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path().join("secrets.key"));
        let now = OffsetDateTime::UNIX_EPOCH;
        let store = KeyStore::new(file.clone(), file.create(now).unwrap());
        let added = file.add(now).unwrap();
        let sealed = added.seal(KeyPurpose::SecretsTable, b"row", b"secret").unwrap();
        assert_ne!(store.ring().current(), added.current());
        let opened = store.open(KeyPurpose::SecretsTable, b"row", &sealed).unwrap();
        assert_eq!(opened[..], b"secret"[..]);
        assert_eq!(store.ring().current(), added.current());
    }
}
