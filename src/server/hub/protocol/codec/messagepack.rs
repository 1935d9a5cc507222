//! MessagePack messages: the length as a variable-length number, then one array.
//!
//! Items after the known ones are ignored, and a last item that older clients omit may be absent. Names and
//! shapes of payloads are those of JSON.

use bytes::Bytes;
use rmp::encode;
use rmpv::Value;
use serde::Serialize;

use super::{ClientMessage, CompletionResult, Data, EncodeError, MessageHead, ParseError, Split};

/// The JSON reader has the same limit.
const MAX_DEPTH: usize = 128;
/// Of 7 bits each.
const MAX_PREFIX_LEN: usize = 5;

/// The result kinds of a completion.
const ERROR: u64 = 1;
const VOID: u64 = 2;
const RESULT: u64 = 3;

pub(super) fn split(bytes: &[u8], max: usize) -> Split {
    let mut length = 0_usize;
    for (at, byte) in bytes.iter().take(MAX_PREFIX_LEN).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        // With the fifth byte above 7 it would be 2 GB or more, past any limit.
        if at + 1 == MAX_PREFIX_LEN && *byte > 7 || length > max {
            return Split::TooLong;
        }
        if byte & 0x80 == 0 {
            let start = at + 1;
            let end = start + length;
            return if bytes.len() < end {
                Split::Partial
            } else {
                Split::Whole { start, end, used: end }
            };
        }
    }
    Split::Partial
}

/// The length of the first message with its frame; `None` while its prefix is incomplete.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0_usize;
    for (at, byte) in bytes.iter().take(MAX_PREFIX_LEN).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 || at + 1 == MAX_PREFIX_LEN {
            return Some(at + 1 + length);
        }
    }
    None
}

/// What the beginning of a message reveals, from its prefix on.
pub(super) fn head(bytes: &[u8]) -> MessageHead {
    let prefix = bytes.iter().take(MAX_PREFIX_LEN).position(|byte| byte & 0x80 == 0);
    let mut rest = prefix.and_then(|at| bytes.get(at + 1..)).unwrap_or_default();
    let array = match rest.first() {
        Some(0x90..=0x9F) => 1,
        Some(0xDC) => 3,
        Some(0xDD) => 5,
        _ => return MessageHead::default(),
    };
    rest = rest.get(array..).unwrap_or_default();
    let mut next = || rmpv::decode::read_value_with_max_depth(&mut rest, MAX_DEPTH).ok();
    let text = |value: Option<Value>| value?.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let kind = next().and_then(|kind| kind.as_u64());
    let _headers = next();
    MessageHead { kind, invocation_id: text(next()), target: text(next()) }
}

pub(super) fn parse(payload: &[u8]) -> Result<ClientMessage, ParseError> {
    let mut rest = payload;
    let message = rmpv::decode::read_value_with_max_depth(&mut rest, MAX_DEPTH)
        .map_err(|_| ParseError::MessagePack("a message"))?;
    let Value::Array(items) = message else {
        return Err(ParseError::MessagePack("array length for 'elementCount'"));
    };
    let mut items = Items(items.into_iter());
    let kind = items.next("'messageType' as Int32")?;
    let kind = kind.as_i64().ok_or(ParseError::MessagePack("'messageType' as Int32"))?;
    Ok(match kind {
        1 => {
            items.headers()?;
            ClientMessage::Invocation {
                invocation_id: items.text("'invocationId' as String")?.filter(|id| !id.is_empty()),
                target: items.required_text("'target' as String")?,
                arguments: items.arguments()?,
                stream_ids: items.stream_ids()?,
            }
        }
        2 => {
            items.headers()?;
            ClientMessage::StreamItem {
                invocation_id: items.id()?,
                item: data(items.next("'item'")?),
            }
        }
        3 => {
            items.headers()?;
            let invocation_id = items.id()?;
            let kind = items.next("'resultKind' as Int32")?.as_u64();
            let outcome = match kind {
                Some(ERROR) => CompletionResult::Error(items.required_text("'error' as String")?),
                Some(VOID) => CompletionResult::Void,
                Some(RESULT) => CompletionResult::Value(data(items.next("'result'")?)),
                _ => return Err(ParseError::MessagePack("'resultKind' as Int32")),
            };
            ClientMessage::Completion { invocation_id, outcome }
        }
        4 => {
            items.headers()?;
            ClientMessage::StreamInvocation {
                invocation_id: items.id()?,
                target: items.required_text("'target' as String")?,
                arguments: items.arguments()?,
                stream_ids: items.stream_ids()?,
            }
        }
        5 => {
            items.headers()?;
            ClientMessage::CancelInvocation { invocation_id: items.id()? }
        }
        6 => ClientMessage::Ping,
        7 => ClientMessage::Close {
            error: items.text("'error' as String")?,
            allow_reconnect: items.0.next().and_then(|flag| flag.as_bool()).unwrap_or(false),
        },
        8 => ClientMessage::Ack { sequence_id: items.sequence()? },
        9 => ClientMessage::Sequence { sequence_id: items.sequence()? },
        _ => ClientMessage::Unknown,
    })
}

