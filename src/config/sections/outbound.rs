//! `outbound.*`: requests to servers of others.

use std::path::PathBuf;

use crate::config::{
    key::unset,
    parse::{optional, path},
    sections::section::section,
};

section! {
    /// Requests to servers of others.
    pub struct OutboundConfig in "outbound." {
        /// File of certificates in PEM that are trusted in addition to the system's, for all requests to
        /// servers of others: SMS gateways and the collector of traces.
        ca_file: Option<PathBuf> = unset("/etc/esh3ar/ca.pem") => optional(path),
    }
}
