//! One party that sends or reads as fast as it can does not delay the others.
