//! The integration tests: real servers, real clients.
fn main() {}
