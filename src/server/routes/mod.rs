//! Every route of the HTTP API, a row each, by who calls it.

mod admin;
mod conversations;
mod existing;
mod messages;
mod open;

use std::sync::LazyLock;

use super::route::{Route, Table};

/// The parameters of a page.
const PAGE: [&str; 2] =
    ["limit: How many, 1 to 200; 50 without it", "after: The cursor `next` of the page before"];

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let groups =
        [messages::rows(), conversations::rows(), admin::rows(), open::rows(), existing::rows()];
    Table::new(groups.into_iter().flatten().collect())
});

/// The table.
pub fn table() -> &'static Table {
    &TABLE
}

/// All of them.
pub fn all() -> &'static [Route] {
    TABLE.rows()
}
