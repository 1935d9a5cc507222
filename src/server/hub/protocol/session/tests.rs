use std::time::Duration;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use serde_json::json;

use super::*;

const HELLO: &[u8] = b"{\"protocol\":\"json\",\"version\":1}\x1e";
const PING: &[u8] = b"{\"type\":6}\x1e";
const CALL: &[u8] = b"{\"type\":1,\"invocationId\":\"1\",\"target\":\"A\",\"arguments\":[]}\x1e";

/// A session with its clock and what it has done.
struct Driver {
    session: Session,
    now: Instant,
    out: Vec<SessionAction>,
}

impl Driver {
    fn new() -> Self {
        Self::with(SessionLimits::default())
    }

    fn with(limits: SessionLimits) -> Self {
        let now = Instant::now();
        Self {
            session: Session::new(limits, TransportCapabilities::default(), now),
            now,
            out: Vec::new(),
        }
    }

    /// A session after its handshake.
    fn open() -> Self {
        let mut driver = Self::new();
        assert_eq!(driver.bytes(HELLO), [sent("{}"), SessionAction::HandshakeDone]);
        driver
    }

    fn bytes(&mut self, bytes: &[u8]) -> Vec<SessionAction> {
        self.session.on_bytes(bytes, self.now, &mut self.out);
        mem::take(&mut self.out)
    }

    fn complete(&mut self, id: Option<&str>, outcome: CompletionResult) -> Vec<SessionAction> {
        self.session.complete(id, outcome, self.now, &mut self.out);
        mem::take(&mut self.out)
    }

    fn close(&mut self, error: Option<&str>, allow_reconnect: bool) -> Vec<SessionAction> {
        self.session.close(error, allow_reconnect, &mut self.out);
        mem::take(&mut self.out)
    }

    fn after(&mut self, millis: u64) -> Vec<SessionAction> {
        self.now += Duration::from_millis(millis);
        self.session.on_tick(self.now, &mut self.out);
        mem::take(&mut self.out)
    }

    fn until_deadline(&self) -> Duration {
        self.session.next_deadline() - self.now
    }
}

fn sent(record: &str) -> SessionAction {
    SessionAction::Send(Bytes::from(format!("{record}\u{1e}")))
}

fn failed(detail: &str, reason: EndReason) -> Vec<SessionAction> {
    let text = format!("Connection closed with an error. {detail}");
    let message = format!("{{\"type\":7,\"error\":{},\"allowReconnect\":true}}", json!(text));
    vec![sent(&message), SessionAction::End { reason }]
}

fn called(id: Option<&str>, target: &str) -> SessionAction {
    SessionAction::Invoke {
        invocation_id: id.map(str::to_owned),
        target: target.to_owned(),
        arguments: Vec::new(),
        stream_ids: Vec::new(),
        kind: InvocationKind::Plain,
    }
}

fn padded(length: usize) -> Vec<u8> {
    let mut message = b"{\"type\":6".to_vec();
    message.resize(length - 1, b' ');
    message.extend_from_slice(b"}\x1e");
    message
}

#[test]
fn messages_may_follow_the_handshake_in_its_frame() {
    let mut driver = Driver::new();
    let agreed = driver.session.handshake_params();
    assert_eq!(agreed, None);
    let frame = [HELLO, PING, CALL].concat();
    let expected = [sent("{}"), SessionAction::HandshakeDone, called(Some("1"), "A")];
    assert_eq!(driver.bytes(&frame), expected);
    assert_eq!(driver.session.protocol(), Some(Protocol::Json));
}

#[test]
fn the_agreed_version_is_kept() {
    let mut driver = Driver::new();
    driver.bytes(b"{\"protocol\":\"json\",\"version\":2}\x1e");
    assert_eq!(
        driver.session.handshake_params(),
        Some(HandshakeParams { protocol: Protocol::Json, version: 2 })
    );
}

#[test]
fn a_failed_handshake_ends_without_a_close_message() {
    let mut driver = Driver::new();
    let expected = [
        sent("{\"error\":\"The protocol 'xml' is not supported.\"}"),
        SessionAction::End { reason: EndReason::HandshakeFailed },
    ];
    let frame = [b"{\"protocol\":\"xml\",\"version\":1}\x1e", CALL].concat();
    assert_eq!(driver.bytes(&frame), expected);
    assert_eq!(driver.session.protocol(), None);
    assert!(!driver.session.wants_input());
    // Nothing follows the end.
    assert_eq!(driver.bytes(HELLO), []);
    assert_eq!(driver.close(None, true), []);
    assert_eq!(driver.after(60_000), []);
    assert!(driver.session.next_deadline() > driver.now);
}

