use proptest::{collection::vec, prelude::*};
use serde_json::{json, value::RawValue};

use super::*;

fn read(text: &str) -> Result<Incoming, String> {
    parse(Protocol::Json, text.as_bytes()).map_err(|error| error.to_string())
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn call(id: Option<&str>, target: &str, arguments: Vec<Value>, streams: &[&str]) -> Incoming {
    Incoming::Invocation {
        invocation_id: id.map(str::to_owned),
        target: target.to_owned(),
        arguments,
        stream_ids: streams.iter().map(|id| (*id).to_owned()).collect(),
    }
}

#[test]
fn messages_are_read_with_their_properties_in_any_order() {
    let id = || "7".to_owned();
    let completed = |outcome| Incoming::Completion { invocation_id: "7".to_owned(), outcome };
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
        // Names of properties have case.
        (
            r#"{"type":1,"target":"A","arguments":[],"InvocationId":"7","Type":4}"#,
            call(None, "A", vec![], &[]),
        ),
        (
            r#"{"item":null,"invocationId":"7","type":2}"#,
            Incoming::StreamItem { invocation_id: id(), item: Value::Null },
        ),
        (r#"{"type":3,"invocationId":"7"}"#, completed(Outcome::Void)),
        (r#"{"type":3,"invocationId":"7","result":null}"#, completed(Outcome::Value(Value::Null))),
        (r#"{"type":3,"result":[1],"invocationId":"7"}"#, completed(Outcome::Value(json!([1])))),
        (r#"{"type":3,"invocationId":"7","error":""}"#, completed(Outcome::Error(String::new()))),
        (
            r#"{"type":4,"invocationId":"7","target":"S","arguments":[2],"streamIds":["9"]}"#,
            Incoming::StreamInvocation {
                invocation_id: id(),
                target: "S".to_owned(),
                arguments: vec![json!(2)],
                stream_ids: vec!["9".to_owned()],
            },
        ),
        (r#"{"type":5,"invocationId":"7"}"#, Incoming::CancelInvocation { invocation_id: id() }),
        (r#"{"type":6}"#, Incoming::Ping),
        (r#"{"type":7}"#, Incoming::Close { error: None, allow_reconnect: false }),
        (
            r#"{"type":7,"error":"e","allowReconnect":true}"#,
            Incoming::Close { error: Some("e".to_owned()), allow_reconnect: true },
        ),
        (r#"{"type":8,"sequenceId":3}"#, Incoming::Ack { sequence_id: 3 }),
        (r#"{"type":9,"sequenceId":4}"#, Incoming::Sequence { sequence_id: 4 }),
        // Whatever a message of the future carries, it is not judged.
        (r#"{"type":10,"target":5,"arguments":{}}"#, Incoming::Unknown),
        (r#"{"type":0}"#, Incoming::Unknown),
        (r#"{"type":-1}"#, Incoming::Unknown),
        (r#"{"type":18446744073709551615}"#, Incoming::Unknown),
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
    assert_eq!(read(&deep("x")), Ok(Incoming::Ping));
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
            completion(json, "1", &Outcome::Void),
            "{\"type\":3,\"invocationId\":\"1\",\"result\":null}\u{1e}",
        ),
        (
            completion(json, "\"", &Outcome::Value(json!({"a": [1]}))),
            "{\"type\":3,\"invocationId\":\"\\\"\",\"result\":{\"a\":[1]}}\u{1e}",
        ),
        (
            completion(json, "1", &Outcome::Error("no".to_owned())),
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
    assert_eq!(split(b"\x1e", 0), Split::Whole { payload: 0, used: 1 });
    assert_eq!(split(b"ab\x1ecd\x1e", 2), Split::Whole { payload: 2, used: 3 });
    assert_eq!(split(b"abcd\x1e", 4), Split::Whole { payload: 4, used: 5 });
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

fn payload(record: &Bytes) -> &[u8] {
    let whole = split(Protocol::Json, record, 0, usize::MAX);
    let payload = record.len() - 1;
    assert_eq!(whole, Split::Whole { payload, used: record.len() });
    record.get(..payload).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read_again(
        name in ".{1,20}",
        argument in value(),
        error in any::<Option<String>>(),
        allow_reconnect: bool,
    ) {
        let json = Protocol::Json;
        let record = invocation(json, &name, &argument).unwrap();
        let expected = call(None, &name, vec![argument.clone()], &[]);
        prop_assert_eq!(parse(json, payload(&record)), Ok(expected));

        let outcome = match &error {
            None => Outcome::Value(argument),
            Some(error) => Outcome::Error(error.clone()),
        };
        let record = completion(json, &name, &outcome);
        let expected = Incoming::Completion { invocation_id: name, outcome };
        prop_assert_eq!(parse(json, payload(&record)), Ok(expected));

        let record = close(json, error.as_deref(), allow_reconnect);
        let error = error.filter(|error| !error.is_empty());
        prop_assert_eq!(parse(json, payload(&record)), Ok(Incoming::Close { error, allow_reconnect }));
    }

    #[test]
    fn nothing_that_comes_makes_the_reader_panic(
        bytes in prop_oneof![
            vec(any::<u8>(), 0..200),
            r#"\{("(type|target|arguments|error)":("x"|[0-9]|\[\]|null),?){0,4}\}"#
                .prop_map(String::into_bytes),
        ],
    ) {
        let _ = parse(Protocol::Json, &bytes);
    }
}
