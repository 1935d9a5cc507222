//! `phone.*`: how phone numbers are read.

use crate::{
    config::{
        keys::unset,
        parse::{optional, wanted},
        section::section,
    },
    domain::phone::Region,
};

section! {
    /// How phone numbers are read.
    pub struct PhoneConfig in "phone." {
        /// Region by which numbers without a country code are read, such as YE; unset: numbers must be
        /// international.
        default_region: Option<Region> = unset("YE") => optional(region),
    }
}

fn region(text: &str) -> Result<Region, String> {
    wanted(text.parse().ok(), "a two-letter region code such as YE", text)
}
