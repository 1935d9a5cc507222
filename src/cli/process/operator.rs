//! Who runs this command, for the audit log.

use crate::{app::By, cli::privilege};

pub(crate) fn operator() -> By {
    By::command(&privilege::operator(), &privilege::host())
}
