//! Whatever comes as JSON is read or refused, and what is read can be written and read again.
#![no_main]

use esh3ar::server::hub::protocol::codec::{self, ClientMessage, Protocol};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = codec::split(Protocol::Json, bytes, 0, 1000);
    if let Ok(ClientMessage::Completion { invocation_id, outcome }) =
        codec::parse(Protocol::Json, bytes)
    {
        let written = codec::completion(Protocol::Json, &invocation_id, &outcome);
        let payload = &written[..written.len() - 1];
        let again = codec::parse(Protocol::Json, payload);
        assert_eq!(again, Ok(ClientMessage::Completion { invocation_id, outcome }));
    }
});
