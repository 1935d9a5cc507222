//! Oversized messages: skipped without being buffered, except for what an error answer needs.

use super::{MessageHead, Protocol, RECORD_END, messagepack};

/// Past this length the end of a message is not waited for.
const MAX_SKIPPED_LEN: usize = 4 * 1024 * 1024;
/// How much of the beginning of a MessagePack message is kept.
const MAX_HEAD_LEN: usize = 4096;
/// The longest name that is kept, in encoded form.
const MAX_NAME_LEN: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipProgress {
    /// All bytes were skipped; the message continues.
    More,
    /// The message ends after `used` bytes.
    Whole { used: usize, head: MessageHead },
    /// Past [`MAX_SKIPPED_LEN`].
    TooLong,
}

/// A message that is being skipped.
#[derive(Debug)]
pub struct OversizedMessage {
    scan: Scan,
    skipped: usize,
}

#[derive(Debug)]
enum Scan {
    Json(JsonHeadScanner),
    MessagePack { head: Vec<u8>, length: Option<usize> },
}

impl OversizedMessage {
    /// For a message from its first byte on, with its framing.
    pub fn new(protocol: Protocol) -> OversizedMessage {
        let scan = match protocol {
            Protocol::Json => Scan::Json(JsonHeadScanner::default()),
            Protocol::MessagePack => Scan::MessagePack { head: Vec::new(), length: None },
        };
        OversizedMessage { scan, skipped: 0 }
    }

    pub fn take(&mut self, bytes: &[u8]) -> SkipProgress {
        let before = self.skipped;
        self.skipped += bytes.len();
        let whole = match &mut self.scan {
            Scan::Json(scanner) => {
                let end = bytes.iter().position(|byte| *byte == RECORD_END);
                scanner.take(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default());
                end.map(|end| (end + 1, scanner.head.clone()))
            }
            Scan::MessagePack { head, length } => {
                let room = MAX_HEAD_LEN.saturating_sub(head.len()).min(bytes.len());
                head.extend_from_slice(bytes.get(..room).unwrap_or_default());
                if length.is_none() {
                    *length = messagepack::length(head);
                }
                if length.is_some_and(|length| length > MAX_SKIPPED_LEN) {
                    return SkipProgress::TooLong;
                }
                let end = length.filter(|length| self.skipped >= *length);
                end.map(|end| (end - before, messagepack::head(head)))
            }
        };
        match whole {
            Some((used, head)) => SkipProgress::Whole { used, head },
            None if self.skipped > MAX_SKIPPED_LEN => SkipProgress::TooLong,
            None => SkipProgress::More,
        }
    }
}

/// Reads only the names and strings of the outermost object.
#[derive(Debug, Default)]
struct JsonHeadScanner {
    head: MessageHead,
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The last string of the outermost object, with its quotation marks.
    text: Vec<u8>,
    /// The property whose value follows.
    name: Option<String>,
}

