//! `limits.*`: how much is taken on.

use crate::{
    config::{
        keys::default,
        parse::{limit, whole},
        section::section,
    },
    domain::limits::Limits,
};

section! {
    fill Limits in "limits." {
        /// Messages a user may send in a minute; 0 for no limit.
        messages_per_minute = default("100").live() => limit,
        /// Messages a user may send in an hour; 0 for no limit.
        messages_per_hour = default("1000").live() => limit,
        /// Messages that all users together may send in a second; 0 for no limit.
        messages_per_second = default("10000").live() => limit,
        /// Deliveries in hand at once: broadcasts pause at 60 %, bulk sends are refused at 80 %, all but high
        /// priority at 100 %; 0 for no limit.
        queue_depth = default("100000").live() => limit,
        /// Connections one phone may have; one more closes the oldest.
        connections_per_user = default("16").live() => whole(1..=4_294_967_295),
        /// Connections one business user may have: its agents and programs; one more closes the oldest.
        connections_per_business_user = default("128").live() => whole(1..=4_294_967_295),
        /// Connections to a hub that one phone may begin in a minute; 0 for no limit.
        connects_per_user_per_minute = default("60").live() => limit,
        /// Connections to a hub that one business user may begin in a minute; 0 for no limit.
        connects_per_business_user_per_minute = default("1200").live() => limit,
        /// Conversations that one phone may begin in an hour; 0 for no limit.
        conversations_per_user_per_hour = default("100").live() => limit,
        /// Conversations that one business user may begin in an hour; 0 for no limit.
        conversations_per_business_user_per_hour = default("10000").live() => limit,
        /// Changes other than messages that one phone may ask for in a minute, and receipts of it that change
        /// nothing; 0 for no limit.
        writes_per_user_per_minute = default("600").live() => limit,
        /// Changes other than messages that one business user may ask for in a minute, and receipts of it that
        /// change nothing; 0 for no limit.
        writes_per_business_user_per_minute = default("6000").live() => limit,
        /// Requests to the admin API that one administrator may make in a minute: each may leave an entry in the
        /// audit log; 0 for no limit. Commands on the server are not counted.
        admin_requests_per_minute = default("6000").live() => limit,
    }
}