#[test]
fn a_handshake_that_does_not_come_is_canceled() {
    let canceled =
        |reason| [sent("{\"error\":\"Handshake was canceled.\"}"), SessionAction::End { reason }];
    let mut late = Driver::new();
    late.bytes(b"{\"protocol\":");
    assert_eq!(late.until_deadline(), Duration::from_secs(15));
    assert_eq!(late.after(14_999), []);
    assert_eq!(late.after(1), canceled(EndReason::HandshakeTimeout));

    let mut long = Driver::new();
    assert_eq!(long.bytes(&[b' '; 32 * 1024]), []);
    assert_eq!(long.bytes(b" "), canceled(EndReason::HandshakeFailed));

    assert_eq!(Driver::new().close(None, true), canceled(EndReason::HandshakeFailed));
}

#[test]
fn invocations_run_one_at_a_time_and_in_order() {
    let mut driver = Driver::open();
    let silent = b"{\"type\":1,\"target\":\"B\",\"arguments\":[]}\x1e";
    // The faulty message is not even looked at before its turn.
    let frame = [CALL, silent.as_slice(), CALL, b"{}\x1e"].concat();
    assert_eq!(driver.bytes(&frame), [called(Some("1"), "A")]);
    assert!(!driver.session.wants_input());
    let done = sent("{\"type\":3,\"invocationId\":\"1\",\"result\":null}");
    let answer = driver.complete(Some("1"), CompletionResult::Value(json!(null).into()));
    assert_eq!(answer, [done, called(None, "B")]);
    // Without an id there is no answer, not even of a failure.
    let answer = driver.complete(None, CompletionResult::Error("no".to_owned()));
    assert_eq!(answer, [called(Some("1"), "A")]);
    let answer = driver.complete(Some("1"), CompletionResult::Error("no".to_owned()));
    let mut expected = vec![sent("{\"type\":3,\"invocationId\":\"1\",\"error\":\"no\"}")];
    let detail = "InvalidDataException: Missing required property 'type'.";
    expected.extend(failed(detail, EndReason::ProtocolError));
    assert_eq!(answer, expected);
}

#[test]
fn one_chunk_is_taken_while_an_invocation_runs() {
    let mut driver = Driver::open();
    driver.bytes(CALL);
    assert!(driver.session.wants_input());
    assert_eq!(driver.bytes(CALL), []);
    assert!(!driver.session.wants_input());
    driver.complete(Some("1"), CompletionResult::Void);
    assert!(driver.session.wants_input());
    driver.complete(Some("1"), CompletionResult::Void);
    // None runs any more.
    assert_eq!(driver.complete(Some("1"), CompletionResult::Void), []);
}

#[test]
fn a_driver_that_does_not_hold_back_is_stopped() {
    let limits = SessionLimits { max_buffered: 100, max_message: 80, ..SessionLimits::default() };
    let mut driver = Driver::with(limits);
    driver.bytes(HELLO);
    driver.bytes(CALL);
    assert_eq!(driver.bytes(&[b' '; 100]), []);
    let detail = "InvalidDataException: More than 100B wait to be read.";
    assert_eq!(driver.bytes(b" "), failed(detail, EndReason::TooLong));
    assert_eq!(driver.session.input.capacity(), 0);
    assert_eq!(driver.complete(Some("1"), CompletionResult::Void), []);
}

#[test]
fn streams_do_not_hold_the_line() {
    let mut driver = Driver::open();
    let frame = b"{\"type\":4,\"invocationId\":\"s\",\"target\":\"S\",\"arguments\":[],\"streamIds\":[\"u\"]}\x1e";
    let stream = SessionAction::Invoke {
        invocation_id: Some("s".to_owned()),
        target: "S".to_owned(),
        arguments: Vec::new(),
        stream_ids: vec!["u".to_owned()],
        kind: InvocationKind::Stream,
    };
    let frame = [frame.as_slice(), CALL].concat();
    assert_eq!(driver.bytes(&frame), [stream, called(Some("1"), "A")]);
    driver.session.answer("s", &CompletionResult::Error("no".to_owned()), &mut driver.out);
    let ended = mem::take(&mut driver.out);
    assert_eq!(ended, [sent("{\"type\":3,\"invocationId\":\"s\",\"error\":\"no\"}")]);
    // The plain call runs on.
    assert_eq!(driver.complete(Some("1"), CompletionResult::Void).len(), 1);
}

