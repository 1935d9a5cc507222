//! What a handler knows of its request.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Readiness, body::BodyStream, budget::Reserved, pages, principal::Principal, reply::Problem,
    route::USUAL,
};
use crate::{
    app::{App, By, Caller, messages::RequestKey, off_loop::off_loop},
    domain::{
        Message, MessageId, Phone,
        nearest::nearest,
        phone::folded,
        text::{excerpt, excerpt_of_fault},
        trace::Cause,
    },
};

/// The usual page of a list, and the largest (interfaces.md, HTTP).
const USUAL_PAGE: usize = 50;
const LARGEST_PAGE: usize = 200;
/// What some programs write before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A request that its route may answer: its principal was admitted, its body is whole or comes in chunks.
pub struct Context {
    /// The appliance.
    pub app: App,
    /// Whether the gateway takes requests.
    pub readiness: Readiness,
    /// Who asks.
    pub principal: Principal,
    /// From which address; none for a command on the server.
    pub peer: Option<IpAddr>,
    /// Whether the route belongs to the existing system's API.
    pub is_existing: bool,
    /// The route as the client wrote it: part of what an idempotency key stands for.
    pub route: String,
    /// The query, undecoded.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; empty when it comes in chunks.
    pub body: Bytes,
    /// The body in chunks, for routes that take it so.
    pub stream: Mutex<Option<BodyStream>>,
    /// When it came.
    pub came: Instant,
    /// What the body holds of the budget.
    pub reserved: Reserved,
    /// How many bytes a page may have.
    pub page_room: usize,
}

/// What travels in a request's extensions.
pub type Shared = Arc<Context>;

impl Context {
    /// The owner of the token.
    ///
    /// # Errors
    /// There is none.
    pub fn caller(&self) -> Result<&Caller, Problem> {
        self.principal.caller()
    }

    /// The principal as an administrator, with the reason that the header `X-Reason` gives, the id of
    /// the request and the address that it came from.
    ///
    /// # Errors
    /// It is none; a reason that is none.
    pub fn administrator(&self) -> Result<By, Problem> {
        let by = self.principal.administrator()?;
        if let Principal::Operator(_) = self.principal {
            return Ok(by);
        }
        let text = |name: &str| {
            let value = self.headers.get(name).map(http::HeaderValue::as_bytes);
            value.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let by = by.because(text("x-reason").as_deref())?;
        Ok(by.in_request(text("x-request-id").as_deref(), self.peer))
    }

    /// The request made these durable; for who follows them.
    pub fn accepted<'a>(&self, messages: impl IntoIterator<Item = &'a Message>) {
        let cause = || Cause::parse(self.headers.get("traceparent")?.to_str().ok()?);
        self.app.delivery.trace_accepted(self.came, cause, messages);
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Problem> {
        let given = self.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media = given.map(|value| value.split(';').next().unwrap_or_default().trim());
        if media.is_some_and(|media| {
            !media.eq_ignore_ascii_case("application/json") && !media.ends_with("+json")
        }) {
            return Err(Problem::new(
                http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send application/json",
            ));
        }
        let read = off_loop(self.body.len(), || serde_json::from_slice(self.document()));
        read.map_err(|error| unreadable(&error))
    }

    /// The body without the byte order mark that some programs write before a text.
    fn document(&self) -> &[u8] {
        self.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.body)
    }

    /// A query parameter, decoded; the last one counts.
    ///
    /// # Errors
    /// When it is not valid UTF-8.
    pub fn parameter(&self, name: &'static str) -> Result<Option<String>, Problem> {
        self.parameter_by(name, decode)
    }

    fn parameter_by(
        &self,
        name: &'static str,
        decode: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<String>, Problem> {
        // Case makes no difference in the existing system.
        let is_named =
            |key: &str| key == name || self.is_existing && key.eq_ignore_ascii_case(name);
        let mut found = None;
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if is_named(key) || decode(key).is_some_and(|key| is_named(&key)) {
                found = Some(decode(value).ok_or_else(|| {
                    Problem::field(name, "invalid_encoding", format!("{name} is not valid UTF-8"))
                })?);
            }
        }
        Ok(found)
    }

