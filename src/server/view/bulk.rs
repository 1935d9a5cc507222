//! Results of bulk calls.

use serde::{Deserialize, Serialize};

/// The result of a bulk change of dead letters, at most 1,000 per call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChangedView {
    /// Number deleted; only for a delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deleted: Option<u64>,
    /// Ids that could not be changed now.
    pub(crate) failed: Vec<uuid::Uuid>,
    /// Number matched.
    pub(crate) matched: u64,
    /// Whether more may match.
    pub(crate) more: bool,
    /// Pass as `after` in the next call.
    pub(crate) next: Option<String>,
    /// Number requeued; only for a requeue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requeued: Option<u64>,
    /// Ids that another call changed, or whose message moved on.
    pub(crate) skipped: Vec<uuid::Uuid>,
}

/// The number of dead letters that a call would change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MatchedView {
    pub(crate) dry_run: bool,
    pub(crate) matched: u64,
}