#[test]
fn what_nobody_waits_for_is_ignored() {
    let mut driver = Driver::open();
    for message in [
        "{\"type\":6}",
        "{\"type\":8,\"sequenceId\":1}",
        "{\"type\":9,\"sequenceId\":1}",
        "{\"type\":99}",
    ] {
        assert_eq!(driver.bytes(format!("{message}\u{1e}").as_bytes()), [], "{message}");
    }
    assert_eq!(driver.bytes(CALL), [called(Some("1"), "A")]);
}

#[test]
fn what_concerns_streams_and_questions_is_passed_on_even_while_an_invocation_is_answered_later() {
    let mut driver = Driver::open();
    assert_eq!(driver.bytes(CALL), [called(Some("1"), "A")]);
    driver.session.release(driver.now, &mut driver.out);
    let frame = "{\"type\":2,\"invocationId\":\"u\",\"item\":1}\u{1e}{\"type\":3,\"invocationId\":\"u\"}\u{1e}\
                 {\"type\":5,\"invocationId\":\"s\"}\u{1e}";
    let expected = [
        SessionAction::StreamItem { id: "u".to_owned(), item: json!(1).into() },
        SessionAction::Completion { id: "u".to_owned(), outcome: CompletionResult::Void },
        SessionAction::Cancel { id: "s".to_owned() },
    ];
    assert_eq!(driver.bytes(frame.as_bytes()), expected);
    driver.session.answer("1", &CompletionResult::Error("late".to_owned()), &mut driver.out);
    let late = sent("{\"type\":3,\"invocationId\":\"1\",\"error\":\"late\"}");
    assert_eq!(mem::take(&mut driver.out), [late]);
}

#[test]
fn a_binary_protocol_needs_a_transport_that_carries_it() {
    let hello = b"{\"protocol\":\"messagepack\",\"version\":1}\x1e";
    let mut driver = Driver::new();
    driver.session.transport.text_only = true;
    let refused = driver.bytes(hello);
    assert!(
        matches!(refused[1], SessionAction::End { reason: EndReason::HandshakeFailed }),
        "{refused:?}"
    );
    let mut driver = Driver::new();
    // Calls in MessagePack may come in the same chunk as the handshake, which is JSON.
    let call = [13, 0x96, 1, 0x80, 0xA1, b'1', 0xA1, b'A', 0x90, 0x90, 2, 0x91, 6];
    let call = [&[9][..], &call[1..10], &call[10..]].concat();
    let answered = driver.bytes(&[&hello[..], &call[..]].concat());
    assert_eq!(answered, [sent("{}"), SessionAction::HandshakeDone, called(Some("1"), "A")]);
}

/// A session that may outlive its transport.
fn stateful() -> Driver {
    let mut driver = Driver::new();
    driver.session.transport.stateful = true;
    driver.bytes(b"{\"protocol\":\"json\",\"version\":2}\x1e");
    driver
}

impl Driver {
    fn detach(&mut self) -> bool {
        self.session.detach(self.now)
    }

    fn resume(&mut self) -> Vec<SessionAction> {
        self.session.resume(self.now, &mut self.out);
        mem::take(&mut self.out)
    }

    fn send(&mut self, text: &str) {
        self.session.send(Bytes::from(text.to_owned()), &mut self.out);
        self.out.clear();
    }
}

#[test]
fn who_comes_back_is_told_what_it_missed_and_is_heard_once() {
    let mut driver = stateful();
    assert_eq!(driver.bytes(CALL), [called(Some("1"), "A")]);
    driver.send("one");
    driver.send("two");
    driver.bytes(b"{\"type\":8,\"sequenceId\":1}\x1e");
    assert_eq!(driver.complete(Some("1"), CompletionResult::Error("no".to_owned())).len(), 1);
    // Half a message of the old socket is forgotten.
    driver.bytes(b"{\"type\":1,\"targ");
    assert!(driver.detach());
    assert_eq!(driver.until_deadline(), Duration::from_secs(15));
    driver.send("three");
    assert_eq!(driver.after(14_999), [], "no pings to nobody");
    let message = |text: &'static str| SessionAction::Send(Bytes::from_static(text.as_bytes()));
    let expected = [
        sent("{\"type\":9,\"sequenceId\":2}"),
        message("two"),
        sent("{\"type\":3,\"invocationId\":\"1\",\"error\":\"no\"}"),
        message("three"),
    ];
    assert_eq!(driver.resume(), expected);
    // Until the client says where it begins, nothing of it counts.
    assert_eq!(driver.bytes(CALL), []);
    let again = [b"{\"type\":9,\"sequenceId\":1}\x1e", CALL, CALL].concat();
    assert_eq!(driver.bytes(&again), [called(Some("1"), "A")], "the first was here before");
    driver.complete(None, CompletionResult::Void);
    let ack = driver.after(1000);
    assert_eq!(ack, [sent("{\"type\":8,\"sequenceId\":2}")]);
}

