//! Who runs this command, for the audit log.

use crate::{
    app::By,
    cli::{operator_name, privilege},
};

pub(crate) fn operator() -> By {
    By::command(&operator_name::operator(), &privilege::host())
}
