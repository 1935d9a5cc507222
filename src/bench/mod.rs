//! Benchmarks and fault tests: load on a server from outside, and a check of what came of it.
//!
//! `esh3ar bench` and the fault tests run a load and give its log to the checker. Neither knows the
//! server's code.

pub mod checker;
pub mod load;
