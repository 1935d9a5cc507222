//! The diagnostics hub: methods that use everything the protocol has, for authors of clients.
//!
//! | method | what |
//! | --- | --- |
//! | `Echo(value)` | returns its argument |
//! | `Fail(text)` | ends with the application error `text` |
//! | `Count(n)` | streams 0 to n−1 |
//! | `Forever()` | streams numbers from 0 until cancelled, ten a second |
//! | `Concat(stream of texts)` | returns them joined |
//! | `CallMe(text)` | calls `Called(text)` on the caller |
//! | `AskMe(text)` | asks the caller `Asked(text)` and returns its answer |
//! | `ConnectionId()` | returns the connection's public id |
//! | `Calls()` | returns how often this connection has called it |
//!
//! What goes on for longer than a call is kept here, as a state machine without a clock or a socket.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    codec::{Data, Outcome},
    method::{Argument as _, Bound, Method, failed_with, none, one},
};
use crate::server::route::Who::Either;

/// Streams, uploads and questions that one connection may have open, of each.
const OPEN: usize = 16;
/// Items of one stream between two looks at the connection.
const AT_ONCE: u64 = 64;
/// The most bytes of ids in the items of one stream between two looks at the connection: a client
/// may choose long ones.
const IDS_AT_ONCE: usize = 4096;
/// The wait between two items of `Forever`.
const EVERY: Duration = Duration::from_millis(100);
/// The most bytes that `Concat` joins.
const LONGEST: usize = 1024 * 1024;

/// A call that reads as one of a method.
#[derive(Debug)]
pub enum Call {
    /// Gives its argument back.
    Echo(Data),
    /// Fails.
    Fail(String),
    /// Streams so many numbers.
    Count(u64),
    /// Streams numbers.
    Forever,
    /// Joins what comes in this upload.
    Concat(String),
    /// Calls the caller.
    CallMe(String),
    /// Asks the caller.
    AskMe(String),
    /// Names the connection.
    ConnectionId,
    /// Counts its calls.
    Calls,
}

/// The methods.
pub(super) fn rows() -> Vec<Method> {
    vec![
        row("Echo", |target, arguments, _| Ok(Call::Echo(Data::read(target, arguments)?))),
        row("Fail", |target, arguments, _| Ok(Call::Fail(one(target, arguments)?))),
        row("Count", |target, arguments, _| Ok(Call::Count(one(target, arguments)?))).streaming(),
        row("Forever", |target, arguments, _| none(target, &arguments).map(|()| Call::Forever))
            .streaming(),
        row("Concat", |target, arguments, uploads| {
            none(target, &arguments)?;
            Ok(Call::Concat(uploads.first().cloned().unwrap_or_default()))
        })
        .uploading(1),
        row("CallMe", |target, arguments, _| Ok(Call::CallMe(one(target, arguments)?))),
        row("AskMe", |target, arguments, _| Ok(Call::AskMe(one(target, arguments)?))),
        row("ConnectionId", |target, arguments, _| {
            none(target, &arguments).map(|()| Call::ConnectionId)
        }),
        row("Calls", |target, arguments, _| none(target, &arguments).map(|()| Call::Calls)),
    ]
}

type Read = fn(&str, Vec<Data>, &[String]) -> Result<Call, String>;

fn row(name: &'static str, read: Read) -> Method {
    Method::new(name, Either(None), move |target, arguments, uploads| {
        read(target, arguments, uploads).map(Bound::Diagnostic)
    })
    .reads()
}