/// The items of a message, in order.
struct Items(std::vec::IntoIter<Value>);

impl Items {
    fn next(&mut self, what: &'static str) -> Result<Value, ParseError> {
        self.0.next().ok_or(ParseError::MessagePack(what))
    }

    /// Skipped; some clients send nil for no headers.
    fn headers(&mut self) -> Result<(), ParseError> {
        match self.next("map length for 'headers'")? {
            Value::Map(_) | Value::Nil => Ok(()),
            _ => Err(ParseError::MessagePack("map length for 'headers'")),
        }
    }

    fn text(&mut self, what: &'static str) -> Result<Option<String>, ParseError> {
        text(self.next(what)?, what)
    }

    fn required_text(&mut self, what: &'static str) -> Result<String, ParseError> {
        self.text(what)?.ok_or(ParseError::MessagePack(what))
    }

    fn id(&mut self) -> Result<String, ParseError> {
        let what = "'invocationId' as String";
        self.text(what)?.filter(|id| !id.is_empty()).ok_or(ParseError::MessagePack(what))
    }

    fn arguments(&mut self) -> Result<Vec<Data>, ParseError> {
        match self.next("array length for 'arguments'")? {
            Value::Array(items) => Ok(items.into_iter().map(data).collect()),
            _ => Err(ParseError::MessagePack("array length for 'arguments'")),
        }
    }

    fn stream_ids(&mut self) -> Result<Vec<String>, ParseError> {
        let what = "array length for 'streamIds'";
        match self.0.next() {
            None | Some(Value::Nil) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids
                .into_iter()
                .map(|id| text(id, what)?.ok_or(ParseError::MessagePack(what)))
                .collect(),
            Some(_) => Err(ParseError::MessagePack(what)),
        }
    }

    fn sequence(&mut self) -> Result<u64, ParseError> {
        let what = "'sequenceId' as Int64";
        self.next(what)?.as_u64().ok_or(ParseError::MessagePack(what))
    }
}

/// Replaces invalid UTF-8 by U+FFFD: the JavaScript client writes half a surrogate pair as it is, and the rest
/// of the text must not be lost.
fn data(value: Value) -> Data {
    Data::Pack(replace_invalid_utf8(value))
}

fn replace_invalid_utf8(value: Value) -> Value {
    match value {
        Value::String(text) if !text.is_str() => {
            String::from_utf8_lossy(text.as_bytes()).into_owned().into()
        }
        Value::Array(items) => Value::Array(items.into_iter().map(replace_invalid_utf8).collect()),
        Value::Map(entries) => {
            let entries = entries
                .into_iter()
                .map(|(key, value)| (replace_invalid_utf8(key), replace_invalid_utf8(value)));
            Value::Map(entries.collect())
        }
        other => other,
    }
}

fn text(value: Value, what: &'static str) -> Result<Option<String>, ParseError> {
    match value {
        Value::Nil => Ok(None),
        Value::String(text) => text.into_str().map(Some).ok_or(ParseError::MessagePack(what)),
        _ => Err(ParseError::MessagePack(what)),
    }
}