impl JsonHeadScanner {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.in_string {
                self.take_in_string(*byte);
                continue;
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    self.text.clear();
                    self.keep(b'"');
                }
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b':' if self.depth == 1 => self.name = self.decoded(),
                b',' if self.depth == 1 => self.name = None,
                b'0'..=b'9' if self.depth == 1 && self.name.as_deref() == Some("type") => {
                    let digit = u64::from(byte - b'0');
                    let so_far = self.head.kind.unwrap_or_default();
                    self.head.kind = Some(so_far.saturating_mul(10).saturating_add(digit));
                }
                _ => {}
            }
        }
    }

    fn take_in_string(&mut self, byte: u8) {
        self.keep(byte);
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
            match self.name.as_deref().filter(|_| self.depth == 1) {
                Some("invocationId") => self.head.invocation_id = self.decoded(),
                Some("target") => self.head.target = self.decoded(),
                _ => {}
            }
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.text.len() <= MAX_NAME_LEN {
            self.text.push(byte);
        }
    }

    /// A string that was cut has no end quote, and is not valid JSON.
    fn decoded(&self) -> Option<String> {
        serde_json::from_slice(&self.text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: u64, id: Option<&str>, target: &str) -> MessageHead {
        MessageHead {
            kind: Some(kind),
            invocation_id: id.map(str::to_owned),
            target: Some(target.to_owned()),
        }
    }

    /// For every way to cut the input.
    fn scanned(protocol: Protocol, bytes: &[u8]) -> Vec<(usize, MessageHead)> {
        [1, 7, bytes.len()]
            .map(|size| {
                let mut excess = OversizedMessage::new(protocol);
                let mut before = 0;
                for piece in bytes.chunks(size) {
                    if let SkipProgress::Whole { used, head } = excess.take(piece) {
                        return (before + used, head);
                    }
                    before += piece.len();
                }
                panic!("no end");
            })
            .to_vec()
    }

    #[test]
    fn json_tells_what_an_answer_needs_wherever_it_stands() {
        let long = "\\\"}],{[:\\\\".repeat(1000);
        let of_js = format!(
            "{{\"arguments\":[{{\"invocationId\":\"no\",\"type\":9,\"content\":\"{long}\"}}],\
             \"invocationId\":\"4\\u0032\",\"target\":\"Send\\\"Message\",\"type\":1}}\u{1e}rest"
        );
        let expected = (of_js.len() - 4, head(1, Some("42"), "Send\"Message"));
        assert_eq!(scanned(Protocol::Json, of_js.as_bytes()), vec![expected; 3]);
        let of_python = format!(
            " {{ \"type\" : 1 , \"target\" : \"x\" , \"arguments\" : [\"{long}\"] }}\u{1e}"
        );
        assert_eq!(scanned(Protocol::Json, of_python.as_bytes())[0].1, head(1, None, "x"));
        let nonsense = format!("{}\u{1e}", "y".repeat(1000));
        assert_eq!(scanned(Protocol::Json, nonsense.as_bytes())[0].1, MessageHead::default());
        let name = format!("{{\"type\":1,\"target\":\"{}\"}}\u{1e}", "n".repeat(MAX_NAME_LEN * 2));
        assert_eq!(scanned(Protocol::Json, name.as_bytes())[0].1.target, None);
    }

    #[test]
    fn messagepack_tells_it_from_its_beginning() {
        let mut payload = vec![0x96, 1, 0x80, 0xA2, b'4', b'2', 0xA4];
        payload.extend_from_slice(b"Send");
        payload.push(0x91);
        payload.extend_from_slice(&[0xC6, 0, 1, 0, 0]);
        payload.resize(payload.len() + 0x1_0000, 7);
        payload.push(0x90);
        let mut framed = Vec::new();
        let mut length = payload.len();
        while length >= 0x80 {
            framed.push((length & 0x7F) as u8 | 0x80);
            length >>= 7;
        }
        framed.push(length as u8);
        framed.extend_from_slice(&payload);
        let whole = framed.len();
        framed.extend_from_slice(&[2, 0x91, 6]);
        let expected = (whole, head(1, Some("42"), "Send"));
        assert_eq!(scanned(Protocol::MessagePack, &framed), vec![expected; 3]);
    }

    #[test]
    fn what_has_no_end_in_reach_is_not_waited_for() {
        let mut excess = OversizedMessage::new(Protocol::Json);
        let piece = vec![b'y'; MAX_SKIPPED_LEN / 2];
        assert_eq!(excess.take(&piece), SkipProgress::More);
        assert_eq!(excess.take(&piece), SkipProgress::More);
        assert_eq!(excess.take(b"y"), SkipProgress::TooLong);
        let mut excess = OversizedMessage::new(Protocol::MessagePack);
        assert_eq!(excess.take(&[0xFF, 0xFF, 0xFF, 0xFF, 0x07]), SkipProgress::TooLong);
    }
}
