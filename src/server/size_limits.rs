//! Maximum sizes of request bodies, and sizes that are reserved for responses, in bytes.

/// A JSON body: content of 10,000 characters, each escaped.
pub const MAX_JSON_LEN: usize = 256 * 1024;
/// A batch, or imported rows.
pub const MAX_BATCH_LEN: usize = 24 * 1024 * 1024;
/// Reserved for the response to a write.
pub const RECEIPT_LEN: usize = 1024;
/// Reserved for one document: a message of 10,000 characters, each escaped.
pub const DOCUMENT_LEN: usize = 64 * 1024;
/// Reserved for a streamed response: lines that wait for the client.
pub const MAX_UNREAD_LINES_LEN: usize = 256 * 1024;
