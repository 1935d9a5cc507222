//! Negotiation: the answer to `POST /hub/negotiate`, from its query alone.
//!
//! Every answer, errors included, is a 200 with a JSON body: clients throw the text of its `error`.
//! Authentication, the request's method and the table of negotiated connections belong to the caller.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use super::codec::Protocol;

/// The lowest is 0.
pub const MAX_VERSION: i32 = 1;

/// As named in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TransportKind {
    WebSockets,
    ServerSentEvents,
    LongPolling,
}

impl TransportKind {
    /// Binary only while there is a binary protocol.
    fn formats(self) -> &'static [&'static str] {
        let binary = self != TransportKind::ServerSentEvents
            && Protocol::ALL.into_iter().any(|protocol| !protocol.is_text());
        if binary { &["Text", "Binary"] } else { &["Text"] }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct TransportOffer<'a> {
    /// In the order in which clients are to try them.
    pub transports: &'a [TransportKind],
    /// Whether stateful reconnect is offered.
    pub stateful: bool,
}

/// The secret that attaches a transport to a negotiated connection; never to be logged.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ConnectionToken(String);

impl ConnectionToken {
    /// Clients put it into their URLs as `id`.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConnectionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionToken(***)")
    }
}

/// A connection that waits for its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegotiatedConnection {
    /// The public id. A client of version 0 does not get it: it gets the token for an id, and a secret must
    /// not become an id.
    pub connection_id: String,
    pub token: ConnectionToken,
    /// Stateful reconnect was asked for and offered.
    pub stateful: bool,
}

#[derive(Clone, Debug)]
pub struct NegotiateResponse {
    /// `None` if the request was refused.
    pub connection: Option<NegotiatedConnection>,
    /// The body of a 200, `application/json`.
    pub body: Vec<u8>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    negotiate_version: i32,
    connection_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_token: Option<&'a str>,
    // Clients refuse a server that sets it without being asked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    use_stateful_reconnect: bool,
    available_transports: Vec<TransportBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TransportBody {
    transport: TransportKind,
    transfer_formats: &'static [&'static str],
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

/// 22 characters that need no encoding in a URL: clients put the id into their URLs unencoded.
pub fn id(random: [u8; 16]) -> String {
    URL_SAFE_NO_PAD.encode(random)
}

/// Answers the query of a negotiation, given without its `?`. `id_bytes` must reveal nothing of the
/// token: the id is public and the token secret.
pub fn negotiate(
    query: &str,
    id_bytes: [u8; 16],
    token: String,
    offer: TransportOffer<'_>,
) -> NegotiateResponse {
    let version = match parameter(query, "negotiateVersion").map(str::parse::<i32>) {
        None => 0,
        Some(Ok(version)) if version >= 0 => version.min(MAX_VERSION),
        Some(Ok(version)) => {
            return refusal(&format!(
                "The client requested version '{version}', but the server does not support this \
                 version."
            ));
        }
        Some(Err(_)) => {
            return refusal("The client requested a non-integer protocol version.");
        }
    };
    let stateful = wants_stateful_reconnect(query) && offer.stateful;
    let connection_id = id(id_bytes);
    let token = ConnectionToken(token);
    // Version 0 has one id: it must be the token.
    let (shown, shown_token) = match version {
        0 => (token.expose(), None),
        _ => (connection_id.as_str(), Some(token.expose())),
    };
    let body = Body {
        negotiate_version: version,
        connection_id: shown,
        connection_token: shown_token,
        use_stateful_reconnect: stateful,
        available_transports: offer
            .transports
            .iter()
            .map(|transport| TransportBody {
                transport: *transport,
                transfer_formats: transport.formats(),
            })
            .collect(),
    };
    match serde_json::to_vec(&body) {
        Ok(body) => NegotiateResponse {
            connection: Some(NegotiatedConnection { connection_id, token, stateful }),
            body,
        },
        // Serialising strings to memory cannot fail.
        Err(_) => refusal("The connection could not be made."),
    }
}

pub fn wants_stateful_reconnect(query: &str) -> bool {
    parameter(query, "useStatefulReconnect").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn refusal(error: &str) -> NegotiateResponse {
    NegotiateResponse {
        connection: None,
        body: serde_json::to_vec(&ErrorBody { error }).unwrap_or_default(),
    }
}

/// The first value of a parameter; names are compared without case. Values are not decoded: no client
/// encodes a number or a boolean.
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ALL: TransportOffer<'static> = TransportOffer {
        transports: &[
            TransportKind::WebSockets,
            TransportKind::ServerSentEvents,
            TransportKind::LongPolling,
        ],
        stateful: true,
    };
    const PLAIN: TransportOffer<'static> =
        TransportOffer { transports: &[TransportKind::WebSockets], stateful: false };

