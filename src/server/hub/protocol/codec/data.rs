//! A value from a client or for a client, in the encoding of its connection.
//!
//! It stays in that encoding because MessagePack has binary data and timestamps that JSON lacks. Methods
//! read it as JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Received as JSON, or made here.
    Json(Value),
    Pack(rmpv::Value),
}

impl Data {
    /// Binary data in base64, timestamps in RFC 3339, keys as text.
    pub fn into_json(self) -> Value {
        match self {
            Data::Json(value) => value,
            Data::Pack(value) => json(value),
        }
    }
}

impl From<Value> for Data {
    fn from(value: Value) -> Self {
        Data::Json(value)
    }
}

/// As JSON; the MessagePack codec writes MessagePack values itself.
impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Data::Json(value) => value.serialize(serializer),
            Data::Pack(value) => json(value.clone()).serialize(serializer),
        }
    }
}

fn json(value: rmpv::Value) -> Value {
    match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(flag) => Value::Bool(flag),
        rmpv::Value::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => Value::Null,
        },
        rmpv::Value::F32(number) => f64::from(number).into(),
        rmpv::Value::F64(number) => number.into(),
        rmpv::Value::String(text) => text_of(text).into(),
        rmpv::Value::Binary(bytes) => STANDARD.encode(bytes).into(),
        rmpv::Value::Array(items) => items.into_iter().map(json).collect(),
        rmpv::Value::Map(entries) => Value::Object(
            entries.into_iter().map(|(key, value)| (key_of(key), json(value))).collect(),
        ),
        rmpv::Value::Ext(kind, bytes) => match timestamp(kind, &bytes) {
            Some(time) => time.format(&Rfc3339).map_or(Value::Null, Value::String),
            None => STANDARD.encode(bytes).into(),
        },
    }
}

fn text_of(text: rmpv::Utf8String) -> String {
    match text.into_str() {
        Some(text) => text,
        None => char::REPLACEMENT_CHARACTER.to_string(),
    }
}

fn key_of(key: rmpv::Value) -> String {
    match json(key) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// The timestamp extension (MessagePack specification, type -1): seconds in 32 bits, nanoseconds and
/// seconds in 30 and 34, or nanoseconds in 32 and signed seconds in 64.
fn timestamp(kind: i8, bytes: &[u8]) -> Option<OffsetDateTime> {
    if kind != -1 {
        return None;
    }
    let (seconds, nanoseconds) = match bytes.len() {
        4 => (i64::from(u32::from_be_bytes(bytes.try_into().ok()?)), 0),
        8 => {
            let both = u64::from_be_bytes(bytes.try_into().ok()?);
            (i64::try_from(both & 0x3_FFFF_FFFF).ok()?, both >> 34)
        }
        12 => {
            let (nanoseconds, seconds) = bytes.split_at(4);
            let nanoseconds = u32::from_be_bytes(nanoseconds.try_into().ok()?);
            (i64::from_be_bytes(seconds.try_into().ok()?), u64::from(nanoseconds))
        }
        _ => return None,
    };
    let nanoseconds = i128::from(nanoseconds).min(999_999_999);
    let whole = i128::from(seconds) * 1_000_000_000 + nanoseconds;
    OffsetDateTime::from_unix_timestamp_nanos(whole).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_has_not_is_written_as_people_write_it() {
        let stamp = |bytes: &[u8]| Data::Pack(rmpv::Value::Ext(-1, bytes.to_vec())).into_json();
        assert_eq!(stamp(&[0, 0, 0, 1]), json!("1970-01-01T00:00:01Z"));
        assert_eq!(stamp(&[0, 0, 0, 4, 0, 0, 0, 1]), json!("1970-01-01T00:00:01.000000001Z"));
        let negative = [&[0, 0, 0, 5][..], &(-1i64).to_be_bytes()].concat();
        assert_eq!(stamp(&negative), json!("1969-12-31T23:59:59.000000005Z"));
        assert_eq!(stamp(&[1]), json!("AQ=="));
        assert_eq!(stamp(&[0xFF; 12]), json!("1969-12-31T23:59:59.999999999Z"));
        assert_eq!(Data::Pack(rmpv::Value::Binary(vec![1, 2])).into_json(), json!("AQI="));
        assert_eq!(Data::Pack(rmpv::Value::F64(f64::NAN)).into_json(), Value::Null);
        let map = rmpv::Value::Map(vec![(1.into(), "a".into()), ("b".into(), rmpv::Value::Nil)]);
        assert_eq!(Data::Pack(map).into_json(), json!({"1": "a", "b": null}));
    }
}