    /// The text of a query parameter that is a phone number. A plus sign that is not encoded is one.
    ///
    /// # Errors
    /// When it is not valid UTF-8.
    pub fn phone_text(&self, name: &'static str) -> Result<Option<String>, Problem> {
        self.parameter_by(name, decode_number)
    }

    /// A query parameter that is a phone number, of somebody or only stored as one.
    ///
    /// # Errors
    /// When it is none.
    pub fn phone(&self, name: &'static str) -> Result<Option<Phone>, Problem> {
        let Some(text) = self.phone_text(name)? else { return Ok(None) };
        Ok(Some(self.app.identity.parse_stored_phone(name, &text)?))
    }

    /// The text of a query parameter that is a time. A plus sign that is not encoded stands before the
    /// offset from UTC.
    ///
    /// # Errors
    /// When it is not valid UTF-8.
    pub fn time_text(&self, name: &'static str) -> Result<Option<String>, Problem> {
        self.parameter_by(name, decode_plainly)
    }

    /// A query parameter that is a time.
    ///
    /// # Errors
    /// When it is none.
    pub fn time(&self, name: &'static str) -> Result<Option<OffsetDateTime>, Problem> {
        let Some(text) = self.time_text(name)? else { return Ok(None) };
        read_time(name, &text).map(Some)
    }

    /// A query parameter that is true or false.
    ///
    /// # Errors
    /// When it is neither.
    pub fn flag(&self, name: &'static str) -> Result<Option<bool>, Problem> {
        match self.parameter(name)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Problem::field(name, "unknown", format!("{name} is true or false"))),
        }
    }

    /// Whether a page may be as large as it ever is.
    pub fn has_whole_page(&self) -> bool {
        self.page_room >= pages::LARGEST
    }

    /// The page's size.
    ///
    /// # Errors
    /// When it is no number from 1 to 200.
    pub fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.parameter("limit")? else { return Ok(USUAL_PAGE) };
        text.trim().parse().ok().filter(|n| (1..=LARGEST_PAGE).contains(n)).ok_or_else(|| {
            let message = format!("limit must be a number from 1 to {LARGEST_PAGE}");
            Problem::field("limit", "out_of_range", message)
        })
    }

    /// Where the page begins.
    ///
    /// # Errors
    /// When it is no cursor of ours.
    pub fn after(&self) -> Result<Option<MessageId>, Problem> {
        let Some(text) = self.parameter("after")? else { return Ok(None) };
        parse_cursor(&text).map(Some).ok_or_else(unknown_cursor)
    }

    /// Where the page begins, of a list that may be ordered by time: after a message, and when that was accepted if
    /// it is.
    ///
    /// # Errors
    /// When it is no cursor of ours.
    pub fn after_message(&self) -> Result<Option<(MessageId, Option<OffsetDateTime>)>, Problem> {
        let Some(text) = self.parameter("after")? else { return Ok(None) };
        let by_id = || Some((parse_cursor(&text)?, None));
        let by_time = || parse_timed_cursor(&text).map(|(at, id)| (id, Some(at)));
        by_id().or_else(by_time).map(Some).ok_or_else(unknown_cursor)
    }

    /// Where the page begins, of a list that is ordered by a text.
    ///
    /// # Errors
    /// When it is no cursor of ours.
    pub fn after_text(&self) -> Result<Option<String>, Problem> {
        let Some(text) = self.parameter("after")? else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(&text).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        text.filter(|text| !text.contains('\0')).map(Some).ok_or_else(unknown_cursor)
    }

    /// The idempotency key of the request, bound to its route and body.
    ///
    /// # Errors
    /// When it is empty, too long or has other than visible characters.
    pub fn request_key(&self) -> Result<Option<RequestKey>, Problem> {
        self.request_key_over(|digest| digest.update(&meant(self.document())))
    }

    /// The same for a body that is one list: item by item, because the tree of a large body is larger by far.
    ///
    /// # Errors
    /// As [`Context::request_key`].
    pub fn request_key_of(
        &self,
        name: &str,
        items: &[&RawValue],
    ) -> Result<Option<RequestKey>, Problem> {
        self.request_key_over(|digest| {
            digest.update(format!("{{\"{name}\":[").as_bytes());
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    digest.update(b",");
                }
                let text = item.get().as_bytes();
                digest.update(&if text.len() > USUAL { text.into() } else { meant(text) });
            }
            digest.update(b"]}");
        })
    }

    fn request_key_over(
        &self,
        body: impl Fn(&mut ring::digest::Context),
    ) -> Result<Option<RequestKey>, Problem> {
        let mut values = self.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            let text = "a request has one Idempotency-Key";
            return Err(Problem::field("Idempotency-Key", "invalid_key", text));
        }
        let key = value
            .to_str()
            .ok()
            .map(str::trim)
            .filter(|key| (1..=255).contains(&key.len()))
            .ok_or_else(|| {
            Problem::field(
                "Idempotency-Key",
                "invalid_key",
                "Idempotency-Key must have 1 to 255 visible ASCII characters",
            )
        })?;
        let hash = |body: &dyn Fn(&mut ring::digest::Context)| {
            let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
            digest.update(self.route.as_bytes());
            digest.update(b"\n");
            body(&mut digest);
            let mut hash = [0; 32];
            hash.copy_from_slice(digest.finish().as_ref());
            hash
        };
        let key = key.to_owned();
        let (request_hash, written_hash) =
            off_loop(self.body.len(), || (hash(&body), hash(&|digest| digest.update(&self.body))));
        Ok(Some(RequestKey { key, request_hash, written_hash }))
    }
}