#[test]
fn who_does_not_come_back_in_time_is_gone() {
    let mut driver = stateful();
    assert!(driver.detach());
    assert_eq!(driver.after(15_000), [SessionAction::End { reason: EndReason::Abandoned }]);
    assert!(!driver.detach());
}

#[test]
fn a_client_that_skips_messages_is_sent_away() {
    let mut driver = stateful();
    driver.detach();
    driver.resume();
    let detail = "InvalidOperationException: Sequence ID greater than amount of messages we've \
                  received.";
    let expected = failed(detail, EndReason::ProtocolError);
    assert_eq!(driver.bytes(b"{\"type\":9,\"sequenceId\":2}\x1e"), expected);
}

#[test]
fn an_ordinary_connection_does_not_outlive_its_transport() {
    let mut ordinary = Driver::open();
    assert!(!ordinary.detach());
    // Negotiated, and then not asked for in the handshake.
    let mut driver = Driver::new();
    driver.session.transport.stateful = true;
    driver.bytes(HELLO);
    assert!(!driver.detach());
    // Asked for and not negotiated.
    let mut driver = Driver::new();
    driver.bytes(b"{\"protocol\":\"json\",\"version\":2}\x1e");
    assert!(!driver.detach());
}

#[test]
fn what_is_kept_for_a_client_has_an_end() {
    let mut driver = stateful();
    driver.session.limits.max_kept = 200_000;
    driver.send(&"x".repeat(100_000));
    assert!(!driver.session.is_full());
    driver.send("x");
    assert!(driver.session.is_full());
    assert!(driver.session.has_room(99_999) && !driver.session.has_room(100_000));
    assert!(driver.session.is_resumable());
    driver.send(&"x".repeat(100_000));
    // It stays open, but its client cannot reconnect before it has acknowledged the dropped message.
    assert_eq!(driver.bytes(PING), []);
    assert!(!driver.session.is_resumable());
    assert_eq!(driver.bytes(b"{\"type\":8,\"sequenceId\":1}\x1e"), []);
    assert!(driver.session.is_resumable() && driver.detach());
}

#[test]
fn who_comes_back_for_what_is_not_kept_has_to_begin_anew() {
    let mut driver = stateful();
    driver.session.limits.max_kept = 10;
    driver.send(&"x".repeat(11));
    assert!(!driver.detach());
    let mut out = Vec::new();
    driver.session.abandon(&mut out);
    driver.session.abandon(&mut out);
    assert_eq!(out, [SessionAction::End { reason: EndReason::Abandoned }]);
}

#[test]
fn a_client_that_leaves_with_an_error_has_failed() {
    for (close, reason) in [
        ("{\"type\":7}\u{1e}", EndReason::ClientClosed),
        ("{\"type\":7,\"error\":\"\"}\u{1e}", EndReason::ClientClosed),
        ("{\"type\":7,\"error\":\"Unexpected token\"}\u{1e}", EndReason::ClientFailed),
    ] {
        let actions = Driver::open().bytes(close.as_bytes());
        assert_eq!(actions.last(), Some(&SessionAction::End { reason }), "{close}");
    }
}

#[test]
fn the_limit_is_of_a_message_and_not_of_a_frame() {
    let mut driver = Driver::open();
    let longest = padded(256 * 1024);
    assert_eq!(longest.len(), 256 * 1024 + 1);
    let frame = [&longest, &longest, CALL].concat();
    assert_eq!(driver.bytes(&frame), [called(Some("1"), "A")]);
}

