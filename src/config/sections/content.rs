//! `content.*`: what messages contain.

use crate::config::{key::default, parse::flag, sections::section::section};

section! {
    /// What messages contain.
    pub struct ContentConfig in "content." {
        /// Remove HTML tags and scripts from texts for the existing hubs and routes, whose apps may show them as
        /// HTML.
        sanitize_existing: bool = default("true") => flag,
    }
}
