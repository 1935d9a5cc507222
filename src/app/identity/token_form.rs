//! The form of a token: a prefix, 256 random bits, a checksum. What has not this form is refused without a look at
//! the database. The checksum is no secret, and proves nothing.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{Context, SHA256};

/// By which scanners of leaked secrets know a token.
const PREFIX: &str = "esh_";
/// Characters of 256 bits.
const RANDOM_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;
/// Keeps the checksum apart from the stored hash, which must not begin like it.
const SALT: &[u8] = b"esh3ar token checksum\n";

/// The token of these random bits.
pub(super) fn of(random: &[u8; 32]) -> String {
    let body = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let checksum = checksum(&body);
    body + &checksum
}

/// Whether a text may be a token. Tokens of earlier versions have no checksum.
pub(super) fn is_well_formed(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(PREFIX) else { return false };
    if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return false;
    }
    match rest.len().checked_sub(RANDOM_LEN) {
        Some(0) => true,
        Some(CHECKSUM_LEN) => {
            let (body, end) = text.split_at(text.len() - CHECKSUM_LEN);
            checksum(body) == end
        }
        _ => false,
    }
}

fn checksum(body: &str) -> String {
    let mut context = Context::new(&SHA256);
    context.update(SALT);
    context.update(body.as_bytes());
    let mut text = URL_SAFE_NO_PAD.encode(context.finish());
    text.truncate(CHECKSUM_LEN);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_with_a_checksum_and_those_of_before_are_well_formed() {
        let token = of(&[7; 32]);
        assert_eq!(token.len(), 53);
        assert!(is_well_formed(&token));
        assert!(is_well_formed(&token[..47]), "made before there were checksums");
    }

    #[test]
    fn a_token_with_a_mistake_is_not_well_formed() {
        let token = of(&[7; 32]);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(!is_well_formed(&String::from_utf8(bytes).unwrap()), "{at}");
        }
        for wrong in ["", "esh_", "nonsense", &token[..52], &token[1..], &format!("{token}A")] {
            assert!(!is_well_formed(wrong), "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn every_text_is_judged(text in "(esh_)?\\PC{0,60}") {
            let _ = is_well_formed(&text);
        }

        #[test]
        fn every_token_is_well_formed(random in any::<[u8; 32]>()) {
            prop_assert!(is_well_formed(&of(&random)));
        }
    }
}
