//! What became of many things that one call was about.

use serde::{Deserialize, Serialize};

/// What became of dead letters. One call changes at most 1,000.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChangedView {
    /// How many were deleted, where they were to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deleted: Option<u64>,
    /// Those that could not be changed now.
    pub(crate) failed: Vec<uuid::Uuid>,
    /// How many were looked at.
    pub(crate) matched: u64,
    /// Whether there may be more.
    pub(crate) more: bool,
    /// As `after` of the next call.
    pub(crate) next: Option<String>,
    /// How many were put back, where they were to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requeued: Option<u64>,
    /// Those that another call had changed, or whose message moved on.
    pub(crate) skipped: Vec<uuid::Uuid>,
}

/// How many dead letters a call would change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MatchedView {
    pub(crate) dry_run: bool,
    pub(crate) matched: u64,
}
