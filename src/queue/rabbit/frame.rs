//! The frame format: ids and generations of up to 100 messages, as JSON.
//!
//! `{"v":1,"messages":[["0190…",1],…]}`. Two versions of esh3ar may run side by side. A reader ignores fields
//! that it does not know; a field that must not be ignored needs a new `v`, which older readers reject.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::MessageId;

pub const MAX_WAKE_UPS: usize = 100;
/// The only version that is written and read.
const VERSION: u64 = 1;
/// A full frame has under 6000 bytes.
const MAX_FRAME_LEN: usize = 64 * 1024;

/// Names a message that is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WakeUp {
    pub id: MessageId,
    /// The message's generation then. If it has another one now, the wake-up is outdated.
    pub generation: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableFrame {
    #[error("it has {0} bytes; a frame has at most {MAX_FRAME_LEN}")]
    TooLong(usize),
    #[error("it is no JSON object")]
    NoObject,
    #[error("it names no version")]
    NoVersion,
    /// From another version of esh3ar.
    #[error("its version is {0}; this esh3ar reads {VERSION}")]
    Version(u64),
    #[error("its messages cannot be read")]
    Messages,
    #[error("it names {0} messages; a frame has at most {MAX_WAKE_UPS}")]
    TooManyMessages(usize),
}

/// Writes a frame of at most [`MAX_WAKE_UPS`].
pub fn write(wake_ups: &[WakeUp]) -> Vec<u8> {
    let mut text = String::with_capacity(32 + wake_ups.len() * 56);
    let _ = write!(text, r#"{{"v":{VERSION},"messages":["#);
    for (n, wake_up) in wake_ups.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(text, r#"{comma}["{}",{}]"#, wake_up.id, wake_up.generation);
    }
    text.push_str("]}");
    text.into_bytes()
}

/// # Errors
/// Why it cannot be read.
pub fn read(body: &[u8]) -> Result<Vec<WakeUp>, UnreadableFrame> {
    if body.len() > MAX_FRAME_LEN {
        return Err(UnreadableFrame::TooLong(body.len()));
    }
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_slice(body).map_err(|_| UnreadableFrame::NoObject)?;
    let version =
        fields.get("v").and_then(|v| v.get().parse().ok()).ok_or(UnreadableFrame::NoVersion)?;
    if version != VERSION {
        return Err(UnreadableFrame::Version(version));
    }
    let messages: Vec<(Uuid, i32)> = fields
        .get("messages")
        .and_then(|messages| serde_json::from_str(messages.get()).ok())
        .ok_or(UnreadableFrame::Messages)?;
    if messages.len() > MAX_WAKE_UPS {
        return Err(UnreadableFrame::TooManyMessages(messages.len()));
    }
    let wake_up = |(id, generation)| WakeUp { id: MessageId(id), generation };
    Ok(messages.into_iter().map(wake_up).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wake_up() -> impl Strategy<Value = WakeUp> {
        (any::<u128>(), any::<i32>())
            .prop_map(|(id, generation)| WakeUp { id: MessageId(Uuid::from_u128(id)), generation })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_written_is_read(wake_ups in prop::collection::vec(wake_up(), 0..=MAX_WAKE_UPS)) {
            let body = write(&wake_ups);
            prop_assert!(body.len() < 6000);
            prop_assert_eq!(read(&body), Ok(wake_ups));
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&body);
        }

        /// Damaged frames reach more branches than random bytes do.
        #[test]
        fn a_damaged_frame_is_read_or_refused(
            wake_ups in prop::collection::vec(wake_up(), 0..4),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut body = write(&wake_ups);
            let work_queue = at.index(body.len());
            body[work_queue] = byte;
            let _ = read(&body[..cut.index(body.len() + 1)]);
        }
    }

    #[test]
    fn unknown_fields_are_passed_over_and_unknown_versions_are_not() {
        let id = "0190a0a0-0000-7000-8000-000000000001";
        let newer = format!(r#"{{"sent":{{"by":"n2"}},"v":1,"messages":[["{id}",2]],"x":[1,2]}}"#);
        let read_one = read(newer.as_bytes()).unwrap();
        assert_eq!(read_one, [WakeUp { id: id.parse().unwrap(), generation: 2 }]);
        assert_eq!(read(br#"{"v":2,"messages":[]}"#), Err(UnreadableFrame::Version(2)));
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let refused = |body: &str| read(body.as_bytes()).unwrap_err();
        assert_eq!(refused("not json"), UnreadableFrame::NoObject);
        assert_eq!(refused(""), UnreadableFrame::NoObject);
        assert_eq!(refused("[]"), UnreadableFrame::NoObject);
        assert_eq!(refused("{}"), UnreadableFrame::NoVersion);
        assert_eq!(refused(r#"{"v":"1"}"#), UnreadableFrame::NoVersion);
        assert_eq!(refused(r#"{"v":-1}"#), UnreadableFrame::NoVersion);
        assert_eq!(refused(r#"{"v":1}"#), UnreadableFrame::Messages);
        assert_eq!(refused(r#"{"v":1,"messages":[["x",1]]}"#), UnreadableFrame::Messages);
        assert_eq!(refused(r#"{"v":1,"messages":[7]}"#), UnreadableFrame::Messages);
        let wake_up = WakeUp { id: MessageId(Uuid::nil()), generation: 1 };
        assert_eq!(
            read(&write(&[wake_up; MAX_WAKE_UPS + 1])),
            Err(UnreadableFrame::TooManyMessages(MAX_WAKE_UPS + 1))
        );
        assert_eq!(
            read(&vec![b' '; MAX_FRAME_LEN + 1]),
            Err(UnreadableFrame::TooLong(MAX_FRAME_LEN + 1))
        );
    }
}