/// A call with so many bytes of an argument before all that names it, as the JavaScript client writes it.
fn long_call(length: usize) -> Vec<u8> {
    let text = "x".repeat(length);
    let rest = "\"invocationId\":\"9\",\"target\":\"Say\",\"type\":1}\u{1e}";
    format!("{{\"arguments\":[\"{text}\"],{rest}").into_bytes()
}

fn too_large() -> SessionAction {
    sent(
        "{\"type\":3,\"invocationId\":\"9\",\"error\":\"An unexpected error occurred invoking 'Say' on \
         the server. HubException: message_too_large: esh3ar takes at most 262144 bytes in one message of \
         a client\"}",
    )
}

#[test]
fn a_call_that_is_too_long_is_answered_and_the_connection_stays() {
    for size in [1 << 20, 64 * 1024, 999] {
        let mut driver = Driver::open();
        let frame = [&long_call(300_000), CALL].concat();
        let answers: Vec<SessionAction> =
            frame.chunks(size).flat_map(|piece| driver.bytes(piece)).collect();
        assert_eq!(answers, [too_large(), called(Some("1"), "A")], "in pieces of {size}");
        driver.complete(Some("1"), CompletionResult::Void);
        assert_eq!(driver.session.input.capacity(), 0);
    }
    // Without an id there is nobody to answer.
    let mut driver = Driver::open();
    let call = String::from_utf8(long_call(300_000)).unwrap();
    let silent = call.replace("\"invocationId\":\"9\",", "");
    assert_eq!(driver.bytes(silent.as_bytes()), []);
    assert_eq!(driver.bytes(CALL), [called(Some("1"), "A")]);
    // It waits for its turn like any other.
    let mut driver = Driver::open();
    let frame = [CALL, &long_call(300_000)].concat();
    assert_eq!(driver.bytes(&frame), [called(Some("1"), "A")]);
    let done = sent("{\"type\":3,\"invocationId\":\"1\"}");
    assert_eq!(driver.complete(Some("1"), CompletionResult::Void), [done, too_large()]);
}

#[test]
fn a_call_that_is_too_long_counts_for_who_comes_back() {
    let mut driver = stateful();
    assert_eq!(driver.bytes(&long_call(300_000)), [too_large()]);
    assert!(driver.detach());
    assert_eq!(driver.resume().len(), 2, "where it begins, and the answer");
    let sequence = b"{\"type\":9,\"sequenceId\":1}\x1e";
    let again = [&sequence[..], &long_call(300_000), CALL].concat();
    assert_eq!(driver.bytes(&again), [called(Some("1"), "A")], "the first was answered before");
}

#[test]
fn what_is_too_long_and_no_call_ends_the_connection() {
    let detail = "InvalidDataException: The maximum message size of 262144B was exceeded. This is \
                  esh3ar's own limit for a message of a client.";
    let mut driver = Driver::open();
    let pings = padded(256 * 1024 + 1);
    assert_eq!(driver.bytes(&pings), failed(detail, EndReason::TooLong));
    let mut driver = Driver::open();
    assert_eq!(driver.bytes(&[b' '; 256 * 1024]), []);
    assert_eq!(driver.bytes(b" "), []);
    assert_eq!(driver.bytes(b"\x1e"), failed(detail, EndReason::TooLong));
    let mut driver = Driver::open();
    let mut ended = Vec::new();
    for _ in 0..5 {
        ended.extend(driver.bytes(&vec![b'y'; 1 << 20]));
    }
    assert_eq!(ended, failed(detail, EndReason::TooLong), "an end is not waited for");
}

#[test]
fn faults_close_with_their_text_and_let_the_client_come_back() {
    let mut driver = Driver::open();
    let frame = [b"\x1e", CALL].concat();
    let detail = "InvalidDataException: Error reading JSON.";
    assert_eq!(driver.bytes(&frame), failed(detail, EndReason::ProtocolError));
}

#[test]
fn a_goodbye_is_answered() {
    let expected = [sent("{\"type\":7}"), SessionAction::End { reason: EndReason::ClientClosed }];
    let mut driver = Driver::open();
    assert_eq!(driver.bytes(&[b"{\"type\":7}\x1e", CALL].concat()), expected);
}

