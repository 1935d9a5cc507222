//! `limits.*`: how much is taken on.

use crate::{
    config::{
        key::default,
        parse::{limit, whole},
        sections::section::section,
    },
    domain::limits::Limits,
};

section! {
    fill Limits in "limits." {
        /// Maximum number of messages per user and minute; 0 for no limit.
        messages_per_minute = default("100").reloadable() => limit,
        /// Maximum number of messages per user and hour; 0 for no limit.
        messages_per_hour = default("1000").reloadable() => limit,
        /// Maximum number of messages per second of all users together; 0 for no limit.
        messages_per_second = default("10000").reloadable() => limit,
        /// Maximum number of deliveries in flight. Broadcasts pause at 60 %, bulk sends are refused at 80 %,
        /// everything but high priority at 100 %; 0 for no limit. The metric is esh3ar_deliveries_in_hand, not
        /// esh3ar_queue_depth, which counts wake-ups.
        queue_depth = default("100000").reloadable() => limit,
        /// Maximum number of hub connections per phone; a further one closes the oldest.
        connections_per_user = default("16").reloadable() => whole(1..=4_294_967_295),
        /// Maximum number of hub connections per business user, its agents and programs together; a further one
        /// closes the oldest.
        connections_per_business_user = default("128").reloadable() => whole(1..=4_294_967_295),
        /// Maximum number of new hub connections per phone and minute; 0 for no limit.
        connects_per_user_per_minute = default("60").reloadable() => limit,
        /// Maximum number of new hub connections per business user and minute; 0 for no limit.
        connects_per_business_user_per_minute = default("1200").reloadable() => limit,
        /// Maximum number of new conversations per phone and hour; 0 for no limit.
        conversations_per_user_per_hour = default("100").reloadable() => limit,
        /// Maximum number of new conversations per business user and hour; 0 for no limit.
        conversations_per_business_user_per_hour = default("10000").reloadable() => limit,
        /// Maximum number of changes other than messages per phone and minute. Receipts that change nothing
        /// have a limit of the same size. 0 for no limit.
        writes_per_user_per_minute = default("600").reloadable() => limit,
        /// Maximum number of changes other than messages per business user and minute. Receipts that change
        /// nothing have a limit of the same size. 0 for no limit.
        writes_per_business_user_per_minute = default("6000").reloadable() => limit,
        /// Maximum number of admin API requests per administrator and minute, because each may add an audit log
        /// entry; 0 for no limit. Commands on the server are not counted.
        admin_requests_per_minute = default("6000").reloadable() => limit,
    }
}
