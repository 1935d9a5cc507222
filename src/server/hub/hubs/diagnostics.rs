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
//! Streams, uploads and questions outlive their calls: they are kept here, as a state machine without a
//! clock or a socket.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    diagnostic_call::DiagnosticCall,
    method::{Argument as _, BoundCall, Method, none, one},
};
use crate::server::{
    hub::protocol::{
        codec::{CompletionResult, Data},
        error_text::invocation_failed,
    },
    route::Who::Either,
};

/// Open streams, uploads and questions of one connection, of each.
const MAX_OPEN: usize = 16;
/// Items of one stream in one tick.
const STREAM_BATCH_SIZE: u64 = 64;
/// The most bytes of ids in the items of one stream in one tick: a client may choose long ids.
const MAX_BATCH_ID_LEN: usize = 4096;
const FOREVER_INTERVAL: Duration = Duration::from_millis(100);
/// The most bytes that `Concat` joins.
const MAX_JOINED_LEN: usize = 1024 * 1024;

pub(super) fn rows() -> Vec<Method> {
    vec![
        row("Echo", |target, arguments, _| {
            Ok(DiagnosticCall::Echo(Data::read(target, arguments)?))
        }),
        row("Fail", |target, arguments, _| Ok(DiagnosticCall::Fail(one(target, arguments)?))),
        row("Count", |target, arguments, _| Ok(DiagnosticCall::Count(one(target, arguments)?)))
            .streaming(),
        row("Forever", |target, arguments, _| {
            none(target, &arguments).map(|()| DiagnosticCall::Forever)
        })
        .streaming(),
        row("Concat", |target, arguments, uploads| {
            none(target, &arguments)?;
            Ok(DiagnosticCall::Concat(uploads.first().cloned().unwrap_or_default()))
        })
        .uploading(1),
        row("CallMe", |target, arguments, _| Ok(DiagnosticCall::CallMe(one(target, arguments)?))),
        row("AskMe", |target, arguments, _| Ok(DiagnosticCall::AskMe(one(target, arguments)?))),
        row("ConnectionId", |target, arguments, _| {
            none(target, &arguments).map(|()| DiagnosticCall::ConnectionId)
        }),
        row("Calls", |target, arguments, _| {
            none(target, &arguments).map(|()| DiagnosticCall::Calls)
        }),
    ]
}

type Read = fn(&str, Vec<Data>, &[String]) -> Result<DiagnosticCall, String>;

fn row(name: &'static str, read: Read) -> Method {
    Method::new(name, Either(None), move |target, arguments, uploads| {
        read(target, arguments, uploads).map(BoundCall::Diagnostic)
    })
    .reads()
}