#[test]
fn the_server_says_goodbye_as_it_is_told() {
    let end = SessionAction::End { reason: EndReason::ServerClosed };
    let mut driver = Driver::open();
    driver.bytes(&[CALL, CALL].concat());
    let close = sent("{\"type\":7,\"allowReconnect\":true}");
    assert_eq!(driver.close(None, true), [close, end.clone()]);
    assert_eq!(driver.session.input.capacity(), 0);
    // The invocation that ran has nobody to answer.
    assert_eq!(driver.complete(Some("1"), CompletionResult::Void), []);
    let mut driver = Driver::open();
    let close = sent("{\"type\":7,\"error\":\"gone\"}");
    assert_eq!(driver.close(Some("gone"), false), [close, end]);
}

#[test]
fn pings_go_out_by_the_clock_whatever_else_flows() {
    let mut driver = Driver::open();
    let ping = [sent("{\"type\":6}")];
    assert_eq!(driver.after(14_999), []);
    driver.bytes(CALL);
    driver.complete(Some("1"), CompletionResult::Void);
    assert_eq!(driver.after(1), ping);
    // The next is counted from the last, also where that was late.
    assert_eq!(driver.after(16_000), ping);
    assert_eq!(driver.until_deadline(), Duration::from_secs(15));
    assert_eq!(driver.after(14_999), []);
    assert_eq!(driver.after(1), ping);
}

#[test]
fn only_a_client_that_has_pinged_is_timed_out() {
    let detail = "OperationCanceledException: Client hasn't sent a message/ping within the \
                  configured ClientTimeoutInterval.";
    let mut quiet = Driver::open();
    quiet.bytes(b"{\"type\":99}\x1e");
    for _ in 0..10 {
        assert_eq!(quiet.after(15_000), [sent("{\"type\":6}")]);
    }

    let limits =
        SessionLimits { ping_interval: Duration::from_secs(3600), ..SessionLimits::default() };
    let mut driver = Driver::with(limits);
    driver.bytes(&[HELLO, PING].concat());
    assert_eq!(driver.until_deadline(), Duration::from_secs(30));
    assert_eq!(driver.after(29_000), []);
    // Any whole message counts, part of one does not.
    driver.bytes(b"{\"type\":99}\x1e");
    assert_eq!(driver.after(29_000), []);
    driver.bytes(b"{\"type\":");
    assert_eq!(driver.after(999), []);
    assert_eq!(driver.after(1), failed(detail, EndReason::ClientTimeout));
}

#[test]
fn the_clock_on_the_client_stands_while_an_invocation_runs() {
    let limits =
        SessionLimits { ping_interval: Duration::from_secs(3600), ..SessionLimits::default() };
    let mut driver = Driver::with(limits);
    driver.bytes(&[HELLO, PING, CALL].concat());
    assert!(driver.until_deadline() > Duration::from_secs(30));
    assert_eq!(driver.after(120_000), []);
    driver.complete(Some("1"), CompletionResult::Void);
    assert_eq!(driver.until_deadline(), Duration::from_secs(30));
    assert_eq!(driver.after(29_999), []);
    assert_eq!(driver.after(1).len(), 2);
}

#[test]
#[allow(clippy::print_stdout)]
fn an_idle_session_is_tiny() {
    println!("size_of::<Session>() = {}", size_of::<Session>());
    assert!(size_of::<Session>() <= 256);
    let mut driver = Driver::open();
    assert_eq!(driver.session.input.capacity(), 0);
    let long = padded(30_000);
    let (head, tail) = long.split_at(20_000);
    driver.bytes(head);
    assert!(driver.session.input.capacity() >= 20_000);
    driver.bytes(tail);
    assert_eq!(driver.session.input.capacity(), 0);
    // A remnant does not hold on to the room of what came before it.
    driver.bytes(head);
    driver.bytes(&[tail, b"{"].concat());
    assert!(driver.session.input.capacity() <= 1024);
}

/// A message of a client, of every kind there is and a few that are none.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        Just("{\"type\":6}".to_owned()),
        Just("{\"type\":99,\"x\":[1,2]}".to_owned()),
        Just("{\"type\":5,\"invocationId\":\"1\"}".to_owned()),
        "[a-z]{1,8}"
            .prop_map(|name| format!("{{\"arguments\":[],\"type\":1,\"target\":\"{name}\"}}")),
        ("[0-9]{1,3}", "\\PC{0,20}").prop_map(|(id, argument)| {
            json!({"type": 1, "invocationId": id, "target": "A", "arguments": [argument]})
                .to_string()
        }),
        "[0-9]{1,3}".prop_map(|id| {
            json!({"type": 4, "invocationId": id, "target": "S", "arguments": []}).to_string()
        }),
        Just(" ".repeat(150)),
    ];
    let rare = prop_oneof![
        20 => text,
        1 => Just("{\"type\":7}".to_owned()),
        1 => Just("nonsense".to_owned()),
        1 => Just(" ".repeat(201)),
    ];
    rare.prop_map(|text| format!("{text}\u{1e}").into_bytes())
}

