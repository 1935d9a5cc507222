//! The keys, and what is derived from them. No key is used itself: each purpose has a key of its own, derived
//! with HKDF-SHA256.

use std::fmt;

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{self, HKDF_SHA256},
    rand::{SecureRandom as _, SystemRandom},
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Length of a key, in bytes.
pub(super) const KEY_LEN: usize = 32;
/// Length of a key's id, in bytes.
const ID_LEN: usize = 8;
/// The format of sealed values.
const SEALED_VERSION: u8 = 1;
/// Version, key id, nonce.
const HEADER_LEN: usize = 1 + ID_LEN + NONCE_LEN;
/// Separates these keys from those that another program may derive.
const SALT: &[u8] = b"esh3ar secrets v1";

/// What a derived key is for. Values that are sealed for one purpose cannot be opened for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPurpose {
    /// Rows of the table `secrets`.
    SecretsTable,
    /// The file of `esh3ar backup`.
    BackupFile,
    /// Base backups and archived log of the private Postgres.
    BackupLog,
    /// One-time codes of registrations, and what is stored of them.
    OneTimeCode,
}

impl KeyPurpose {
    /// Never changes: keys are derived from it.
    const fn label(self) -> &'static [u8] {
        match self {
            KeyPurpose::SecretsTable => b"table secrets",
            KeyPurpose::BackupFile => b"backup file",
            KeyPurpose::BackupLog => b"backup log",
            KeyPurpose::OneTimeCode => b"one-time code",
        }
    }
}

/// Names a key without a hint of what it is: it is derived from the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_LEN]);

impl KeyId {
    pub const LEN: usize = ID_LEN;

    /// The id of a key.
    fn of(key: &[u8; KEY_LEN]) -> Option<KeyId> {
        let mut id = [0; ID_LEN];
        expand(key, &[b"key id"], &mut id)?;
        Some(KeyId(id))
    }

    pub const fn from_bytes(bytes: [u8; ID_LEN]) -> KeyId {
        KeyId(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }

    /// Reads 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<KeyId> {
        let plain = text.len() == 2 * ID_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()?;
        Some(KeyId(number.to_be_bytes()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key of the file.
#[derive(Clone)]
pub(super) struct SecretKey {
    pub(super) id: KeyId,
    pub(super) bytes: Zeroizing<[u8; KEY_LEN]>,
    pub(super) created_at: OffsetDateTime,
}

impl SecretKey {
    pub(super) fn new(
        bytes: Zeroizing<[u8; KEY_LEN]>,
        created_at: OffsetDateTime,
    ) -> Option<SecretKey> {
        let id = KeyId::of(&bytes)?;
        Some(SecretKey { id, bytes, created_at })
    }

    pub(super) fn generate(created_at: OffsetDateTime) -> Result<SecretKey, RandomnessError> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        SystemRandom::new().fill(bytes.as_mut_slice()).map_err(|_| RandomnessError)?;
        SecretKey::new(bytes, created_at).ok_or(RandomnessError)
    }
}

/// The operating system gives no random bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct RandomnessError;

/// Why a sealed value cannot be opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed with a key that the key ring does not have.
    #[error("sealed with key {0}, which is not in the key file")]
    UnknownKey(KeyId),
    /// It was changed, or sealed for something else.
    #[error("altered, or sealed for another purpose")]
    Forged,
}

/// The keys of an installation: one is current, the others open what was sealed before.
#[derive(Clone)]
pub struct KeyRing {
    /// By age; the last is the current one. Never empty.
    keys: Vec<SecretKey>,
    current: KeyId,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyRing").field(&self.ids().collect::<Vec<_>>()).finish()
    }
}

impl KeyRing {
    /// `None` without keys. Of keys with the same time, the last is the newest.
    pub(super) fn new(mut keys: Vec<SecretKey>) -> Option<KeyRing> {
        keys.sort_by_key(|key| key.created_at);
        let current = keys.last()?.id;
        Some(KeyRing { keys, current })
    }

    pub(super) fn keys(&self) -> &[SecretKey] {
        &self.keys
    }

