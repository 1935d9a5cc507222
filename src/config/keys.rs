//! Every key there is.

use crate::domain::nearest::nearest;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its full name.
    pub name: &'static str,
    /// What it is when nobody sets it; empty for unset.
    pub default: &'static str,
    /// Whether its value is never shown; it may then also be given as `<name>_file`.
    pub secret: bool,
    /// What it does.
    pub doc: &'static str,
}

const fn key(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, default, secret: false, doc }
}

/// All keys, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key(
        "data_dir",
        "",
        "Folder of the embedded parts; unset: $STATE_DIRECTORY, /var/lib/esh3ar for root, else the user's data folder.",
    ),
    key("http.listen", "127.0.0.1:5000", "Address of the API and the hub."),
    key(
        "http.tls_cert",
        "",
        "Certificate chain in PEM; with http.tls_key the gateway serves TLS itself and takes up renewed files.",
    ),
    key("http.tls_key", "", "Private key in PEM."),
    key(
        "http.max_connections",
        "20000",
        "HTTP connections at once, and sockets of the hub at once.",
    ),
    key("http.header_timeout", "10s", "How long the headers of a request may take."),
    key("http.stop_timeout", "20s", "How long a stop waits for requests and sockets."),
    key(
        "http.diagnostics_hub",
        "false",
        "Whether /hub/diagnostics is there, for authors of clients.",
    ),
    key(
        "metrics.listen",
        "127.0.0.1:5001",
        "Address of /metrics and the detailed health pages; off for none.",
    ),
    Key {
        name: "database.url",
        default: "",
        secret: true,
        doc: "postgres:// URL; several servers, host,host, mean the one that takes writes; unset: a private Postgres under data_dir.",
    },
    Key {
        name: "database.replica_urls",
        default: "",
        secret: true,
        doc: "postgres:// URLs of streaming replicas that lists and histories may be read from; several in an array, or with commas.",
    },
    key(
        "database.pool_size",
        "16",
        "Connections to Postgres at once, and to each replica; 48 at most with the private one.",
    ),
    key(
        "database.bin_dir",
        "",
        "Folder of initdb and postgres for the private Postgres; unset: PATH and the usual places.",
    ),
    Key {
        name: "queue.url",
        default: "",
        secret: true,
        doc: "amqp:// or amqps:// URL of RabbitMQ 3.10 or newer, for more than one process; several nodes of one cluster with commas, a private CA as ?cacertfile=/etc/esh3ar/ca.pem; unset: the queue inside the process.",
    },
    key(
        "queue.partitions",
        "16",
        "Queues in each of the three lanes, from 1 to 64; the same on every node.",
    ),
    key(
        "queue.type",
        "auto",
        "classic, quorum, or auto: what is there already, else quorum where queue.url names three nodes or more.",
    ),
    Key {
        name: "cache.url",
        default: "",
        secret: true,
        doc: "redis:// or rediss:// URL of Redis 7 or newer, redis+sentinel://host:26379,host:26379/mymaster or redis+cluster://host:6379,host:6379, by which gateways and workers find each other; a login goes before the first host; set exactly when queue.url is.",
    },
    key(
        "cluster.address",
        "",
        "Where other gateways reach this one, such as http://10.0.0.5:5000; unset: http.listen, if that is no wildcard.",
    ),
    key(
        "phone.default_region",
        "",
        "Region by which numbers without a country code are read, such as YE; unset: numbers must be international.",
    ),
    key(
        "retry.acknowledge_timeout",
        "5s",
        "How long a live connection has to acknowledge a message.",
    ),
    key("retry.base", "1s", "Wait before the first retry; each further one doubles it."),
    key("retry.attempts", "6", "Retries before a message fails."),
    key(
        "limits.messages_per_minute",
        "100",
        "Messages a user may send in a minute; 0 for no limit.",
    ),
    key("limits.messages_per_hour", "1000", "Messages a user may send in an hour; 0 for no limit."),
    key(
        "limits.messages_per_second",
        "10000",
        "Messages that all users together may send in a second; 0 for no limit.",
    ),
    key(
        "limits.queue_depth",
        "100000",
        "Deliveries in hand at once: broadcasts pause at 60 %, bulk sends are refused at 80 %, all but high priority at 100 %; 0 for no limit.",
    ),
    key(
        "limits.connections_per_user",
        "16",
        "Connections one phone may have; one more closes the oldest.",
    ),
    key(
        "limits.connections_per_business_user",
        "128",
        "Connections one business user may have: its agents and programs; one more closes the oldest.",
    ),
    key("smtp.host", "", "Mail server for alerts to the administrators; unset: to the log."),
    key("smtp.port", "587", "Its port."),
    key("smtp.tls", "starttls", "starttls, tls (from the beginning), or none."),
    key("smtp.username", "", "User name on the mail server; unset: none is given."),
    Key { name: "smtp.password", default: "", secret: true, doc: "Password on the mail server." },
    key("smtp.from", "", "Sender of the mails, such as esh3ar@example.org."),
    key("smtp.to", "", "The administrators' addresses; several with commas."),
    key(
        "smtp.alert_interval",
        "5m",
        "The administrators are told of dead letters at most this often.",
    ),
    key("retention.dead_letters", "7d", "How long dead letters are kept."),
    key("retention.audit_log", "365d", "How long it is kept who looked at whose data."),
    key(
        "retention.messages",
        "",
        "How long messages are kept that are delivered, read or failed for good, from their acceptance; unset or 0: for ever.",
    ),
    key(
        "retention.events",
        "",
        "How long the unusual steps of messages' ways are kept; unset or 0: as long as the messages.",
    ),
    key(
        "retention.deleted",
        "7d",
        "How long the rows of messages are kept that an administrator deleted, from their deletion.",
    ),
    key(
        "retention.idempotency_keys",
        "24h",
        "How long a repeat with the same key gets the first answer.",
    ),
    key(
        "auth.access_token_ttl",
        "90d",
        "How long an access token of a phone is valid unless it is made otherwise.",
    ),
    key(
        "traces.endpoint",
        "",
        "Collector for traces with OTLP over HTTP, such as http://127.0.0.1:4318; unset: no message is followed.",
    ),
    key("traces.sample", "0.01", "Share of the messages that are followed, from 0 to 1."),
    key("log.level", "info", "error, warn, info, debug, trace, or filter directives."),
    key("log.format", "auto", "text, json, or auto: text on a terminal."),
    key(
        "log.sample",
        "0.01",
        "Share of the messages, from 0 to 1, of which it is logged that they were accepted and delivered; retries and messages given up are logged of all.",
    ),
];