    fn ask(query: &str, offer: TransportOffer<'_>) -> (Option<NegotiatedConnection>, Value) {
        let answer = negotiate(query, [0xFF; 16], "A".repeat(22), offer);
        (answer.connection, serde_json::from_slice(&answer.body).unwrap())
    }

    #[test]
    fn ids_need_no_encoding() {
        assert_eq!(id([0xFF; 16]), "_____________________w");
        assert_eq!(id([0xFB; 16]).len(), 22);
        assert!(id([0xFB; 16]).bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
    }

    #[test]
    fn version_one_separates_the_name_from_the_secret() {
        let (connection, body) = ask("a=b&NegotiateVersion=1", PLAIN);
        let expected = json!({
            "negotiateVersion": 1,
            "connectionId": "_____________________w",
            "connectionToken": "AAAAAAAAAAAAAAAAAAAAAA",
            "availableTransports": [{"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}],
        });
        assert_eq!(body, expected);
        let connection = connection.unwrap();
        assert_eq!(connection.token.expose(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(connection.connection_id, "_____________________w");
        assert!(!format!("{connection:?}").contains("AAAA"));
    }

    #[test]
    fn version_zero_knows_only_the_token() {
        for query in ["", "negotiateVersion=0", "xnegotiateVersion=1"] {
            let (connection, body) = ask(query, PLAIN);
            assert_eq!(body["negotiateVersion"], 0);
            assert_eq!(body["connectionId"], connection.unwrap().token.expose());
            assert_eq!(body.get("connectionToken"), None);
        }
    }

    #[test]
    fn newer_versions_are_answered_with_the_highest() {
        assert_eq!(ask("negotiateVersion=7", PLAIN).1["negotiateVersion"], 1);
    }

    #[test]
    fn versions_that_are_none_are_refused() {
        let no_number = "The client requested a non-integer protocol version.";
        for (query, error) in [
            ("negotiateVersion=", no_number),
            ("negotiateVersion", no_number),
            ("negotiateVersion=1.0", no_number),
            ("negotiateVersion=99999999999", no_number),
            (
                "negotiateVersion=-1",
                "The client requested version '-1', but the server does not support this version.",
            ),
        ] {
            let (connection, body) = ask(query, PLAIN);
            assert_eq!((connection, body), (None, json!({"error": error})), "{query}");
        }
    }

    #[test]
    fn stateful_only_when_asked_and_offered() {
        let asked = "negotiateVersion=1&useStatefulReconnect=true";
        for (query, offer, stateful) in
            [(asked, ALL, true), (asked, PLAIN, false), ("negotiateVersion=1", ALL, false)]
        {
            let (connection, body) = ask(query, offer);
            assert_eq!(connection.unwrap().stateful, stateful);
            let expected = stateful.then_some(&Value::Bool(true));
            assert_eq!(body.get("useStatefulReconnect"), expected);
        }
    }

    #[test]
    fn transports_come_in_the_order_offered() {
        let (_, body) = ask("negotiateVersion=1", ALL);
        let transports = body["availableTransports"].as_array().unwrap();
        let names: Vec<&Value> = transports.iter().map(|item| &item["transport"]).collect();
        assert_eq!(names, ["WebSockets", "ServerSentEvents", "LongPolling"]);
        assert_eq!(transports[1]["transferFormats"], json!(["Text"]));
    }
}
