//! Who runs this command, for the audit log.

use super::privilege;
use crate::app::By;

pub(crate) fn operator() -> By {
    By::command(&privilege::operator(), &privilege::host())
}