/// The keys that a running process takes up when it is told to read its configuration again; a name that
/// ends with a dot stands for all keys of its section. The others wait for a restart.
pub const LIVE: &[&str] = &[
    "retry.",
    "limits.",
    "smtp.",
    "retention.",
    "auth.access_token_ttl",
    "log.level",
    "log.sample",
];

/// Whether a running process takes up this key.
pub fn is_live(name: &str) -> bool {
    LIVE.iter().any(|live| if live.ends_with('.') { name.starts_with(live) } else { name == *live })
}

/// Sections of the documented interface that this version has not.
const NOT_YET: &[&str] =
    &["media.", "push.", "scan.", "sms.", "http.public_url", "limits.uploads_per_minute"];

/// The key of a name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// What to say about a name that is no key.
pub fn unknown(name: &str) -> String {
    let nearest = nearest(name, KEYS.iter().map(|key| key.name));
    match nearest {
        Some(near) => format!("there is no key {name}; did you mean {near}?"),
        None if NOT_YET.iter().any(|prefix| name.starts_with(prefix)) => {
            format!("{name} is not available in this version")
        }
        None => format!("there is no key {name}; see: esh3ar config show"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_live_key_stands_for_some() {
        for live in LIVE {
            assert!(
                KEYS.iter()
                    .any(|key| key.name == *live
                        || (live.ends_with('.') && key.name.starts_with(live))),
                "{live} stands for no key"
            );
        }
        assert!(is_live("limits.queue_depth") && is_live("log.level"));
        assert!(!is_live("log.format") && !is_live("http.listen"));
    }

    #[test]
    fn a_typo_names_its_neighbour() {
        assert!(unknown("htp.listen").contains("did you mean http.listen?"));
        assert!(unknown("media.url").contains("not available in this version"));
        assert!(unknown("weather.today.now").starts_with("there is no key"));
    }
}
