//! The keys of an installation, which lie in a file outside its database, and what is sealed with them.
//!
//! - `key_ring`: the keys, what is derived from them, sealing and opening of small secrets.
//! - `key_file`: the file that has the keys.
//! - `envelope`: backup files, authenticated or encrypted.
//! - `key_store`: the keys of a running process, which reads the file again when it has changed.

mod envelope;
mod key_file;
mod key_ring;
mod key_store;

pub use envelope::{EnvelopeError, EnvelopeFile, EnvelopeReader, EnvelopeWriter};
pub use key_file::{KeyFile, KeyFileError};
pub use key_ring::{KeyId, KeyPurpose, KeyRing, OpenError, RandomnessError};
pub use key_store::KeyStore;
