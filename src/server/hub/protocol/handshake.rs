//! The handshake: the first record of every connection, JSON under every protocol.
//!
//! It chooses the protocol and its version. After a failure the connection ends without a Close message,
//! which would belong to a protocol that was not agreed on.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec::{Protocol, RECORD_END};

/// The highest version of the hub protocol: 2 adds stateful reconnect where that was negotiated. Lower
/// numbers are accepted; one client in the field sends 0.
pub const MAX_VERSION: i32 = 2;
pub const STATEFUL_VERSION: i32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeParams {
    pub protocol: Protocol,
    /// At most [`MAX_VERSION`].
    pub version: i32,
}

/// The texts are those of the official server, which clients show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("The protocol '{0}' is not supported.")]
    Protocol(String),
    #[error("The server does not support version {version} of the '{protocol}' protocol.")]
    Version { version: i32, protocol: &'static str },
    #[error(
        "Cannot use the '{0}' protocol on the current transport. The transport does not support \
         'Binary' transfer format."
    )]
    Binary(&'static str),
    /// Also when the request is too long, or the server closes.
    #[error("Handshake was canceled.")]
    Canceled,
    #[error("An unexpected error occurred during connection handshake. InvalidDataException: {0}")]
    Malformed(&'static str),
}

#[derive(Deserialize)]
struct Request {
    protocol: Option<String>,
    version: Option<i32>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

/// Reads a handshake request, without the byte that ends it; `text_only` for a transport without binary
/// frames.
pub fn parse_request(payload: &[u8], text_only: bool) -> Result<HandshakeParams, HandshakeError> {
    let malformed = HandshakeError::Malformed;
    let text = std::str::from_utf8(payload).map_err(|_| malformed("Error reading JSON."))?;
    // serde accepts an array for a struct, by position.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(malformed("Expected a JSON Object."));
    }
    let request: Request = serde_json::from_str(text).map_err(|error| {
        malformed(match error.classify() {
            serde_json::error::Category::Data => {
                "Expected 'protocol' to be of type String and 'version' of type Number."
            }
            _ => "Error reading JSON.",
        })
    })?;
    let name = request.protocol.ok_or(malformed("Missing required property 'protocol'."))?;
    let version = request.version.ok_or(malformed("Missing required property 'version'."))?;
    let Some(protocol) = Protocol::named(&name) else {
        return Err(HandshakeError::Protocol(name));
    };
    if version > MAX_VERSION {
        return Err(HandshakeError::Version { version, protocol: protocol.name() });
    }
    if text_only && !protocol.is_text() {
        return Err(HandshakeError::Binary(protocol.name()));
    }
    Ok(HandshakeParams { protocol, version })
}

pub fn success_response() -> Bytes {
    Bytes::from_static(b"{}\x1e")
}

pub fn error_response(error: &HandshakeError) -> Bytes {
    let text = error.to_string();
    match serde_json::to_vec(&ErrorBody { error: &text }) {
        Ok(mut bytes) => {
            bytes.push(RECORD_END);
            bytes.into()
        }
        // Serialising a string to memory cannot fail; if it does, the client must not wait.
        Err(_) => Bytes::from_static(b"{\"error\":\"Handshake was canceled.\"}\x1e"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(request: &str) -> String {
        let answer = error_response(&parse_request(request.as_bytes(), false).unwrap_err());
        let (end, json) = answer.split_last().unwrap();
        assert_eq!(*end, RECORD_END);
        let json: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 1);
        json["error"].as_str().unwrap().to_owned()
    }

    #[test]
    fn every_version_up_to_two_is_taken() {
        for version in [-1, 0, 1, 2] {
            let request = format!(r#" {{"version":{version},"x":[{{}}],"protocol":"json"}} "#);
            let agreed = HandshakeParams { protocol: Protocol::Json, version };
            assert_eq!(parse_request(request.as_bytes(), false), Ok(agreed));
        }
        assert_eq!(
            refusal(r#"{"protocol":"json","version":3}"#),
            "The server does not support version 3 of the 'json' protocol."
        );
    }

    #[test]
    fn a_binary_protocol_needs_a_transport_that_carries_it() {
        let request = br#"{"protocol":"messagepack","version":1}"#;
        assert!(parse_request(request, false).is_ok());
        assert_eq!(
            parse_request(request, true).unwrap_err().to_string(),
            "Cannot use the 'messagepack' protocol on the current transport. The transport does not \
             support 'Binary' transfer format."
        );
    }

    #[test]
    fn names_of_protocols_have_no_case_and_unknown_ones_are_repeated() {
        assert!(parse_request(br#"{"protocol":"JSON","version":1}"#, false).is_ok());
        assert_eq!(
            refusal(r#"{"protocol":"a\"b","version":1}"#),
            "The protocol 'a\"b' is not supported."
        );
        // The protocol is checked first, as the versions of an unknown one are not known.
        assert_eq!(
            refusal(r#"{"protocol":"x","version":9}"#),
            "The protocol 'x' is not supported."
        );
    }

    #[test]
    fn anything_else_is_malformed() {
        let prefix =
            "An unexpected error occurred during connection handshake. InvalidDataException: ";
        for (request, detail) in [
            ("", "Expected a JSON Object."),
            (r#"["json",1]"#, "Expected a JSON Object."),
            (r#"{"protocol":"json","version":1"#, "Error reading JSON."),
            (r#"{"protocol":"json","version":1}{}"#, "Error reading JSON."),
            (r#"{"version":1}"#, "Missing required property 'protocol'."),
            (r#"{"protocol":"json"}"#, "Missing required property 'version'."),
            (
                r#"{"protocol":"json","version":"1"}"#,
                "Expected 'protocol' to be of type String and 'version' of type Number.",
            ),
        ] {
            assert_eq!(refusal(request), format!("{prefix}{detail}"), "{request}");
        }
        assert!(matches!(
            parse_request(b"{\"protocol\":\"json\",\"version\":1,\"x\":\"\xff\"}", false),
            Err(HandshakeError::Malformed(_))
        ));
    }
}