    /// The key that seals: the newest.
    pub const fn current(&self) -> KeyId {
        self.current
    }

    /// All keys, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.keys.iter().map(|key| key.id)
    }

    /// All keys with the time at which they were made, oldest first.
    pub fn created(&self) -> impl Iterator<Item = (KeyId, OffsetDateTime)> + '_ {
        self.keys.iter().map(|key| (key.id, key.created_at))
    }

    pub fn contains(&self, id: KeyId) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// The key for a purpose; `None` if the key ring does not have this key.
    pub fn derive(&self, id: &KeyId, purpose: KeyPurpose) -> Option<Zeroizing<[u8; KEY_LEN]>> {
        self.derive_for(id, purpose, b"")
    }

    /// The same for one file or one stream: `context` is its own random salt.
    pub fn derive_for(
        &self,
        id: &KeyId,
        purpose: KeyPurpose,
        context: &[u8],
    ) -> Option<Zeroizing<[u8; KEY_LEN]>> {
        let key = self.keys.iter().find(|key| key.id == *id)?;
        let mut derived = Zeroizing::new([0; KEY_LEN]);
        expand(
            &key.bytes,
            &[b"purpose ", purpose.label(), b"\0", context],
            derived.as_mut_slice(),
        )?;
        Some(derived)
    }

    /// Seals a small secret with the current key. `context` says what it is, such as the name of its row: it is
    /// not stored, and the same is needed to open it.
    ///
    /// # Errors
    /// [`RandomnessError`].
    pub fn seal(
        &self,
        purpose: KeyPurpose,
        context: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, RandomnessError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| RandomnessError)?;
        let key = self.aead(&self.current, purpose).ok_or(RandomnessError)?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.push(SEALED_VERSION);
        sealed.extend_from_slice(self.current.as_bytes());
        sealed.extend_from_slice(&nonce);
        let associated = associated_data(&sealed, context);
        // Apart, because it is encrypted in place: no plain text is left behind.
        let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
        text.extend_from_slice(plain);
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(associated),
            &mut *text,
        )
        .map_err(|_| RandomnessError)?;
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens what [`KeyRing::seal`] sealed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        &self,
        purpose: KeyPurpose,
        context: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let id = KeyRing::sealed_with(sealed).ok_or(OpenError::Forged)?;
        let key = self.aead(&id, purpose).ok_or(OpenError::UnknownKey(id))?;
        let (header, text) = sealed.split_at_checked(HEADER_LEN).ok_or(OpenError::Forged)?;
        let nonce = header.get(1 + ID_LEN..).unwrap_or_default();
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Forged)?;
        let mut plain = Zeroizing::new(text.to_vec());
        let opened =
            key.open_in_place(nonce, Aad::from(associated_data(header, context)), &mut plain);
        let length = opened.map_err(|_| OpenError::Forged)?.len();
        plain.truncate(length);
        Ok(plain)
    }

    /// The key that a value was sealed with; `None` if it is no sealed value.
    pub fn sealed_with(sealed: &[u8]) -> Option<KeyId> {
        let (version, rest) = sealed.split_first()?;
        let id = rest.first_chunk::<ID_LEN>()?;
        (*version == SEALED_VERSION).then_some(KeyId(*id))
    }

    fn aead(&self, id: &KeyId, purpose: KeyPurpose) -> Option<LessSafeKey> {
        let key = self.derive(id, purpose)?;
        UnboundKey::new(&AES_256_GCM, key.as_slice()).ok().map(LessSafeKey::new)
    }
}

/// The header has a fixed length, so no two pairs give the same bytes.
fn associated_data(header: &[u8], context: &[u8]) -> Vec<u8> {
    [header, context].concat()
}

/// The length of what is derived.
struct DerivedLen(usize);

impl hkdf::KeyType for DerivedLen {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(key: &[u8; KEY_LEN], info: &[&[u8]], into: &mut [u8]) -> Option<()> {
    let extracted = hkdf::Salt::new(HKDF_SHA256, SALT).extract(key);
    let derived = extracted.expand(info, DerivedLen(into.len())).ok()?;
    derived.fill(into).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8, at: i64) -> SecretKey {
        let created = OffsetDateTime::from_unix_timestamp(at).unwrap();
        SecretKey::new(Zeroizing::new([byte; KEY_LEN]), created).unwrap()
    }