pub(super) fn invocation<T: Serialize>(
    id: Option<&str>,
    target: &str,
    argument: &T,
) -> Result<Bytes, EncodeError> {
    let mut message = begin(6, 1, true);
    match id {
        Some(id) => put_text(&mut message, id),
        None => put_nil(&mut message),
    }
    put_text(&mut message, target);
    put_array(&mut message, 1);
    put(&mut message, argument)?;
    put_array(&mut message, 0);
    Ok(framed(&message))
}

/// A call with an encoded argument: one part, or a list of this many.
pub(super) fn call<'a>(
    target: &str,
    list: Option<usize>,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Bytes {
    let mut message = begin(6, 1, true);
    put_nil(&mut message);
    put_text(&mut message, target);
    put_array(&mut message, 1);
    if let Some(items) = list {
        put_array(&mut message, u32::try_from(items).unwrap_or(u32::MAX));
    }
    parts.into_iter().for_each(|part| message.extend_from_slice(part));
    put_array(&mut message, 0);
    framed(&message)
}

pub(super) fn part<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut written = Vec::new();
    put(&mut written, value)?;
    Ok(written)
}

pub(super) fn stream_item(id: &str, item: &Data) -> Bytes {
    let mut message = begin(4, 2, true);
    put_text(&mut message, id);
    put_data(&mut message, item);
    framed(&message)
}

pub(super) fn completion(id: &str, outcome: &CompletionResult) -> Bytes {
    let items = if matches!(outcome, CompletionResult::Void) { 4 } else { 5 };
    let mut message = begin(items, 3, true);
    put_text(&mut message, id);
    match outcome {
        CompletionResult::Error(error) => {
            put_number(&mut message, ERROR);
            put_text(&mut message, error);
        }
        CompletionResult::Value(value) => {
            put_number(&mut message, RESULT);
            put_data(&mut message, value);
        }
        CompletionResult::Void => put_number(&mut message, VOID),
    }
    framed(&message)
}

pub(super) fn ping() -> Bytes {
    Bytes::from_static(&[2, 0x91, 6])
}

pub(super) fn close(error: Option<&str>, allow_reconnect: bool) -> Bytes {
    let mut message = begin(3, 7, false);
    match error {
        Some(error) => put_text(&mut message, error),
        None => put_nil(&mut message),
    }
    infallible(encode::write_bool(&mut message, allow_reconnect));
    framed(&message)
}

pub(super) fn numbered(kind: u8, sequence_id: u64) -> Bytes {
    let mut message = begin(2, kind, false);
    put_number(&mut message, sequence_id);
    framed(&message)
}

/// Headers are a map and never nil: the JavaScript client requires it.
fn begin(items: u32, kind: u8, headers: bool) -> Vec<u8> {
    let mut message = Vec::with_capacity(64);
    put_array(&mut message, items);
    put_number(&mut message, u64::from(kind));
    if headers {
        infallible(encode::write_map_len(&mut message, 0).map(|_| ()));
    }
    message
}

fn put_text(message: &mut Vec<u8>, text: &str) {
    infallible(encode::write_str(message, text));
}

fn put_nil(message: &mut Vec<u8>) {
    infallible(encode::write_nil(message));
}

fn put_array(message: &mut Vec<u8>, length: u32) {
    infallible(encode::write_array_len(message, length).map(|_| ()));
}

fn put_number(message: &mut Vec<u8>, number: u64) {
    infallible(encode::write_uint(message, number).map(|_| ()));
}

/// Structs as maps with field names, ids and times as strings: the shape of the JSON encoding.
fn put<T: Serialize>(message: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
    let mut serializer =
        rmp_serde::Serializer::new(message).with_struct_map().with_human_readable();
    Ok(value.serialize(&mut serializer)?)
}

fn put_data(message: &mut Vec<u8>, data: &Data) {
    let length = message.len();
    let written = match data {
        Data::Json(value) => put(message, value).is_ok(),
        Data::Pack(value) => rmpv::encode::write_value(message, value).is_ok(),
    };
    if !written {
        message.truncate(length);
        put_nil(message);
    }
}

/// Writing to memory cannot fail.
fn infallible<E>(_: Result<(), E>) {}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(message.len() + MAX_PREFIX_LEN);
    let mut length = message.len();
    while length > 0x7F {
        bytes.push((length & 0x7F) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(message);
    bytes.into()
}
