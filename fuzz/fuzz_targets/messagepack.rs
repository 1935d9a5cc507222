//! Whatever comes as MessagePack is read or refused; what a client sends can be shown as JSON.
#![no_main]

use esh3ar::server::hub::protocol::codec::{self, ClientMessage, Protocol, Split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let payload = match codec::split(Protocol::MessagePack, bytes, 0, 32 * 1024) {
        Split::Whole { start, end, used } => {
            assert!(start <= end && end == used && used <= bytes.len());
            &bytes[start..end]
        }
        Split::Partial | Split::TooLong => bytes,
    };
    match codec::parse(Protocol::MessagePack, payload) {
        Ok(ClientMessage::Invocation { arguments, .. }) => {
            for argument in arguments {
                let _ = argument.into_json().to_string();
            }
        }
        Ok(ClientMessage::Completion { invocation_id, outcome }) => {
            let _ = codec::completion(Protocol::MessagePack, &invocation_id, &outcome);
        }
        _ => {}
    }
});
