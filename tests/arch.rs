//! The layering test.