/// What the connection is to send.
#[derive(Debug, PartialEq)]
pub enum DiagnosticOutput {
    /// Complete the current call.
    Complete(CompletionResult),
    /// Answer the current call later, and let input continue.
    Defer,
    /// Complete an earlier call, or end a stream.
    Completion(String, CompletionResult),
    StreamItem(String, u64),
    /// Call the client.
    Invoke(&'static str, Value),
    /// Call the client and wait for its answer.
    InvokeWithResult(String, &'static str, Value),
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
    /// The call to complete; `None` when it has no id.
    call: Option<String>,
    joined: String,
}

#[derive(Debug)]
struct Question {
    id: String,
    call: Option<String>,
}

/// The open streams, uploads and questions of one connection.
#[derive(Debug, Default)]
pub struct DiagnosticsHub {
    calls: u64,
    asked: u64,
    streams: Vec<Stream>,
    uploads: Vec<Upload>,
    questions: Vec<Question>,
}

impl DiagnosticsHub {
    /// `id` is `None` when the client wants no answer.
    pub fn begin(
        &mut self,
        call: DiagnosticCall,
        id: Option<String>,
        connection_id: &str,
        now: Instant,
    ) -> Vec<DiagnosticOutput> {
        let done =
            |value: Value| vec![DiagnosticOutput::Complete(CompletionResult::Value(value.into()))];
        let fails = |method: &str, text: &str| {
            vec![DiagnosticOutput::Complete(CompletionResult::Error(invocation_failed(
                method, text,
            )))]
        };
        match call {
            DiagnosticCall::Echo(value) => {
                vec![DiagnosticOutput::Complete(CompletionResult::Value(value))]
            }
            DiagnosticCall::Fail(text) => fails("Fail", &text),
            DiagnosticCall::ConnectionId => done(json!(connection_id)),
            DiagnosticCall::Calls => {
                self.calls += 1;
                done(json!(self.calls))
            }
            DiagnosticCall::CallMe(text) => {
                vec![
                    DiagnosticOutput::Invoke("Called", text.into()),
                    DiagnosticOutput::Complete(CompletionResult::Value(Value::Null.into())),
                ]
            }
            DiagnosticCall::AskMe(_) if self.questions.len() >= MAX_OPEN => {
                fails("AskMe", "too many questions are open")
            }
            DiagnosticCall::AskMe(text) => {
                self.asked += 1;
                // Distinct from the client's own ids, which are numbers.
                let question = format!("s{}", self.asked);
                self.questions.push(Question { id: question.clone(), call: id });
                vec![
                    DiagnosticOutput::InvokeWithResult(question, "Asked", text.into()),
                    DiagnosticOutput::Defer,
                ]
            }
            DiagnosticCall::Concat(_) if self.uploads.len() >= MAX_OPEN => {
                fails("Concat", "too many uploads are open")
            }
            DiagnosticCall::Concat(upload) => {
                self.uploads.push(Upload { id: upload, call: id, joined: String::new() });
                vec![DiagnosticOutput::Defer]
            }
            DiagnosticCall::Count(_) | DiagnosticCall::Forever => {
                let (method, end) = match call {
                    DiagnosticCall::Count(n) => ("Count", Some(n)),
                    _ => ("Forever", None),
                };
                let id = id.unwrap_or_default();
                let refuse = |text: String| {
                    vec![DiagnosticOutput::Completion(id.clone(), CompletionResult::Error(text))]
                };
                if self.streams.iter().any(|stream| stream.id == id) {
                    return refuse(format!("Invocation ID '{id}' is already in use."));
                }
                if self.streams.len() >= MAX_OPEN {
                    return refuse(invocation_failed(method, "too many streams are open"));
                }
                self.streams.push(Stream { id, next: 0, end, due: now });
                Vec::new()
            }
        }
    }

    pub fn on_item(&mut self, id: &str, item: Data) -> Vec<DiagnosticOutput> {
        let Some(upload) = self.uploads.iter_mut().find(|upload| upload.id == id) else {
            return Vec::new();
        };
        match item.into_json() {
            Value::String(text) if upload.joined.len() + text.len() <= MAX_JOINED_LEN => {
                upload.joined.push_str(&text);
                Vec::new()
            }
            Value::String(_) => self
                .end_upload(id, Err(format!("more than {MAX_JOINED_LEN} bytes cannot be joined"))),
            _ => self.end_upload(id, Err("Failed to bind Stream message.".to_owned())),
        }
    }

    /// An upload ended, or a question was answered.
    pub fn on_completion(&mut self, id: &str, outcome: CompletionResult) -> Vec<DiagnosticOutput> {
        if let Some(at) = self.questions.iter().position(|question| question.id == id) {
            let question = self.questions.remove(at);
            let outcome = match outcome {
                CompletionResult::Error(text) => {
                    CompletionResult::Error(invocation_failed("AskMe", &text))
                }
                CompletionResult::Void => CompletionResult::Value(Value::Null.into()),
                answer @ CompletionResult::Value(_) => answer,
            };
            return question
                .call
                .map(|call| DiagnosticOutput::Completion(call, outcome))
                .into_iter()
                .collect();
        }
        self.end_upload(
            id,
            if let CompletionResult::Error(text) = outcome { Err(text) } else { Ok(()) },
        )
    }

    fn end_upload(&mut self, id: &str, ended: Result<(), String>) -> Vec<DiagnosticOutput> {
        let Some(at) = self.uploads.iter().position(|upload| upload.id == id) else {
            return Vec::new();
        };
        let upload = self.uploads.remove(at);
        let outcome = match ended {
            Ok(()) => CompletionResult::Value(Value::String(upload.joined).into()),
            Err(text) => CompletionResult::Error(invocation_failed("Concat", &text)),
        };
        upload.call.map(|call| DiagnosticOutput::Completion(call, outcome)).into_iter().collect()
    }

    pub fn on_cancel(&mut self, id: &str) -> Vec<DiagnosticOutput> {
        let before = self.streams.len();
        self.streams.retain(|stream| stream.id != id);
        if self.streams.len() == before {
            return Vec::new();
        }
        vec![DiagnosticOutput::Completion(id.to_owned(), CompletionResult::Void)]
    }

    /// Sends the items that are due.
    pub fn on_tick(&mut self, now: Instant) -> Vec<DiagnosticOutput> {
        let mut outputs = Vec::new();
        self.streams.retain_mut(|stream| {
            if stream.due > now {
                return true;
            }
            let fitting = (MAX_BATCH_ID_LEN / stream.id.len().max(1)) as u64;
            let until = match stream.end {
                Some(end) => {
                    end.min(stream.next.saturating_add(fitting.clamp(1, STREAM_BATCH_SIZE)))
                }
                None => stream.next + 1,
            };
            outputs.extend(
                (stream.next..until).map(|n| DiagnosticOutput::StreamItem(stream.id.clone(), n)),
            );
            stream.next = until;
            if stream.end.is_none() {
                stream.due = now + FOREVER_INTERVAL;
            }
            let ended = stream.end == Some(until);
            if ended {
                outputs
                    .push(DiagnosticOutput::Completion(stream.id.clone(), CompletionResult::Void));
            }
            !ended
        });
        outputs
    }

    /// When to call [`DiagnosticsHub::on_tick`].
    pub fn next_deadline(&self) -> Option<Instant> {
        self.streams.iter().map(|stream| stream.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::method::find, *};
    use crate::server::hub::protocol::session::InvocationKind;

    fn bind(
        target: &str,
        arguments: Vec<Value>,
        kind: InvocationKind,
    ) -> Result<DiagnosticCall, String> {
        let arguments = arguments.into_iter().map(Data::from).collect();
        match find(&rows(), target)?.bind(target, arguments, &[], kind)? {
            BoundCall::Diagnostic(call) => Ok(call),
            BoundCall::Method(call) => panic!("{call:?} is of another hub"),
        }
    }

    #[test]
    fn calls_are_judged_as_the_official_server_judges_them() {
        assert!(matches!(
            bind("COUNT", vec![json!(3)], InvocationKind::Stream),
            Ok(DiagnosticCall::Count(3))
        ));
        for (call, expected) in [
            (
                bind("Count", vec![json!(3)], InvocationKind::Plain),
                "The client attempted to invoke the streaming 'Count' method with a non-streaming \
                 invocation.",
            ),
            (
                bind("Echo", vec![json!(3)], InvocationKind::Stream),
                "The client attempted to invoke the non-streaming 'Echo' method with a streaming \
                 invocation.",
            ),
            (
                bind("Concat", vec![], InvocationKind::Plain),
                "An unexpected error occurred invoking 'Concat' on the server. HubException: Client \
                 sent 0 stream(s), Hub method expects 1.",
            ),
            (
                bind("Count", vec![json!(-1)], InvocationKind::Stream),
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
        let (mut hub, now) = (DiagnosticsHub::default(), Instant::now());
        let id = || Some("1".to_owned());
        assert_eq!(hub.begin(DiagnosticCall::Count(2), id(), "", now), []);
        let in_use = CompletionResult::Error("Invocation ID '1' is already in use.".to_owned());
        assert_eq!(
            hub.begin(DiagnosticCall::Forever, id(), "", now),
            [DiagnosticOutput::Completion("1".to_owned(), in_use)]
        );
        let end = || DiagnosticOutput::Completion("1".to_owned(), CompletionResult::Void);
        let item = |n| DiagnosticOutput::StreamItem("1".to_owned(), n);
        assert_eq!(hub.next_deadline(), Some(now));
        assert_eq!(hub.on_tick(now), [item(0), item(1), end()]);
        assert_eq!(hub.next_deadline(), None);
        assert_eq!(hub.begin(DiagnosticCall::Forever, id(), "", now), []);
        assert_eq!(hub.on_tick(now), [item(0)]);
        assert_eq!(hub.on_tick(now), []);
        assert_eq!(hub.on_tick(now + FOREVER_INTERVAL), [item(1)]);
        assert_eq!(hub.on_cancel("1"), [end()]);
        assert_eq!(hub.on_cancel("1"), [], "one end is enough");
    }

    #[test]
    fn a_long_count_comes_in_parts() {
        let (mut hub, now) = (DiagnosticsHub::default(), Instant::now());
        hub.begin(DiagnosticCall::Count(u64::MAX), Some("1".to_owned()), "", now);
        assert_eq!(hub.on_tick(now).len() as u64, STREAM_BATCH_SIZE);
        let mut long = DiagnosticsHub::default();
        long.begin(DiagnosticCall::Count(u64::MAX), Some("x".repeat(30_000)), "", now);
        assert_eq!(long.on_tick(now).len(), 1, "each of them names the stream");
        hub.begin(DiagnosticCall::Count(0), Some("2".to_owned()), "", now);
        assert_eq!(
            hub.on_tick(now).last(),
            Some(&DiagnosticOutput::Completion("2".to_owned(), CompletionResult::Void))
        );
    }

    #[test]
    fn uploads_are_joined_and_a_bad_item_ends_only_its_own() {
        let (mut hub, now) = (DiagnosticsHub::default(), Instant::now());
        for (upload, call) in [("a", "1"), ("b", "2"), ("c", "3")] {
            let begun = hub.begin(
                DiagnosticCall::Concat(upload.to_owned()),
                Some(call.to_owned()),
                "",
                now,
            );
            assert_eq!(begun, [DiagnosticOutput::Defer]);
        }
        let text = |text: &str| Data::Json(json!(text));
        assert_eq!(hub.on_item("a", text("x")), []);
        assert_eq!(hub.on_item("nobody's", text("x")), []);
        let failed = |text: &str| {
            let what =
                "An unexpected error occurred invoking 'Concat' on the server. HubException: ";
            CompletionResult::Error(format!("{what}{text}"))
        };
        assert_eq!(
            hub.on_item("b", Data::Json(json!(1))),
            [DiagnosticOutput::Completion(
                "2".to_owned(),
                failed("Failed to bind Stream message.")
            )]
        );
        assert_eq!(hub.on_item("b", text("late")), []);
        assert_eq!(
            hub.on_completion("c", CompletionResult::Error("Something bad".to_owned())),
            [DiagnosticOutput::Completion("3".to_owned(), failed("Something bad"))]
        );
        hub.on_item("a", text("y"));
        let joined = CompletionResult::Value(json!("xy").into());
        assert_eq!(
            hub.on_completion("a", CompletionResult::Void),
            [DiagnosticOutput::Completion("1".to_owned(), joined)]
        );
    }

    #[test]
    fn an_answer_settles_the_question_that_was_asked() {
        let (mut hub, now) = (DiagnosticsHub::default(), Instant::now());
        let outputs =
            hub.begin(DiagnosticCall::AskMe("x".to_owned()), Some("7".to_owned()), "", now);
        assert_eq!(
            outputs,
            [
                DiagnosticOutput::InvokeWithResult("s1".to_owned(), "Asked", json!("x")),
                DiagnosticOutput::Defer
            ]
        );
        assert_eq!(hub.on_completion("s2", CompletionResult::Value(json!(1).into())), []);
        let answer = CompletionResult::Value(json!(10).into());
        assert_eq!(
            hub.on_completion("s1", answer.clone()),
            [DiagnosticOutput::Completion("7".to_owned(), answer)]
        );
        assert_eq!(hub.on_completion("s1", CompletionResult::Void), [], "once");
    }
}