/// What a body of JSON says, in one form: its fields in order, and none that is null, because that is the
/// same as leaving it out.
fn meant(body: &[u8]) -> Cow<'_, [u8]> {
    fn without_nulls(value: Value) -> Value {
        match value {
            // Its fields are sorted by name.
            Value::Object(fields) => Value::Object(
                fields
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, value)| (name, without_nulls(value)))
                    .collect(),
            ),
            Value::Array(items) => items.into_iter().map(without_nulls).collect(),
            other => other,
        }
    }
    match serde_json::from_slice(body) {
        Ok(value) => Cow::Owned(without_nulls(value).to_string().into_bytes()),
        Err(_) => Cow::Borrowed(body),
    }
}

/// What is wrong with a document, with the field that was meant where an unknown one is near to it.
pub fn unreadable(error: &serde_json::Error) -> Problem {
    let told = error.to_string();
    let mut text = excerpt_of_fault(&told).into_owned();
    let code = if error.is_data() && text.starts_with("unknown field") {
        // "unknown field `x`, expected one of `y`, `z`": every other part is a name.
        let mut names = text.split('`').skip(1).step_by(2);
        let near = names.next().and_then(|given| nearest(given, names));
        if let Some(near) = near.map(|near| format!("; did you mean `{near}`?")) {
            text.push_str(&near);
        }
        "unknown_field"
    } else if error.is_data() {
        "invalid_body"
    } else {
        "invalid_json"
    };
    Problem::bad_request(code, text)
}

/// A parameter of the query that an address does not take, with the one that was meant.
pub fn unknown_parameter(query: &str, known: &[&str]) -> Option<Problem> {
    let names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    let unknown = names.filter(|name| !name.is_empty()).find(|name| !known.contains(name))?;
    let name = decode(unknown).unwrap_or_else(|| unknown.to_owned());
    // Encoded, it is another text than ours and the same name.
    if known.contains(&name.as_str()) {
        return None;
    }
    let name = excerpt(&name);
    let told = match (nearest(&name, known.iter().copied()), known) {
        (Some(near), _) => format!("there is no parameter {name} here; did you mean {near}?"),
        (None, []) => format!("there is no parameter {name} here, and no other"),
        (None, known) => {
            format!("there is no parameter {name} here; there are {}", known.join(", "))
        }
    };
    Some(Problem::bad_request("unknown_parameter", told))
}