    fn ring(bytes: &[u8]) -> KeyRing {
        let keys = bytes.iter().zip(1..).map(|(byte, at)| key(*byte, at));
        KeyRing::new(keys.collect()).unwrap()
    }

    #[test]
    fn what_one_key_sealed_opens_after_a_rotation_and_not_without_it() {
        let (old, rotated, other) = (ring(&[1]), ring(&[1, 2]), ring(&[2]));
        let sealed = old.seal(KeyPurpose::SecretsTable, b"row", b"the secret").unwrap();
        assert_eq!(
            rotated.open(KeyPurpose::SecretsTable, b"row", &sealed).unwrap()[..],
            b"the secret"[..]
        );
        let unknown = other.open(KeyPurpose::SecretsTable, b"row", &sealed).unwrap_err();
        assert_eq!(unknown, OpenError::UnknownKey(old.current()));
        assert_eq!(rotated.current(), other.current());
        assert_eq!(KeyRing::sealed_with(&sealed), Some(old.current()));
    }

    #[test]
    fn a_value_opens_only_for_what_it_was_sealed_for() {
        let ring = ring(&[1]);
        let sealed = ring.seal(KeyPurpose::SecretsTable, b"row", b"the secret").unwrap();
        for (purpose, context) in
            [(KeyPurpose::SecretsTable, &b"other"[..]), (KeyPurpose::BackupFile, b"row")]
        {
            assert_eq!(ring.open(purpose, context, &sealed).unwrap_err(), OpenError::Forged);
        }
    }

    #[test]
    fn purposes_and_contexts_have_keys_of_their_own() {
        let ring = ring(&[1]);
        let id = ring.current();
        let derived = [
            ring.derive(&id, KeyPurpose::SecretsTable).unwrap(),
            ring.derive(&id, KeyPurpose::BackupFile).unwrap(),
            ring.derive(&id, KeyPurpose::BackupLog).unwrap(),
            ring.derive_for(&id, KeyPurpose::BackupLog, b"a").unwrap(),
            Zeroizing::new([1; KEY_LEN]),
        ];
        for (at, one) in derived.iter().enumerate() {
            assert!(derived[at + 1..].iter().all(|other| **one != **other));
        }
        assert!(ring.derive(&KeyId([9; ID_LEN]), KeyPurpose::BackupFile).is_none());
    }

    #[test]
    fn nothing_shows_a_key() {
        let ring = KeyRing::new(vec![key(0x41, 1)]).unwrap();
        let text = format!("{ring:?}");
        assert_eq!(text, format!("KeyRing([{}])", ring.current()));
    }

    #[test]
    fn the_derivation_never_changes() {
        // What was sealed by an earlier version must open.
        let ring = ring(&[7]);
        let again = KeyRing::new(vec![key(7, 99)]).unwrap();
        assert_eq!(ring.current(), again.current());
        assert_eq!(KeyId::parse(&ring.current().to_string()), Some(ring.current()));
        assert_eq!(KeyId::parse("+123456789abcdef"), None);
    }

    proptest! {
        #[test]
        fn any_altered_byte_and_any_truncation_is_found(
            plain in proptest::collection::vec(any::<u8>(), 0..80),
            at in any::<prop::sample::Index>(),
            change in 1..=255_u8,
        ) {
            let ring = ring(&[1, 2]);
            let sealed = ring.seal(KeyPurpose::SecretsTable, b"row", &plain).unwrap();
            prop_assert_eq!(&ring.open(KeyPurpose::SecretsTable, b"row", &sealed).unwrap()[..], &plain[..]);
            let at = at.index(sealed.len());
            let mut altered = sealed.clone();
            altered[at] ^= change;
            prop_assert!(ring.open(KeyPurpose::SecretsTable, b"row", &altered).is_err());
            prop_assert!(ring.open(KeyPurpose::SecretsTable, b"row", &sealed[..at]).is_err());
        }
    }
}
