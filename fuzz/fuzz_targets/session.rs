//! A connection to which anything comes, cut anywhere: it answers, waits or ends, and holds no more than
//! it may. Cut otherwise, it does the same.
#![no_main]

use std::time::{Duration, Instant};

use esh3ar::server::hub::protocol::{
    codec::CompletionResult,
    session::{Session, SessionAction, SessionLimits, TransportCapabilities},
};
use libfuzzer_sys::fuzz_target;

/// What a connection does with a stream that comes in these pieces. Calls end at once.
fn run<'a>(
    now: Instant,
    stateful: bool,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Vec<SessionAction> {
    let limits =
        SessionLimits { max_message: 200, max_buffered: 100_000, ..SessionLimits::default() };
    let mut session =
        Session::new(limits, TransportCapabilities { stateful, text_only: false }, now);
    let mut done = Vec::new();
    let mut out = Vec::new();
    for piece in pieces {
        session.on_bytes(piece, now, &mut out);
        while !out.is_empty() {
            for action in std::mem::take(&mut out) {
                let called = match &action {
                    SessionAction::Invoke { invocation_id, .. } => Some(invocation_id.clone()),
                    _ => None,
                };
                done.push(action);
                if let Some(id) = called {
                    session.complete(id.as_deref(), CompletionResult::Void, now, &mut out);
                }
            }
        }
        assert!(session.next_deadline() > now - Duration::from_secs(1));
    }
    done
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (stateful, size, bytes) = input;
    let now = Instant::now();
    let hello: &[u8] = match (size % 3, stateful) {
        (0, _) => b"{\"protocol\":\"json\",\"version\":1}\x1e",
        (1, _) => b"{\"protocol\":\"messagepack\",\"version\":2}\x1e",
        _ => b"",
    };
    let whole = [hello, bytes].concat();
    let at_once = run(now, stateful, std::iter::once(whole.as_slice()));
    let in_pieces = run(now, stateful, whole.chunks(usize::from(size).max(1)));
    assert_eq!(at_once, in_pieces);
});
