//! What an error answer needs to know of a message that was not read.

/// What an error answer needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageHead {
    /// The message type.
    pub kind: Option<u64>,
    pub invocation_id: Option<String>,
    pub target: Option<String>,
}
