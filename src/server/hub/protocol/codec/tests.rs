use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json, value::RawValue};

use super::*;

fn read(text: &str) -> Result<ClientMessage, String> {
    parse(Protocol::Json, text.as_bytes()).map_err(|error| error.to_string())
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn call(id: Option<&str>, target: &str, arguments: Vec<Value>, streams: &[&str]) -> ClientMessage {
    ClientMessage::Invocation {
        invocation_id: id.map(str::to_owned),
        target: target.to_owned(),
        arguments: arguments.into_iter().map(Data::Json).collect(),
        stream_ids: streams.iter().map(|id| (*id).to_owned()).collect(),
    }
}

#[test]
fn messages_are_read_with_their_properties_in_any_order() {
    let id = || "7".to_owned();
    let completed = |outcome| ClientMessage::Completion { invocation_id: "7".to_owned(), outcome };
    for (message, expected) in [
        (r#"{"type":1,"target":"A","arguments":[]}"#, call(None, "A", vec![], &[])),
        (
            r#" { "arguments" : [1,{"type":9}] , "x":[{"target":1}], "target":"A",
                "headers":{"type":"x"}, "invocationId":"7", "type":1 } "#,
            call(Some("7"), "A", vec![json!(1), json!({"type": 9})], &[]),
        ),
        (
            r#"{"streamIds":["s","t"],"type":1,"target":"A","arguments":[null]}"#,
            call(None, "A", vec![Value::Null], &["s", "t"]),
        ),
        // Null and the empty id are as good as none: no answer is due.
        (
            r#"{"type":1,"invocationId":null,"streamIds":null,"target":"A","arguments":[]}"#,
            call(None, "A", vec![], &[]),
        ),
        (
            r#"{"type":1,"invocationId":"","target":"A","arguments":[]}"#,
            call(None, "A", vec![], &[]),
        ),
        // Of a property that comes twice the last counts.
        (
            r#"{"type":6,"target":"B","arguments":[1],"target":"A","arguments":[],"type":1}"#,
            call(None, "A", vec![], &[]),
        ),
        // Names of properties have case.
        (
            r#"{"type":1,"target":"A","arguments":[],"InvocationId":"7","Type":4}"#,
            call(None, "A", vec![], &[]),
        ),
        (
            r#"{"item":null,"invocationId":"7","type":2}"#,
            ClientMessage::StreamItem { invocation_id: id(), item: Data::Json(Value::Null) },
        ),
        (r#"{"type":3,"invocationId":"7"}"#, completed(CompletionResult::Void)),
        (
            r#"{"type":3,"invocationId":"7","result":null}"#,
            completed(CompletionResult::Value(Data::Json(Value::Null))),
        ),
        (
            r#"{"type":3,"result":[1],"invocationId":"7"}"#,
            completed(CompletionResult::Value(json!([1]).into())),
        ),
        (
            r#"{"type":3,"invocationId":"7","error":""}"#,
            completed(CompletionResult::Error(String::new())),
        ),
        (
            r#"{"type":4,"invocationId":"7","target":"S","arguments":[2],"streamIds":["9"]}"#,
            ClientMessage::StreamInvocation {
                invocation_id: id(),
                target: "S".to_owned(),
                arguments: vec![json!(2).into()],
                stream_ids: vec!["9".to_owned()],
            },
        ),
        (
            r#"{"type":5,"invocationId":"7"}"#,
            ClientMessage::CancelInvocation { invocation_id: id() },
        ),
        (r#"{"type":6}"#, ClientMessage::Ping),
        (r#"{"type":7}"#, ClientMessage::Close { error: None, allow_reconnect: false }),
        (
            r#"{"type":7,"error":"e","allowReconnect":true}"#,
            ClientMessage::Close { error: Some("e".to_owned()), allow_reconnect: true },
        ),
        (r#"{"type":8,"sequenceId":3}"#, ClientMessage::Ack { sequence_id: 3 }),
        (r#"{"type":9,"sequenceId":4}"#, ClientMessage::Sequence { sequence_id: 4 }),
        // Whatever a message of the future carries, it is not judged.
        (r#"{"type":10,"target":5,"arguments":{}}"#, ClientMessage::Unknown),
        (r#"{"type":0}"#, ClientMessage::Unknown),
        (r#"{"type":-1}"#, ClientMessage::Unknown),
        (r#"{"type":18446744073709551615}"#, ClientMessage::Unknown),
    ] {
        assert_eq!(read(message), Ok(expected), "{message}");
    }
}

#[test]
fn faults_are_named_as_the_official_server_names_them() {
    // What is skipped may be as deep as it likes: skipping takes no stack.
    let deep = |property| {
        let (open, end) = ("[".repeat(200), "]".repeat(200));
        format!("{{\"type\":6,\"{property}\":{open}{end}}}")
    };
    assert_eq!(read(&deep("x")), Ok(ClientMessage::Ping));
    let deep = deep("arguments");
    for (message, error) in [
        ("", "Error reading JSON."),
        ("{", "Error reading JSON."),
        (r#"{"type":6}}"#, "Error reading JSON."),
        (r#"{"type":6}{"type":6}"#, "Error reading JSON."),
        (r#"{'type':6}"#, "Error reading JSON."),
        (deep.as_str(), "Error reading JSON."),
        ("[6]", "Unexpected JSON Token Type 'Array'. Expected a JSON Object."),
        ("null", "Unexpected JSON Token Type 'Null'. Expected a JSON Object."),
        ("6", "Unexpected JSON Token Type 'Number'. Expected a JSON Object."),
        ("{}", "Missing required property 'type'."),
        (r#"{"Type":6}"#, "Missing required property 'type'."),
        (r#"{"type":"6"}"#, "Expected 'type' to be of type Number."),
        (r#"{"type":6.5}"#, "Expected 'type' to be of type Number."),
        (r#"{"type":1,"arguments":[]}"#, "Missing required property 'target'."),
        (r#"{"type":1,"arguments":[],"target":null}"#, "Missing required property 'target'."),
        (r#"{"type":1,"arguments":[],"target":4}"#, "Expected 'target' to be of type String."),
        (r#"{"type":1,"target":"A"}"#, "Missing required property 'arguments'."),
        (r#"{"type":1,"target":"A","arguments":{}}"#, "Expected 'arguments' to be of type Array."),
        (
            r#"{"type":1,"target":"A","arguments":null}"#,
            "Expected 'arguments' to be of type Array.",
        ),
        (
            r#"{"type":1,"target":"A","arguments":[],"invocationId":1}"#,
            "Expected 'invocationId' to be of type String.",
        ),
        (
            r#"{"type":1,"target":"A","arguments":[],"streamIds":"1"}"#,
            "Expected 'streamIds' to be of type Array.",
        ),
        (r#"{"type":2,"item":1}"#, "Missing required property 'invocationId'."),
        (r#"{"type":2,"invocationId":"1"}"#, "Missing required property 'item'."),
        (r#"{"type":3,"result":1}"#, "Missing required property 'invocationId'."),
        (
            r#"{"type":3,"invocationId":"1","result":null,"error":"e"}"#,
            "The 'error' and 'result' properties are mutually exclusive.",
        ),
        (r#"{"type":4,"target":"A","arguments":[]}"#, "Missing required property 'invocationId'."),
        (r#"{"type":4,"invocationId":"1","arguments":[]}"#, "Missing required property 'target'."),
        (r#"{"type":4,"invocationId":"1","target":"A"}"#, "Missing required property 'arguments'."),
        (r#"{"type":5}"#, "Missing required property 'invocationId'."),
        (r#"{"type":5,"invocationId":""}"#, "Missing required property 'invocationId'."),
        (r#"{"type":7,"allowReconnect":1}"#, "Expected 'allowReconnect' to be true or false."),
        (r#"{"type":8}"#, "Missing required property 'sequenceId'."),
        (r#"{"type":9,"sequenceId":"1"}"#, "Expected 'sequenceId' to be of type Number."),
        (r#"{"type":9,"sequenceId":-1}"#, "Expected 'sequenceId' to be of type Number."),
    ] {
        assert_eq!(read(message), Err(error.to_owned()), "{message}");
    }
    // Also where the text is skipped.
    assert_eq!(parse(Protocol::Json, b"{\"type\":6,\"x\":\"\xff\"}"), Err(ParseError::Json));
}

#[test]
fn what_is_sent_is_exact() {
    let json = Protocol::Json;
    for (bytes, expected) in [
        (ping(json), "{\"type\":6}\u{1e}"),
        (close(json, None, false), "{\"type\":7}\u{1e}"),
        (close(json, None, true), "{\"type\":7,\"allowReconnect\":true}\u{1e}"),
        (
            close(json, Some("\"\u{1e}"), true),
            "{\"type\":7,\"error\":\"\\\"\\u001e\",\"allowReconnect\":true}\u{1e}",
        ),
        (
            completion(json, "1", &CompletionResult::Void),
            "{\"type\":3,\"invocationId\":\"1\"}\u{1e}",
        ),
        (
            completion(json, "1", &CompletionResult::Value(Value::Null.into())),
            "{\"type\":3,\"invocationId\":\"1\",\"result\":null}\u{1e}",
        ),
        (
            stream_item(json, "1", &json!(2).into()),
            "{\"type\":2,\"invocationId\":\"1\",\"item\":2}\u{1e}",
        ),
        (
            question(json, "s1", "A", &json!(1)).unwrap(),
            "{\"type\":1,\"invocationId\":\"s1\",\"target\":\"A\",\"arguments\":[1]}\u{1e}",
        ),
        (acknowledgement(json, 7), "{\"type\":8,\"sequenceId\":7}\u{1e}"),
        (sequence(json, 7), "{\"type\":9,\"sequenceId\":7}\u{1e}"),
        (
            completion(json, "\"", &CompletionResult::Value(json!({"a": [1]}).into())),
            "{\"type\":3,\"invocationId\":\"\\\"\",\"result\":{\"a\":[1]}}\u{1e}",
        ),
        (
            completion(json, "1", &CompletionResult::Error("no".to_owned())),
            "{\"type\":3,\"invocationId\":\"1\",\"error\":\"no\"}\u{1e}",
        ),
        (
            invocation(json, "ReceiveMessage", &json!({"content": "\u{1e}"})).unwrap(),
            "{\"type\":1,\"target\":\"ReceiveMessage\",\"arguments\":[{\"content\":\"\\u001e\"}]}\u{1e}",
        ),
        // A body that was written once is carried as it is.
        (
            invocation(json, "A", &RawValue::from_string("[ 1 ]".to_owned()).unwrap()).unwrap(),
            "{\"type\":1,\"target\":\"A\",\"arguments\":[[ 1 ]]}\u{1e}",
        ),
    ] {
        assert_eq!(text(&bytes), expected);
    }
    let keys_no_json_has = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(invocation(json, "A", &keys_no_json_has).is_err());
}

#[test]
fn a_message_is_found_wherever_its_bytes_are_cut() {
    let split = |bytes: &[u8], scanned| split(Protocol::Json, bytes, scanned, 4);
    assert_eq!(split(b"", 0), Split::Partial);
    assert_eq!(split(b"abcd", 0), Split::Partial);
    assert_eq!(split(b"\x1e", 0), Split::Whole { start: 0, end: 0, used: 1 });
    assert_eq!(split(b"ab\x1ecd\x1e", 2), Split::Whole { start: 0, end: 2, used: 3 });
    assert_eq!(split(b"abcd\x1e", 4), Split::Whole { start: 0, end: 4, used: 5 });
    // The verdict is the same before and after its end has come.
    assert_eq!(split(b"abcde", 4), Split::TooLong);
    assert_eq!(split(b"abcde\x1e", 0), Split::TooLong);
    assert_eq!(split(b"abcde\x1e", 5), Split::TooLong);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The payload of the one message that this is.
fn payload(protocol: Protocol, message: &Bytes) -> &[u8] {
    match split(protocol, message, 0, usize::MAX) {
        Split::Whole { start, end, used } if used == message.len() => &message[start..end],
        other => panic!("{other:?}"),
    }
}

/// What a message says, whatever its encoding.
fn plain(message: ClientMessage) -> ClientMessage {
    let json = |data: Data| Data::Json(data.into_json());
    match message {
        ClientMessage::Invocation { invocation_id, target, arguments, stream_ids } => {
            let arguments = arguments.into_iter().map(json).collect();
            ClientMessage::Invocation { invocation_id, target, arguments, stream_ids }
        }
        ClientMessage::StreamItem { invocation_id, item } => {
            ClientMessage::StreamItem { invocation_id, item: json(item) }
        }
        ClientMessage::Completion { invocation_id, outcome: CompletionResult::Value(value) } => {
            ClientMessage::Completion {
                invocation_id,
                outcome: CompletionResult::Value(json(value)),
            }
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read_again(
        name in ".{1,20}",
        argument in value(),
        error in any::<Option<String>>(),
        allow_reconnect: bool,
        number in 0..=i64::MAX as u64,
    ) {
        for protocol in Protocol::ALL {
            let read = |message: &Bytes| parse(protocol, payload(protocol, message)).map(plain);
            let message = invocation(protocol, &name, &argument).unwrap();
            let expected = call(None, &name, vec![argument.clone()], &[]);
            prop_assert_eq!(read(&message), Ok(expected));
            let message = question(protocol, "s1", &name, &argument).unwrap();
            let expected = call(Some("s1"), &name, vec![argument.clone()], &[]);
            prop_assert_eq!(read(&message), Ok(expected));

            let outcome = match &error {
                None => CompletionResult::Value(argument.clone().into()),
                Some(error) => CompletionResult::Error(error.clone()),
            };
            for outcome in [outcome, CompletionResult::Void] {
                let message = completion(protocol, &name, &outcome);
                let expected = ClientMessage::Completion { invocation_id: name.clone(), outcome };
                prop_assert_eq!(read(&message), Ok(expected));
            }
            let item = Data::from(argument.clone());
            let message = stream_item(protocol, &name, &item);
            let expected = ClientMessage::StreamItem { invocation_id: name.clone(), item };
            prop_assert_eq!(read(&message), Ok(expected));

            let message = close(protocol, error.as_deref(), allow_reconnect);
            // JSON does not tell an empty error from none.
            let kept = |error: &String| protocol == Protocol::MessagePack || !error.is_empty();
            let error = error.clone().filter(kept);
            prop_assert_eq!(read(&message), Ok(ClientMessage::Close { error, allow_reconnect }));
            prop_assert_eq!(read(&ping(protocol)), Ok(ClientMessage::Ping));
            let message = acknowledgement(protocol, number);
            prop_assert_eq!(read(&message), Ok(ClientMessage::Ack { sequence_id: number }));
            let message = sequence(protocol, number);
            prop_assert_eq!(read(&message), Ok(ClientMessage::Sequence { sequence_id: number }));
        }
    }

    #[test]
    fn nothing_that_comes_makes_the_readers_panic(
        bytes in prop_oneof![
            vec(any::<u8>(), 0..200),
            r#"\{("(type|target|arguments|error)":("x"|[0-9]|\[\]|null),?){0,4}\}"#
                .prop_map(String::into_bytes),
            // Something like a message of MessagePack: an array, a type, headers.
            (0x90u8..0x98, 0u8..10, vec(prop_oneof![
                Just(0x80u8), Just(0x90u8), Just(0xA1u8), Just(0xC0u8), Just(0xDDu8), any::<u8>(),
            ], 0..60)).prop_map(|(array, kind, rest)| [vec![array, kind], rest].concat()),
        ],
    ) {
        for protocol in Protocol::ALL {
            let _ = parse(protocol, &bytes);
            let _ = split(protocol, &bytes, 0, 100);
        }
    }

    #[test]
    fn lengths_of_messagepack_may_be_cut_anywhere(
        messages in vec(vec(any::<u8>(), 0..300), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|m| framed(m)).collect();
        let mut found = Vec::new();
        let mut buffer = Vec::new();
        let (first, second) = stream.split_at(cut.index(stream.len() + 1));
        for part in [first, second] {
            buffer.extend_from_slice(part);
            while let Split::Whole { start, end, used } =
                split(Protocol::MessagePack, &buffer, 0, 32 * 1024)
            {
                found.push(buffer[start..end].to_vec());
                buffer.drain(..used);
            }
        }
        prop_assert_eq!(found, messages);
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length = message.len();
    while length > 127 {
        bytes.push((length % 128) as u8 + 128);
        length /= 128;
    }
    bytes.push(length as u8);
    [bytes, message.to_vec()].concat()
}

#[test]
fn what_messagepack_says_is_exact() {
    let pack = Protocol::MessagePack;
    let empty_headers = 0x80;
    assert_eq!(ping(pack), Bytes::from_static(&[2, 0x91, 6]));
    let void = [5, 0x94, 3, empty_headers, 0xA1, b'1', 2];
    // Its length counts what follows.
    assert_eq!(
        completion(pack, "1", &CompletionResult::Void),
        Bytes::from([&[6], &void[1..]].concat())
    );
    let call = invocation(pack, "A", &json!({"b": [true]})).unwrap();
    let expected =
        [0x96, 1, empty_headers, 0xC0, 0xA1, b'A', 0x91, 0x81, 0xA1, b'b', 0x91, 0xC3, 0x90];
    assert_eq!(call, Bytes::from([&[expected.len() as u8], &expected[..]].concat()));
    let bytes = Data::Pack(rmpv::Value::Binary(vec![1, 2]));
    let echoed = completion(pack, "1", &CompletionResult::Value(bytes.clone()));
    let expected = ClientMessage::Completion {
        invocation_id: "1".to_owned(),
        outcome: CompletionResult::Value(bytes),
    };
    assert_eq!(parse(pack, payload(pack, &echoed)), Ok(expected), "bytes stay bytes");
    let id = uuid::Uuid::from_u128(7);
    let message = invocation(pack, "A", &id).unwrap();
    let Ok(ClientMessage::Invocation { arguments, .. }) = parse(pack, payload(pack, &message))
    else {
        panic!("no call")
    };
    assert_eq!(arguments, [Data::Pack(id.to_string().into())], "ids are texts");
}

#[test]
fn messagepack_of_older_and_newer_clients_is_read() {
    let read = |bytes: &[u8]| parse(Protocol::MessagePack, bytes);
    // Without stream ids, and with an item from the future.
    let five = [0x95, 1, 0x80, 0xC0, 0xA1, b'A', 0x90];
    assert_eq!(read(&five), Ok(call(None, "A", vec![], &[])));
    let seven =
        [0x97, 1, 0x81, 0xA1, b'h', 0xA1, b'v', 0xA0, 0xA1, b'A', 0x90, 0x91, 0xA1, b's', 9];
    assert_eq!(read(&seven), Ok(call(None, "A", vec![], &["s"])), "an empty id is none");
    assert_eq!(read(&[0x92, 8, 0xCD, 1, 0]), Ok(ClientMessage::Ack { sequence_id: 256 }));
    assert_eq!(read(&[0x92, 42, 0xC0]), Ok(ClientMessage::Unknown));
    let close = ClientMessage::Close { error: None, allow_reconnect: false };
    assert_eq!(read(&[0x92, 7, 0xC0]), Ok(close));
    for (bytes, what) in [
        (&[][..], "Reading a message failed."),
        (&[0xC0], "Reading array length for 'elementCount' failed."),
        (&[0x90], "Reading 'messageType' as Int32 failed."),
        (&[0x91, 0xA1, b'1'], "Reading 'messageType' as Int32 failed."),
        (&[0x91, 1], "Reading map length for 'headers' failed."),
        (&[0x95, 1, 0x80, 0xC0, 0xC0, 0x90], "Reading 'target' as String failed."),
        (&[0x95, 1, 0x80, 0xC0, 0xA1, b'A', 0xC0], "Reading array length for 'arguments' failed."),
        (&[0x94, 3, 0x80, 0xA1, b'1', 9], "Reading 'resultKind' as Int32 failed."),
        // An array that claims four thousand million items.
        (&[0xDD, 0xFF, 0xFF, 0xFF, 0xFF], "Reading a message failed."),
    ] {
        assert_eq!(read(bytes).unwrap_err().to_string(), what, "{bytes:02x?}");
    }
    assert!(read(&[0x91; 500]).is_err(), "nested deeper than anything of ours");
}

#[test]
fn the_length_of_a_messagepack_message_is_limited() {
    let split = |bytes: &[u8]| split(Protocol::MessagePack, bytes, 0, 300);
    assert_eq!(split(&[]), Split::Partial);
    assert_eq!(split(&[0xAC]), Split::Partial);
    assert_eq!(split(&[0xAC, 0x02]), Split::Partial, "300");
    assert_eq!(split(&[0xAD, 0x02]), Split::TooLong, "301");
    assert_eq!(split(&[0xFF, 0xFF, 0xFF, 0xFF, 0x08]), Split::TooLong);
    assert_eq!(split(&[0]), Split::Whole { start: 1, end: 1, used: 1 });
    assert_eq!(split(&[0x81, 0x00, 7]), Split::Whole { start: 2, end: 3, used: 3 });
}

#[test]
fn half_a_surrogate_pair_does_not_end_a_connection() {
    for (sent, read) in [
        (r"a\ud83d", "a\u{FFFD}"),
        (r"\uDE00b", "\u{FFFD}b"),
        (r"\ud83d\ud83d\ude00", "\u{FFFD}😀"),
        (r"\ud83d\n\u00e9", "\u{FFFD}\né"),
        (r"\\ud83d\ud83d", "\\ud83d\u{FFFD}"),
        (r"é\ud83dé", "é\u{FFFD}é"),
    ] {
        let json = format!(r#"{{"type":1,"target":"A","arguments":["{sent}"]}}"#);
        let expected = call(None, "A", vec![json!(read)], &[]);
        assert_eq!(parse(Protocol::Json, json.as_bytes()), Ok(expected), "{sent}");
    }
    for broken in [r#"{"type":6,"x":"\ud83"#, "{\"type\":6\\", r#"{"type":6,"x":"\u+123"}"#] {
        assert_eq!(parse(Protocol::Json, broken.as_bytes()), Err(ParseError::Json), "{broken}");
    }
    // The JavaScript client writes it in MessagePack as UTF-8 would be written.
    let half = [0x95, 1, 0x80, 0xC0, 0xA1, b'A', 0x91, 0x91, 0xA4, b'a', 0xED, 0xA0, 0xBD];
    let Ok(ClientMessage::Invocation { arguments, .. }) = parse(Protocol::MessagePack, &half)
    else {
        panic!("no call");
    };
    let read: Vec<_> = arguments.into_iter().map(Data::into_json).collect();
    assert_eq!(read, [json!(["a\u{FFFD}\u{FFFD}\u{FFFD}"])]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_call_of_parts_is_the_call_of_the_whole(texts in vec(".{0,300}", 0..20)) {
        let values: Vec<Value> = texts.iter().map(|text| json!({ "content": text })).collect();
        for protocol in Protocol::ALL {
            let parts: Vec<Vec<u8>> =
                values.iter().map(|value| part(protocol, value).unwrap()).collect();
            let listed = call_with_list(protocol, "Page", &parts);
            prop_assert_eq!(listed, invocation(protocol, "Page", &values).unwrap());
            for (value, part) in values.iter().zip(&parts) {
                let one = call_with(protocol, "One", part);
                prop_assert_eq!(one, invocation(protocol, "One", value).unwrap());
            }
            for text in &texts {
                let written = part(protocol, text).unwrap().len();
                let length = text_len(protocol, text);
                prop_assert!(written <= length && length <= written + 4, "{written} {length}");
            }
        }
    }
}
