//! esh3ar: a self-hosted messaging appliance.
#![forbid(unsafe_code)]
