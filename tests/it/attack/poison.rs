//! No message keeps a recipient from getting the others.