/// The cursor that continues after a message.
pub fn cursor(id: MessageId) -> String {
    URL_SAFE_NO_PAD.encode(id.0.as_bytes())
}

/// Reads one.
pub fn parse_cursor(text: &str) -> Option<MessageId> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    uuid::Uuid::from_slice(&bytes).ok().map(MessageId)
}

/// The cursor that continues after a message of a list that is ordered by time: that in nanoseconds, and the id.
pub fn timed_cursor(at: OffsetDateTime, id: MessageId) -> String {
    let at = at.unix_timestamp_nanos().to_be_bytes();
    URL_SAFE_NO_PAD.encode([&at[..], &id.0.as_bytes()[..]].concat())
}

fn parse_timed_cursor(text: &str) -> Option<(OffsetDateTime, MessageId)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (at, id) = bytes.split_at_checked(16)?;
    let at = i128::from_be_bytes(at.try_into().ok()?);
    let at = OffsetDateTime::from_unix_timestamp_nanos(at).ok()?;
    Some((at, MessageId(uuid::Uuid::from_slice(id).ok()?)))
}

/// The cursor that continues after a text.
pub fn text_cursor(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn unknown_cursor() -> Problem {
    Problem::field("after", "invalid_cursor", "after is not a cursor of this list")
}

/// Reads a time as requests give it.
///
/// # Errors
/// When it is none; `name` is where it was given.
pub fn read_time(name: &'static str, text: &str) -> Result<OffsetDateTime, Problem> {
    OffsetDateTime::parse(text.trim(), &Rfc3339).map_err(|_| {
        let message = format!("{name} is a time such as 2026-01-31T12:00:00Z");
        Problem::field(name, "invalid_time", message)
    })
}

/// Undoes percent-encoding; a plus is itself.
pub fn decode_plainly(text: &str) -> Option<String> {
    decode(&text.replace('+', "%2B"))
}

/// Undoes the encoding of a phone number. A plus before its first digit, if that is not 0, is one that
/// was not encoded: read as a space, the number would be another country's. One between digits is a space.
fn decode_number(text: &str) -> Option<String> {
    let spaced = decode(text)?;
    let (before, after) = text.split_once('+').unwrap_or((text, ""));
    let stands_first = !decode(before)?.contains(char::is_alphanumeric);
    let spaced_after = folded(&decode(after)?);
    let first = spaced_after.chars().find(|c| c.is_alphanumeric());
    let is_plus = stands_first && first.is_some_and(|c| c != '0') && !folded(&spaced).contains('+');
    Some(if is_plus { format!("+{}", spaced.trim()) } else { spaced })
}

/// Undoes percent-encoding and `+`; `None` when the result is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match (hex(0), hex(1)) {
                (Some(high), Some(low)) => {
                    bytes.push((high * 16 + low) as u8);
                    rest = tail.get(2..).unwrap_or_default();
                }
                _ => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_that_is_not_encoded_begins_a_number() {
        for text in [
            "+967771234567",
            "%2B967771234567",
            "+967+77+1234567",
            "+967%2077-1234567",
            "(%2B967)+771234567",
            "(+967)+771234567",
            "%20+967771234567",
            "+%D9%A9%D9%A6%D9%A7771234567",
            "00967771234567",
            "+00967771234567",
            "+%2B967771234567",
            "%EF%BC%8B967771234567",
            "+%EF%BC%8B967771234567",
        ] {
            let read = decode_number(text).unwrap();
            for region in ["DE", "US", "YE"] {
                let phone = Phone::parse(&read, Some(region.parse().unwrap()));
                let phone = phone.unwrap_or_else(|why| panic!("{text}: {read:?} {why}"));
                assert_eq!(phone.as_str(), "+967771234567", "{text}: {read:?}");
            }
        }
        // Spaces are still what a plus is for elsewhere.
        assert_eq!(decode_number("+0771+234567").as_deref(), Some(" 0771 234567"));
        assert_eq!(decode_number("").as_deref(), Some(""));
        assert_eq!(decode_number("+").as_deref(), Some(" "));
        assert_eq!(decode_number("%ff"), None);
    }

    #[test]
    fn a_plus_that_is_not_encoded_begins_an_offset() {
        let wanted = read_time("since", "2026-01-31T09:00:00Z").unwrap();
        for text in
            ["2026-01-31T12:00:00+03:00", "2026-01-31T12:00:00%2B03:00", "2026-01-31T09:00:00Z"]
        {
            let read = decode_plainly(text).unwrap();
            assert_eq!(read_time("since", &read).unwrap(), wanted, "{text}");
        }
        for bad in ["2026-01-31", "1h", "", "+", "2026-01-31T12:00:00"] {
            assert!(read_time("since", &decode_plainly(bad).unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn bodies_that_mean_the_same_are_the_same() {
        let one = meant(br#"{"to":"+967","content":"x","subject":null,"list":[{"b":1,"a":null}]}"#);
        let other = meant(b"{ \"list\" : [{\"b\":1}],\n\"content\":\"\\u0078\", \"to\":\"+967\" }");
        assert_eq!(one, other);
        for different in [
            &br#"{"to":"+967","content":"y","list":[{"b":1}]}"#[..],
            br#"{"to":"+967","content":"x","list":[{"b":"1"}]}"#,
            br#"{"to":"+967","content":"x","list":[{"b":1},{}]}"#,
            br#"{"to":"+967","content":"null","list":[{"b":1}]}"#,
            b"no JSON",
        ] {
            assert_ne!(one, meant(different), "{}", String::from_utf8_lossy(different));
        }
        assert_eq!(*meant(b"no JSON"), *b"no JSON");
    }

    #[test]
    fn an_unknown_parameter_is_told_with_its_neighbour() {
        let known = ["limit", "after", "status"];
        let told = |query| unknown_parameter(query, &known).map(|problem| problem.detail);
        assert_eq!(told(""), None);
        assert_eq!(told("limit=2&&after=&st%61tus=sent"), None);
        let near = "there is no parameter limti here; did you mean limit?";
        assert_eq!(told("status=sent&limti=2").as_deref(), Some(near));
        let far = "there is no parameter colour here; there are limit, after, status";
        assert_eq!(told("colour").as_deref(), Some(far));
        assert!(unknown_parameter("x=1", &[]).unwrap().detail.ends_with("and no other"));
        assert!(told(&"y".repeat(5000)).unwrap().len() < 200);
    }

    #[test]
    fn an_unknown_field_is_told_with_its_neighbour() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Body {
            content: String,
            subject: Option<String>,
        }
        let told = |text| {
            let problem = unreadable(&serde_json::from_str::<Body>(text).unwrap_err());
            (problem.code, problem.detail)
        };
        let (code, text) = told(r#"{"contnet":"x"}"#);
        assert_eq!(code, "unknown_field");
        assert!(text.ends_with("did you mean `content`?"), "{text}");
        let long = format!(r#"{{"{}":"x"}}"#, "contnet".repeat(10_000));
        let (code, text) = told(&long);
        assert_eq!(code, "unknown_field");
        assert!(text.chars().count() < 200 && text.contains("expected"), "{text}");
        let wrong = format!(r#"{{"content":["{}"]}}"#, "x".repeat(100_000));
        assert!(told(&wrong).1.chars().count() < 200);
        let (code, text) = told(r#"{"weather":"x"}"#);
        assert!(code == "unknown_field" && !text.contains("did you mean"), "{text}");
        assert_eq!(told("{}").0, "invalid_body");
        assert_eq!(told("{").0, "invalid_json");
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decode("a%20b+c%2Bd").as_deref(), Some("a b c+d"));
        assert_eq!(decode("100%").as_deref(), Some("100%"));
        assert_eq!(decode("%ff"), None);
    }
}
