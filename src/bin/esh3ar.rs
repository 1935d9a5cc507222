//! The `esh3ar` binary.
fn main() {}
