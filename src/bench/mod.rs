//! Load on a server from outside, and a checker of the recorded history.
//!
//! `esh3ar bench` and the fault tests use both. Neither knows the server's code.

pub mod checker;
pub mod load;
