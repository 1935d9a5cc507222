//! The installation's secrets in the database, sealed with the keys of the key file.

use ring::rand::{SecureRandom as _, SystemRandom};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    secrets::{KeyId, KeyPurpose, KeyRing, KeyStore, OpenError, RandomnessError},
    store::{
        self, Client,
        secrets::{self as rows, StoredSecret},
    },
};

/// In bytes.
const SECRET_LEN: usize = 32;
/// Rows that are resealed between two looks at the database.
const BATCH_SIZE: i64 = 500;

/// Why the secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// There are sealed secrets, and no key file.
    #[error("the database has secrets that are sealed with key {0}, and there is no key file")]
    NoKeys(KeyId),
    #[error("the secret {name} of the database: {error}")]
    Open { name: String, error: OpenError },
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A sealed secret, and whether it opens.
#[derive(Clone, Debug)]
pub struct SecretState {
    pub name: String,
    /// `None` if the value is none that could have been sealed.
    pub key: Option<KeyId>,
    pub opens: bool,
}

fn random() -> Result<Zeroizing<[u8; SECRET_LEN]>, RandomnessError> {
    let mut bytes = Zeroizing::new([0; SECRET_LEN]);
    SystemRandom::new().fill(bytes.as_mut_slice()).map_err(|_| RandomnessError)?;
    Ok(bytes)
}

fn open(keys: &KeyStore, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
    keys.open(KeyPurpose::SecretsTable, name.as_bytes(), sealed)
        .map_err(|error| SecretsError::Open { name: name.to_owned(), error })
}

/// The secret with this name, which is created if there is none. Without keys it is not sealed.
///
/// # Errors
/// [`SecretsError`].
pub async fn find_or_create(
    client: &Client,
    keys: Option<&KeyStore>,
    name: &str,
    now: OffsetDateTime,
) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
    let fresh = random()?;
    let sealed = keys.map(|keys| keys.seal(KeyPurpose::SecretsTable, name.as_bytes(), &*fresh));
    let sealed = sealed.transpose()?;
    // Where it is sealed, the plain column gets other bytes.
    let value = if sealed.is_some() { random()? } else { fresh };
    let found = rows::find_or_keep(client, name, value.as_slice(), sealed.as_deref(), now).await?;
    match (&found.sealed, keys) {
        (Some(sealed), Some(keys)) => open(keys, name, sealed),
        (Some(sealed), None) => Err(without_keys(name, sealed)),
        (None, _) => Ok(Zeroizing::new(found.value)),
    }
}

fn without_keys(name: &str, sealed: &[u8]) -> SecretsError {
    match KeyRing::sealed_with(sealed) {
        Some(id) => SecretsError::NoKeys(id),
        None => SecretsError::Open { name: name.to_owned(), error: OpenError::Forged },
    }
}

/// Before anything is served: checks that every sealed secret opens, and seals the plain ones.
///
/// # Errors
/// [`SecretsError`].
pub async fn prepare(client: &Client, keys: Option<&KeyStore>) -> Result<(), SecretsError> {
    let sealed = rows::sealed(client).await?;
    let Some(keys) = keys else {
        let first = sealed.first().and_then(|secret| Some((&secret.name, secret.sealed.as_ref()?)));
        return first.map_or(Ok(()), |(name, sealed)| Err(without_keys(name, sealed)));
    };
    for secret in &sealed {
        open(keys, &secret.name, secret.sealed.as_deref().unwrap_or_default())?;
    }
    for plain in rows::plain(client).await? {
        let sealed = keys.seal(KeyPurpose::SecretsTable, plain.name.as_bytes(), &plain.value)?;
        rows::seal(client, &plain, &sealed).await?;
    }
    Ok(())
}

/// Replaces the plain values of sealed secrets, once no process of an earlier version needs them. Returns how many.
///
/// # Errors
/// [`SecretsError`].
pub async fn clear_plain(client: &Client) -> Result<u64, SecretsError> {
    Ok(rows::clear_plain(client, random()?.as_slice()).await?)
}

/// Every sealed secret, and whether it opens with these keys.
///
/// # Errors
/// Failures of the database.
pub async fn status(
    client: &Client,
    ring: Option<&KeyRing>,
) -> Result<Vec<SecretState>, store::Error> {
    let state = |secret: StoredSecret| {
        let sealed = secret.sealed.unwrap_or_default();
        let opened =
            ring.map(|ring| ring.open(KeyPurpose::SecretsTable, secret.name.as_bytes(), &sealed));
        SecretState {
            key: KeyRing::sealed_with(&sealed),
            opens: opened.is_some_and(|opened| opened.is_ok()),
            name: secret.name,
        }
    };
    Ok(rows::sealed(client).await?.into_iter().map(state).collect())
}

/// How many secrets are stored without being sealed.
///
/// # Errors
/// Failures of the database.
pub async fn count_plain(client: &Client) -> Result<usize, store::Error> {
    Ok(rows::plain(client).await?.len())
}

/// Seals with the current key what was sealed with another one of `ring`. An interrupted call is continued by the
/// next. Returns how many were sealed again.
///
/// # Errors
/// [`SecretsError`]; what was sealed again before stays so.
pub async fn reseal(client: &Client, ring: &KeyRing) -> Result<u64, SecretsError> {
    let mut count = 0;
    loop {
        let others =
            rows::sealed_with_others(client, ring.current().as_bytes(), BATCH_SIZE).await?;
        if others.is_empty() {
            return Ok(count);
        }
        for secret in others {
            let (name, sealed) = (secret.name, secret.sealed.unwrap_or_default());
            let plain = ring
                .open(KeyPurpose::SecretsTable, name.as_bytes(), &sealed)
                .map_err(|error| SecretsError::Open { name: name.clone(), error })?;
            let new = ring.seal(KeyPurpose::SecretsTable, name.as_bytes(), &plain)?;
            if rows::reseal(client, &name, &sealed, &new).await? {
                count += 1;
            }
        }
    }
}

/// After a restore: seals with `ring` what only one of `others` opens, and removes what none opens, so that it is
/// made anew. Returns the names of the removed ones.
///
/// # Errors
/// [`SecretsError`].
pub async fn adopt(
    client: &Client,
    ring: &KeyRing,
    others: &[KeyRing],
) -> Result<Vec<String>, SecretsError> {
    let mut removed = Vec::new();
    for secret in rows::sealed(client).await? {
        let (name, sealed) = (secret.name, secret.sealed.unwrap_or_default());
        let open =
            |ring: &KeyRing| ring.open(KeyPurpose::SecretsTable, name.as_bytes(), &sealed).ok();
        if open(ring).is_some() {
            continue;
        }
        match others.iter().find_map(open) {
            Some(plain) => {
                let new = ring.seal(KeyPurpose::SecretsTable, name.as_bytes(), &plain)?;
                rows::reseal(client, &name, &sealed, &new).await?;
            }
            None => {
                rows::forget(client, &name, &sealed).await?;
                removed.push(name);
            }
        }
    }
    Ok(removed)
}
