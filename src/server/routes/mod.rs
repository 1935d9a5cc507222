//! Every route of the HTTP API, one row each, grouped by audience.

mod admin;
mod conversations;
mod legacy;
mod messages;
mod public;

use std::sync::LazyLock;

use super::route::{Route, RouteTable};

/// The query parameters of a paged list.
const PAGE: [&str; 2] =
    ["limit: Page size, 1 to 200; default 50", "after: `next` of the previous page"];

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let groups =
        [messages::rows(), conversations::rows(), admin::rows(), public::rows(), legacy::rows()];
    RouteTable::new(groups.into_iter().flatten().collect())
});

pub fn table() -> &'static RouteTable {
    &TABLE
}

pub fn all() -> &'static [Route] {
    TABLE.rows()
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::{
        domain::limits::RateClass,
        server::{
            hub::hubs::service::Service,
            route::{Who, Writes},
        },
    };

    /// The way in to each of them is a row: what has none cannot be called.
    #[test]
    fn every_route_that_writes_has_a_limit_by_party() {
        for route in all() {
            let what = format!("{} {}", route.method, route.path);
            let reads = route.method == Method::GET && route.who != Who::Admin;
            assert_eq!(route.writes == Writes::Nothing, reads, "{what}");
            // Nobody without a token has a limit of its own, except that of registrations.
            let counted = route.writes == Writes::Registrations;
            assert!(reads || counted || route.who != Who::Anyone, "{what}");
            let first = route.writes.counted_first(route.who);
            assert_eq!(first == Some(RateClass::Admin), route.who == Who::Admin, "{what}");
        }
    }

    #[test]
    fn every_hub_method_that_writes_has_a_limit_by_party() {
        let reading = ["GetPendingMessages", "GetHistory", "GetConversations", "Typing", "Echo"];
        for (path, hub, _) in Service::ALL {
            for method in hub.methods() {
                let reads = hub == Service::Diagnostics || reading.contains(&method.name);
                let what = format!("{path} {}", method.name);
                assert_eq!(method.writes == Writes::Nothing, reads, "{what}");
                assert!(reads || method.who != Who::Anyone, "{what}");
            }
        }
    }
}
