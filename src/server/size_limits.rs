//! Sizes of bodies that routes take and of answers that they reserve room for, in bytes.

/// The largest usual body, in bytes: content of 10,000 characters, each escaped in JSON.
pub const MAX_JSON_LEN: usize = 256 * 1024;
/// The largest body of a batch, or of rows that are imported, in bytes.
pub const MAX_BATCH_LEN: usize = 24 * 1024 * 1024;
/// What an answer to a write is reserved before it is known, in bytes.
pub const RECEIPT_LEN: usize = 1024;
/// The same of one document that is read: a message of 10,000 characters, each escaped in JSON.
pub const DOCUMENT_LEN: usize = 64 * 1024;
/// The same of an answer that comes line by line: what waits for its client.
pub const MAX_UNREAD_LINES_LEN: usize = 256 * 1024;
