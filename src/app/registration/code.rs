//! The one-time code: derived from a key outside Postgres and the id of its row, so that it is stored nowhere.

use ring::hmac::{self, HMAC_SHA256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    domain::Phone,
    secrets::{KeyId, KeyPurpose, KeyRing},
};

/// Six digits.
const CODES: u32 = 1_000_000;
const DIGITS: usize = 6;
/// The largest multiple of [`CODES`] that four bytes hold: at and above it a number would make low codes more
/// likely than others.
const UNBIASED: u32 = u32::MAX - u32::MAX % CODES;

/// Derives codes, and what is stored of them.
pub(super) struct CodeKey(hmac::Key);

impl CodeKey {
    /// `None` if the key ring does not have this key.
    pub(super) fn of(ring: &KeyRing, id: &KeyId) -> Option<CodeKey> {
        let key = ring.derive(id, KeyPurpose::OneTimeCode)?;
        Some(CodeKey(hmac::Key::new(HMAC_SHA256, key.as_slice())))
    }

    /// The code of a row: six digits, each code as likely as any other.
    pub(super) fn derive(&self, id: Uuid) -> Zeroizing<String> {
        let mut round: u32 = 0;
        loop {
            let mut context = hmac::Context::with_key(&self.0);
            for part in [&b"code"[..], id.as_bytes(), &round.to_be_bytes()] {
                context.update(part);
            }
            let tag = context.sign();
            let number = tag.as_ref().chunks_exact(4).find_map(|bytes| {
                let number = u32::from_be_bytes(bytes.try_into().ok()?);
                (number < UNBIASED).then_some(number % CODES)
            });
            if let Some(number) = number {
                return Zeroizing::new(format!("{number:0DIGITS$}"));
            }
            round = round.wrapping_add(1);
        }
    }

    /// What is stored of a code.
    pub(super) fn stored(&self, id: Uuid, phone: &Phone, code: &str) -> Vec<u8> {
        hmac::sign(&self.0, &checked(id, phone, code)).as_ref().to_vec()
    }

    /// Whether a guess is the code of which this is stored, in constant time.
    pub(super) fn matches(&self, id: Uuid, phone: &Phone, guess: &str, stored: &[u8]) -> bool {
        hmac::verify(&self.0, &checked(id, phone, guess), stored).is_ok()
    }
}

fn checked(id: Uuid, phone: &Phone, code: &str) -> Zeroizing<Vec<u8>> {
    let parts = [&b"check"[..], id.as_bytes(), phone.as_str().as_bytes(), b"\0", code.as_bytes()];
    Zeroizing::new(parts.concat())
}

/// Whether a text has the form of a code.
pub(super) fn is_code(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> CodeKey {
        CodeKey(hmac::Key::new(HMAC_SHA256, &[byte; 32]))
    }

    #[test]
    fn codes_are_spread_over_all_digits() {
        let mut seen = [[0u32; 10]; DIGITS];
        for number in 0..10_000u128 {
            let code = key(1).derive(Uuid::from_u128(number));
            assert!(is_code(&code), "{}", code.len());
            for (place, digit) in code.bytes().enumerate() {
                seen[place][usize::from(digit - b'0')] += 1;
            }
        }
        // 1,000 each; five deviations are 150.
        assert!(seen.iter().flatten().all(|count| (850..1150).contains(count)), "{seen:?}");
        assert_eq!(UNBIASED, 4_294_000_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn only_its_own_code_phone_and_key_match(id: u128, other: u128, guess in 0u32..CODES) {
            let id = Uuid::from_u128(id);
            let (mine, theirs) = (Phone::from_stored("+967771234567"), Phone::from_stored("+967771234568"));
            let code = key(1).derive(id);
            let stored = key(1).stored(id, &mine, &code);
            prop_assert!(key(1).matches(id, &mine, &code, &stored));
            prop_assert_eq!(code.clone(), key(1).derive(id));
            prop_assert!(!key(1).matches(id, &theirs, &code, &stored));
            prop_assert!(!key(2).matches(id, &mine, &code, &stored));
            let guess = format!("{guess:06}");
            prop_assert_eq!(key(1).matches(id, &mine, &guess, &stored), guess == *code);
            if Uuid::from_u128(other) != id {
                prop_assert!(!key(1).matches(Uuid::from_u128(other), &mine, &code, &stored));
            }
        }
    }

    #[test]
    fn a_code_is_six_ascii_digits() {
        assert!(is_code("012345"));
        for text in ["", "12345", "1234567", "12345a", "١٢٣٤٥٦"] {
            assert!(!is_code(text), "{text}");
        }
    }
}