/// What is to be told to the client.
#[derive(Debug, PartialEq)]
pub enum Tell {
    /// The call in hand is done.
    Done(Outcome),
    /// The call in hand is answered later and holds up nothing.
    Later,
    /// An earlier call is done, or a stream has ended.
    Answer(String, Outcome),
    /// An item of a stream.
    Item(String, u64),
    /// A call of the client.
    Call(&'static str, Value),
    /// A call of the client that it is to answer.
    Ask(String, &'static str, Value),
}

#[derive(Debug)]
struct Stream {
    id: String,
    next: u64,
    end: Option<u64>,
    due: Instant,
}

#[derive(Debug)]
struct Upload {
    id: String,
    /// The call to answer; one without an id wants no answer.
    call: Option<String>,
    joined: String,
}

#[derive(Debug)]
struct Question {
    id: String,
    call: Option<String>,
}

/// What goes on on one connection.
#[derive(Debug, Default)]
pub struct Diagnostics {
    calls: u64,
    asked: u64,
    streams: Vec<Stream>,
    uploads: Vec<Upload>,
    questions: Vec<Question>,
}

impl Diagnostics {
    /// Begins a call. `id` names it, if it is to be answered.
    pub fn begin(
        &mut self,
        call: Call,
        id: Option<String>,
        connection_id: &str,
        now: Instant,
    ) -> Vec<Tell> {
        let done = |value: Value| vec![Tell::Done(Outcome::Value(value.into()))];
        let fails =
            |method: &str, text: &str| vec![Tell::Done(Outcome::Error(failed_with(method, text)))];
        match call {
            Call::Echo(value) => vec![Tell::Done(Outcome::Value(value))],
            Call::Fail(text) => fails("Fail", &text),
            Call::ConnectionId => done(json!(connection_id)),
            Call::Calls => {
                self.calls += 1;
                done(json!(self.calls))
            }
            Call::CallMe(text) => {
                vec![
                    Tell::Call("Called", text.into()),
                    Tell::Done(Outcome::Value(Value::Null.into())),
                ]
            }
            Call::AskMe(_) if self.questions.len() >= OPEN => {
                fails("AskMe", "too many questions are open")
            }
            Call::AskMe(text) => {
                self.asked += 1;
                // Told apart from the client's own numbers.
                let question = format!("s{}", self.asked);
                self.questions.push(Question { id: question.clone(), call: id });
                vec![Tell::Ask(question, "Asked", text.into()), Tell::Later]
            }
            Call::Concat(_) if self.uploads.len() >= OPEN => {
                fails("Concat", "too many uploads are open")
            }
            Call::Concat(upload) => {
                self.uploads.push(Upload { id: upload, call: id, joined: String::new() });
                vec![Tell::Later]
            }
            Call::Count(_) | Call::Forever => {
                let (method, end) = match call {
                    Call::Count(n) => ("Count", Some(n)),
                    _ => ("Forever", None),
                };
                let id = id.unwrap_or_default();
                let refuse = |text: String| vec![Tell::Answer(id.clone(), Outcome::Error(text))];
                if self.streams.iter().any(|stream| stream.id == id) {
                    return refuse(format!("Invocation ID '{id}' is already in use."));
                }
                if self.streams.len() >= OPEN {
                    return refuse(failed_with(method, "too many streams are open"));
                }
                self.streams.push(Stream { id, next: 0, end, due: now });
                Vec::new()
            }
        }
    }

    /// An item of an upload came.
    pub fn on_item(&mut self, id: &str, item: Data) -> Vec<Tell> {
        let Some(upload) = self.uploads.iter_mut().find(|upload| upload.id == id) else {
            return Vec::new();
        };
        match item.into_json() {
            Value::String(text) if upload.joined.len() + text.len() <= LONGEST => {
                upload.joined.push_str(&text);
                Vec::new()
            }
            Value::String(_) => {
                self.end_upload(id, Err(format!("more than {LONGEST} bytes cannot be joined")))
            }
            _ => self.end_upload(id, Err("Failed to bind Stream message.".to_owned())),
        }
    }

    /// An upload ended, or a question was answered.
    pub fn on_settle(&mut self, id: &str, outcome: Outcome) -> Vec<Tell> {
        if let Some(at) = self.questions.iter().position(|question| question.id == id) {
            let question = self.questions.remove(at);
            let outcome = match outcome {
                Outcome::Error(text) => Outcome::Error(failed_with("AskMe", &text)),
                Outcome::Void => Outcome::Value(Value::Null.into()),
                answer @ Outcome::Value(_) => answer,
            };
            return question.call.map(|call| Tell::Answer(call, outcome)).into_iter().collect();
        }
        self.end_upload(id, if let Outcome::Error(text) = outcome { Err(text) } else { Ok(()) })
    }

    fn end_upload(&mut self, id: &str, ended: Result<(), String>) -> Vec<Tell> {
        let Some(at) = self.uploads.iter().position(|upload| upload.id == id) else {
            return Vec::new();
        };
        let upload = self.uploads.remove(at);
        let outcome = match ended {
            Ok(()) => Outcome::Value(Value::String(upload.joined).into()),
            Err(text) => Outcome::Error(failed_with("Concat", &text)),
        };
        upload.call.map(|call| Tell::Answer(call, outcome)).into_iter().collect()
    }

    /// A stream is to stop.
    pub fn on_cancel(&mut self, id: &str) -> Vec<Tell> {
        let before = self.streams.len();
        self.streams.retain(|stream| stream.id != id);
        if self.streams.len() == before {
            return Vec::new();
        }
        vec![Tell::Answer(id.to_owned(), Outcome::Void)]
    }

    /// The items that are due.
    pub fn on_tick(&mut self, now: Instant) -> Vec<Tell> {
        let mut tell = Vec::new();
        self.streams.retain_mut(|stream| {
            if stream.due > now {
                return true;
            }
            let fitting = (IDS_AT_ONCE / stream.id.len().max(1)) as u64;
            let until = match stream.end {
                Some(end) => end.min(stream.next.saturating_add(fitting.clamp(1, AT_ONCE))),
                None => stream.next + 1,
            };
            tell.extend((stream.next..until).map(|n| Tell::Item(stream.id.clone(), n)));
            stream.next = until;
            if stream.end.is_none() {
                stream.due = now + EVERY;
            }
            let ended = stream.end == Some(until);
            if ended {
                tell.push(Tell::Answer(stream.id.clone(), Outcome::Void));
            }
            !ended
        });
        tell
    }

    /// When [`Diagnostics::on_tick`] has something to tell.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.streams.iter().map(|stream| stream.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{method::find, session::Kind},
        *,
    };

    fn bind(target: &str, arguments: Vec<Value>, kind: Kind) -> Result<Call, String> {
        let arguments = arguments.into_iter().map(Data::from).collect();
        match find(&rows(), target)?.bind(target, arguments, &[], kind)? {
            Bound::Diagnostic(call) => Ok(call),
            Bound::Method(call) => panic!("{call:?} is of another hub"),
        }
    }

    #[test]
    fn calls_are_judged_as_the_official_server_judges_them() {
        assert!(matches!(bind("COUNT", vec![json!(3)], Kind::Stream), Ok(Call::Count(3))));
        for (call, expected) in [
            (
                bind("Count", vec![json!(3)], Kind::Plain),
                "The client attempted to invoke the streaming 'Count' method with a non-streaming \
                 invocation.",
            ),
            (
                bind("Echo", vec![json!(3)], Kind::Stream),
                "The client attempted to invoke the non-streaming 'Echo' method with a streaming \
                 invocation.",
            ),
            (
                bind("Concat", vec![], Kind::Plain),
                "An unexpected error occurred invoking 'Concat' on the server. HubException: Client \
                 sent 0 stream(s), Hub method expects 1.",
            ),
            (
                bind("Count", vec![json!(-1)], Kind::Stream),
                "Failed to invoke 'Count' due to an error on the server. InvalidDataException: Error \
                 binding arguments. Make sure that the types of the provided values match the types \
                 of the hub method being invoked. invalid value: integer `-1`, expected u64.",
            ),
        ] {
            assert_eq!(call.unwrap_err(), expected);
        }
    }

    #[test]
    fn streams_end_or_are_ended_and_an_id_is_used_once() {
        let (mut hub, now) = (Diagnostics::default(), Instant::now());
        let id = || Some("1".to_owned());
        assert_eq!(hub.begin(Call::Count(2), id(), "", now), []);
        let in_use = Outcome::Error("Invocation ID '1' is already in use.".to_owned());
        assert_eq!(hub.begin(Call::Forever, id(), "", now), [Tell::Answer("1".to_owned(), in_use)]);
        let end = || Tell::Answer("1".to_owned(), Outcome::Void);
        let item = |n| Tell::Item("1".to_owned(), n);
        assert_eq!(hub.next_deadline(), Some(now));
        assert_eq!(hub.on_tick(now), [item(0), item(1), end()]);
        assert_eq!(hub.next_deadline(), None);
        assert_eq!(hub.begin(Call::Forever, id(), "", now), []);
        assert_eq!(hub.on_tick(now), [item(0)]);
        assert_eq!(hub.on_tick(now), []);
        assert_eq!(hub.on_tick(now + EVERY), [item(1)]);
        assert_eq!(hub.on_cancel("1"), [end()]);
        assert_eq!(hub.on_cancel("1"), [], "one end is enough");
    }

    #[test]
    fn a_long_count_comes_in_parts() {
        let (mut hub, now) = (Diagnostics::default(), Instant::now());
        hub.begin(Call::Count(u64::MAX), Some("1".to_owned()), "", now);
        assert_eq!(hub.on_tick(now).len() as u64, AT_ONCE);
        let mut long = Diagnostics::default();
        long.begin(Call::Count(u64::MAX), Some("x".repeat(30_000)), "", now);
        assert_eq!(long.on_tick(now).len(), 1, "each of them names the stream");
        hub.begin(Call::Count(0), Some("2".to_owned()), "", now);
        assert_eq!(hub.on_tick(now).last(), Some(&Tell::Answer("2".to_owned(), Outcome::Void)));
    }

    #[test]
    fn uploads_are_joined_and_a_bad_item_ends_only_its_own() {
        let (mut hub, now) = (Diagnostics::default(), Instant::now());
        for (upload, call) in [("a", "1"), ("b", "2"), ("c", "3")] {
            let begun = hub.begin(Call::Concat(upload.to_owned()), Some(call.to_owned()), "", now);
            assert_eq!(begun, [Tell::Later]);
        }
        let text = |text: &str| Data::Json(json!(text));
        assert_eq!(hub.on_item("a", text("x")), []);
        assert_eq!(hub.on_item("nobody's", text("x")), []);
        let failed = |text: &str| {
            let what =
                "An unexpected error occurred invoking 'Concat' on the server. HubException: ";
            Outcome::Error(format!("{what}{text}"))
        };
        assert_eq!(
            hub.on_item("b", Data::Json(json!(1))),
            [Tell::Answer("2".to_owned(), failed("Failed to bind Stream message."))]
        );
        assert_eq!(hub.on_item("b", text("late")), []);
        assert_eq!(
            hub.on_settle("c", Outcome::Error("Something bad".to_owned())),
            [Tell::Answer("3".to_owned(), failed("Something bad"))]
        );
        hub.on_item("a", text("y"));
        let joined = Outcome::Value(json!("xy").into());
        assert_eq!(hub.on_settle("a", Outcome::Void), [Tell::Answer("1".to_owned(), joined)]);
    }

    #[test]
    fn an_answer_settles_the_question_that_was_asked() {
        let (mut hub, now) = (Diagnostics::default(), Instant::now());
        let told = hub.begin(Call::AskMe("x".to_owned()), Some("7".to_owned()), "", now);
        assert_eq!(told, [Tell::Ask("s1".to_owned(), "Asked", json!("x")), Tell::Later]);
        assert_eq!(hub.on_settle("s2", Outcome::Value(json!(1).into())), []);
        let answer = Outcome::Value(json!(10).into());
        assert_eq!(hub.on_settle("s1", answer.clone()), [Tell::Answer("7".to_owned(), answer)]);
        assert_eq!(hub.on_settle("s1", Outcome::Void), [], "once");
    }
}
