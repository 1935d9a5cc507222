//! Encrypts what processes put into Redis: frames to other processes, and cached pages.
//!
//! A process has its own key for each purpose, derived from a secret of the installation that only Postgres
//! stores. So a key is used during one process's life only, and random nonces do not repeat under it. The
//! channel or key in Redis is authenticated with the content: nothing can be moved to another place.

use std::sync::Arc;

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk, Salt},
    rand::{SecureRandom as _, SystemRandom},
};

use super::Error;
use crate::domain::NodeId;

/// So that the derived keys differ from all others that are made from the same secret.
const SALT: &[u8] = b"esh3ar redis v2";
const NODE_LEN: usize = 8;
/// Before the encrypted bytes: the process that wrote them, and the nonce.
const HEADER_LEN: usize = NODE_LEN + NONCE_LEN;

/// What sealed bytes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A frame to another process.
    Frame,
    /// A cached page.
    Page,
}

impl Purpose {
    /// As the derivation of keys and the metric name it.
    fn name(self) -> &'static str {
        match self {
            Purpose::Frame => "frame",
            Purpose::Page => "page",
        }
    }
}

/// Derives the keys. Cheap to clone.
#[derive(Clone)]
pub struct RedisSealer {
    root: Prk,
    node: NodeId,
    frames: Arc<LessSafeKey>,
    pages: Arc<LessSafeKey>,
}

impl std::fmt::Debug for RedisSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisSealer")
    }
}

impl RedisSealer {
    /// For a process, from the secret of its installation.
    ///
    /// # Errors
    /// The library refuses to make keys; it has no reason to.
    pub fn new(secret: &[u8], node: NodeId) -> Result<RedisSealer, Error> {
        let root = Salt::new(HKDF_SHA256, SALT).extract(secret);
        let own = |purpose| derive(&root, purpose, node.as_bytes()).ok_or_else(no_key);
        let (frames, pages) = (Arc::new(own(Purpose::Frame)?), Arc::new(own(Purpose::Page)?));
        Ok(RedisSealer { root, node, frames, pages })
    }

    /// Encrypts content for one place: a channel or a key in Redis.
    pub(super) fn seal(
        &self,
        purpose: Purpose,
        place: &str,
        content: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| no_key())?;
        let key = match purpose {
            Purpose::Frame => &self.frames,
            Purpose::Page => &self.pages,
        };
        let mut sealed = Vec::with_capacity(HEADER_LEN + content.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(self.node.as_bytes());
        sealed.extend_from_slice(&nonce);
        let mut body = content.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(place.as_bytes()), &mut body)
            .map_err(|_| no_key())?;
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// The content, and the process that wrote it; `None`, which is counted, for bytes that no process of this
    /// installation wrote for this purpose and place.
    pub(super) fn open(
        &self,
        purpose: Purpose,
        place: &str,
        sealed: &[u8],
    ) -> Option<(NodeId, Vec<u8>)> {
        let opened = self.try_open(purpose, place, sealed);
        if opened.is_none() {
            metrics::counter!("esh3ar_redis_rejected_total", "kind" => purpose.name()).increment(1);
        }
        opened
    }

    fn try_open(&self, purpose: Purpose, place: &str, sealed: &[u8]) -> Option<(NodeId, Vec<u8>)> {
        let (node, rest) = sealed.split_first_chunk::<NODE_LEN>()?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = derive(&self.root, purpose, node)?;
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut body).ok()?.len();
        body.truncate(len);
        Some(((*node).into(), body))
    }
}

/// The key of a process for one purpose.
fn derive(root: &Prk, purpose: Purpose, node: &[u8; NODE_LEN]) -> Option<LessSafeKey> {
    let info = [purpose.name().as_bytes(), node];
    let key = root.expand(&info, &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(key)))
}

fn no_key() -> Error {
    Error::Failed("a value could not be encrypted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(secret: &[u8], node: u8) -> RedisSealer {
        RedisSealer::new(secret, [node; 8].into()).unwrap()
    }

    #[test]
    fn a_process_of_the_installation_reads_what_another_wrote_for_the_same_place() {
        let (a, b) = (sealer(b"secret", 1), sealer(b"secret", 2));
        for purpose in [Purpose::Frame, Purpose::Page] {
            let sealed = a.seal(purpose, "to:2", b"in clear").unwrap();
            assert!(!sealed.windows(8).any(|part| part == b"in clear"));
            let opened = b.open(purpose, "to:2", &sealed);
            assert_eq!(opened, Some(([1; 8].into(), b"in clear".to_vec())));
            // The same content never looks the same.
            assert_ne!(sealed, a.seal(purpose, "to:2", b"in clear").unwrap());
        }
        assert!(!format!("{a:?}").contains("secret"));
    }

    #[test]
    fn nothing_else_is_read() {
        let (a, b) = (sealer(b"secret", 1), sealer(b"secret", 2));
        let sealed = a.seal(Purpose::Frame, "to:2", b"content").unwrap();
        assert!(b.open(Purpose::Frame, "to:3", &sealed).is_none(), "another place");
        assert!(b.open(Purpose::Page, "to:2", &sealed).is_none(), "another purpose");
        assert!(sealer(b"other", 2).open(Purpose::Frame, "to:2", &sealed).is_none(), "a stranger");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(b.open(Purpose::Frame, "to:2", &changed).is_none(), "byte {at}");
            assert!(b.open(Purpose::Frame, "to:2", &sealed[..at]).is_none(), "{at} bytes");
        }
    }
}
