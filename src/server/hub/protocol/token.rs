//! Connection tokens: the node that owns the connection and a random key, signed.
//!
//! Any node can tell the owner from a token, and none accepts a forged one.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

use crate::domain::NodeId;

/// The random part of a token.
pub type ConnectionKey = [u8; KEY_LEN];

const NODE_LEN: usize = 8;
const KEY_LEN: usize = 16;
/// Half of SHA-256: 2^128 tries are out of reach.
const SIGNATURE_LEN: usize = 16;

/// Marks a random key as that of a connection with stateful reconnect, or without: a gateway that knows
/// nothing else of the connection has to know this.
pub fn with_stateful_bit(mut random: ConnectionKey, stateful: bool) -> ConnectionKey {
    random[KEY_LEN - 1] = random[KEY_LEN - 1] & !1 | u8::from(stateful);
    random
}

/// Whether the connection was negotiated with stateful reconnect.
pub fn is_stateful(key: &ConnectionKey) -> bool {
    key[KEY_LEN - 1] & 1 == 1
}

/// Makes and reads the tokens of one installation.
pub struct TokenSigner {
    node: NodeId,
    key: hmac::Key,
}

impl TokenSigner {
    /// `secret` is the same on every node of an installation.
    pub fn new(node: NodeId, secret: &[u8]) -> TokenSigner {
        TokenSigner { node, key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// A token for a connection of this node: 54 characters that need no encoding in a URL, because clients
    /// put it into theirs unencoded.
    pub fn sign(&self, key: &ConnectionKey) -> String {
        let mut bytes = Vec::with_capacity(NODE_LEN + KEY_LEN + SIGNATURE_LEN);
        bytes.extend_from_slice(self.node.as_bytes());
        bytes.extend_from_slice(key);
        let signature = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(signature.as_ref().get(..SIGNATURE_LEN).unwrap_or_default());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The owner and the key of a token of this installation.
    pub fn read(&self, token: &str) -> Option<(NodeId, ConnectionKey)> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (signed, signature) = bytes.split_at_checked(NODE_LEN + KEY_LEN)?;
        let expected = hmac::sign(&self.key, signed);
        let expected = expected.as_ref().get(..SIGNATURE_LEN)?;
        if !bool::from(subtle::ConstantTimeEq::ct_eq(expected, signature)) {
            return None;
        }
        let (node, key) = signed.split_at(NODE_LEN);
        let node: [u8; NODE_LEN] = node.try_into().ok()?;
        Some((node.into(), key.try_into().ok()?))
    }

    /// The public id of a connection, which does not reveal the key.
    pub fn connection_id(&self, key: &ConnectionKey) -> ConnectionKey {
        // Of another length than the payload of a token.
        let digest = hmac::sign(&self.key, &[b"name", &key[..]].concat());
        let mut connection_id = [0; KEY_LEN];
        connection_id.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        connection_id
    }

    /// The client's address of a request to this target, signed for another node.
    pub fn sign_peer(&self, peer: IpAddr, target: &str) -> String {
        let tag = hmac::sign(&self.key, &peer_payload(peer, target));
        format!("{peer} {}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// The address signed by another node.
    pub fn read_peer(&self, text: &str, target: &str) -> Option<IpAddr> {
        let (peer, tag) = text.split_once(' ')?;
        let (peer, tag) = (peer.parse().ok()?, URL_SAFE_NO_PAD.decode(tag).ok()?);
        hmac::verify(&self.key, &peer_payload(peer, target), &tag).ok()?;
        Some(peer)
    }

    pub fn is_ours(&self, node: &NodeId) -> bool {
        self.node == *node
    }
}

/// Longer than the payload of a token.
fn peer_payload(peer: IpAddr, target: &str) -> Vec<u8> {
    format!("the peer of a forwarded request\n{peer}\n{target}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_believed_of_the_own_installation_and_for_its_request_only() {
        let (signer, other) = (
            TokenSigner::new([7; 8].into(), b"secret"),
            TokenSigner::new([8; 8].into(), b"secret"),
        );
        for peer in ["203.0.113.9", "2001:db8::7"] {
            let peer: IpAddr = peer.parse().unwrap();
            let text = signer.sign_peer(peer, "/hub?id=1");
            assert_eq!(other.read_peer(&text, "/hub?id=1"), Some(peer));
            assert_eq!(other.read_peer(&text, "/hub?id=2"), None);
            assert_eq!(
                TokenSigner::new([8; 8].into(), b"another").read_peer(&text, "/hub?id=1"),
                None
            );
            let (_, tag) = text.split_once(' ').unwrap();
            assert_eq!(other.read_peer(&format!("1.1.1.1 {tag}"), "/hub?id=1"), None);
        }
        for none in ["", " ", "1.1.1.1", "1.1.1.1 ", "1.1.1.1 AAAA", "x y"] {
            assert_eq!(signer.read_peer(none, "/hub"), None, "{none}");
        }
    }

    #[test]
    fn a_token_names_its_node_and_cannot_be_made_up() {
        let signer = TokenSigner::new([7; 8].into(), b"secret");
        let token = signer.sign(&[9; 16]);
        assert_eq!(token.len(), 54);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{token}");
        let elsewhere = TokenSigner::new([8; 8].into(), b"secret");
        let (node, key) = elsewhere.read(&token).unwrap();
        assert_eq!((node, key), ([7; 8].into(), [9; 16]));
        assert!(signer.is_ours(&node) && !elsewhere.is_ours(&node));
        assert_eq!(signer.connection_id(&key), elsewhere.connection_id(&key));
        assert!(
            signer.connection_id(&key) != key
                && signer.connection_id(&key) != signer.connection_id(&[8; 16])
        );
        assert!(
            is_stateful(&with_stateful_bit(key, true))
                && !is_stateful(&with_stateful_bit(key, false))
        );
        assert!(TokenSigner::new([7; 8].into(), b"another").read(&token).is_none());
        let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(signer.read(&URL_SAFE_NO_PAD.encode(&bytes)).is_none(), "{at}");
            bytes[at] ^= 1;
        }
        for none in ["", "a", "é", &token[..53], &format!("{token}AA")] {
            assert!(signer.read(none).is_none(), "{none}");
        }
    }
}
