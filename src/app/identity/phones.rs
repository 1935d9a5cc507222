//! Phone numbers as people write them.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::IdentityService;
use crate::app::Error;
use crate::domain::{BoundedMap, Phone, WhenFull};

/// How many numbers are remembered. Reading one by the numbering plans takes 5 to 10 µs, which is
/// worth remembering for those that are sent to again.
const MAX_PHONES: usize = 65_536;
/// What is longer than this is no number that anybody sends to twice.
const MAX_PHONE_LEN: usize = 24;

/// Numbers that were read lately, by how they were written. The region by which they are read is
/// the same for as long as the process runs.
pub(in crate::app) struct KnownPhones {
    known: Mutex<BoundedMap<Box<str>, Phone>>,
}

impl Default for KnownPhones {
    fn default() -> Self {
        let known = BoundedMap::new(MAX_PHONES, WhenFull::DropOldest);
        KnownPhones { known: Mutex::new(known) }
    }
}

impl KnownPhones {
    fn get(&self, text: &str) -> Option<Phone> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(text, Instant::now()).cloned()
    }

    fn put(&self, text: &str, phone: &Phone) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(text.into(), phone.clone(), None, Instant::now());
    }
}

impl IdentityService {
    /// Reads a phone number as people write it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the field `field`.
    pub fn parse_phone(&self, field: &'static str, text: &str) -> Result<Phone, Error> {
        let short = text.len() <= MAX_PHONE_LEN;
        if let Some(phone) = short.then(|| self.state.known_phones.get(text)).flatten() {
            return Ok(phone);
        }
        let phone = Phone::parse(text, self.core.settings().default_region)
            .map_err(|why| Error::field(field, "invalid_phone", format!("{field} {why}")))?;
        if short {
            self.state.known_phones.put(text, &phone);
        }
        Ok(phone)
    }

    /// Reads a phone number of which is asked what is stored. What is stored as one is found by that, even
    /// if it would not be taken today.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the field `field`.
    pub fn parse_stored_phone(&self, field: &'static str, text: &str) -> Result<Phone, Error> {
        let stored = |text: &str| {
            text.strip_prefix('+').is_some_and(|digits| {
                (4..=17).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit())
            })
        };
        self.parse_phone(field, text).or_else(|error| match stored(text) {
            true => Ok(Phone::from_stored(text)),
            false => Err(error),
        })
    }
}
