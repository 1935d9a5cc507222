//! What commands read and write: tables and JSON, errors and exit statuses, files.

pub(crate) mod answer;
pub(crate) mod atomic_file;
pub(crate) mod exit;
pub(crate) mod folder_path;
pub(crate) mod output;
pub(crate) mod private_file;
pub(crate) mod sanitize;
pub(crate) mod temp_file;
