//! An example of a performer.

use crate::domain::job::Attempted;

pub(super) fn perform(text: &str) -> Attempted {
    tracing::info!(text, "an example of a job");
    Attempted::Done
}
