//! Connections that say nothing do not keep others out.