/// Feeds `chunks` as a driver should, whose invocations end at once or (`lazy`) only when the
/// session wants no more input, and returns all that was done.
fn run(chunks: &[&[u8]], lazy: bool) -> Vec<SessionAction> {
    let limits =
        SessionLimits { max_message: 200, max_buffered: 1 << 20, ..SessionLimits::default() };
    let mut driver = Driver::with(limits);
    let mut log = Vec::new();
    let mut running: Option<Option<String>> = None;
    for chunk in chunks.iter().copied().chain([&[][..]]) {
        let mut actions = driver.bytes(chunk);
        loop {
            for action in &actions {
                if let SessionAction::Invoke {
                    invocation_id, kind: InvocationKind::Plain, ..
                } = action
                {
                    assert!(running.is_none(), "two at a time");
                    running = Some(invocation_id.clone());
                }
            }
            log.append(&mut actions);
            if lazy && driver.session.wants_input() && !chunk.is_empty() {
                break;
            }
            let Some(id) = running.take() else { break };
            actions = driver.complete(id.as_deref(), CompletionResult::Void);
        }
        assert!(driver.session.wants_input() || driver.session.phase == Phase::Ended);
    }
    log
}

/// Cuts `bytes` at the given places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.sort_unstable();
    places.dedup();
    let mut chunks = Vec::new();
    let mut from = 0;
    for to in places.into_iter().chain([bytes.len()]) {
        if to > from {
            chunks.push(&bytes[from..to]);
            from = to;
        }
    }
    chunks
}

#[test]
fn what_has_much_to_send_reads_no_more_until_it_has_sent() {
    let mut driver = Driver::open();
    driver.session.pause();
    assert!(!driver.session.wants_input());
    assert_eq!(driver.bytes(CALL), []);
    driver.session.resume_reading(driver.now, &mut driver.out);
    assert!(matches!(mem::take(&mut driver.out)[..], [SessionAction::Invoke { .. }]));
    assert!(!driver.session.is_paused());
    // Not even one frame is more than can be answered: streams do not wait for each other.
    let mut driver = Driver::open();
    let stream = b"{\"type\":4,\"invocationId\":\"1\",\"target\":\"A\",\"arguments\":[]}\x1e";
    let mut read = driver.bytes(&stream.repeat(1000)).len();
    assert!(read < 1000 && driver.session.is_paused());
    while driver.session.is_paused() {
        driver.session.resume_reading(driver.now, &mut driver.out);
        read += mem::take(&mut driver.out).len();
    }
    assert_eq!(read, 1000);
    assert!(driver.session.wants_input());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn where_the_bytes_are_cut_changes_nothing(
        messages in vec(message(), 0..30),
        places in vec(any::<prop::sample::Index>(), 0..40),
        lazy: bool,
    ) {
        let stream = [HELLO.to_vec(), messages.concat()].concat();
        let whole = run(&[&stream], false);
        prop_assert_eq!(&run(&cut(&stream, &places), lazy), &whole);
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&run(&single, lazy), &whole);
    }

    #[test]
    fn whatever_comes_memory_is_bounded(
        chunks in vec(
            prop_oneof![
                1 => vec(prop_oneof![any::<u8>(), Just(codec::RECORD_END)], 0..300),
                6 => message(),
            ],
            0..40,
        ),
        greeted: bool,
    ) {
        let limits = SessionLimits { max_message: 200, max_buffered: 600, ..SessionLimits::default() };
        let mut driver = Driver::with(limits);
        if greeted {
            driver.bytes(HELLO);
        }
        let mut ends = 0;
        // Nothing is ever completed, and nothing held back.
        for chunk in &chunks {
            for action in driver.bytes(chunk) {
                prop_assert_eq!(ends, 0, "something follows the end");
                ends += usize::from(matches!(action, SessionAction::End { .. }));
            }
            prop_assert!(driver.session.input.len() <= 600);
            prop_assert!(driver.session.input.capacity() <= 1200);
            prop_assert!(ends == 0 || driver.session.input.capacity() == 0);
        }
    }
}
