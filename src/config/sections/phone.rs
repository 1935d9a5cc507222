//! `phone.*`: how phone numbers are read.

use crate::{
    config::{
        key::unset,
        parse::{expected, optional},
        sections::section::section,
    },
    domain::phone::Region,
};

section! {
    /// How phone numbers are read.
    pub struct PhoneConfig in "phone." {
        /// Region of phone numbers without a country code, such as YE. Unset: numbers must be in international
        /// form.
        default_region: Option<Region> = unset("YE") => optional(region),
    }
}

fn region(text: &str) -> Result<Region, String> {
    expected(text.parse().ok(), "a two-letter region code such as YE", text)
}
