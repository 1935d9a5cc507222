//! A method of a hub: its name, its callers, its arguments and its handler. The rows are in
//! [`super::messages`], [`super::diagnostics`] and [`super::legacy`]; look-up, authorisation, argument parsing,
//! the metric label and the test with wrong callers follow from them.

use std::{fmt, pin::Pin};

use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::diagnostic_call::DiagnosticCall;
use crate::{
    app::{App, Caller, Error},
    domain::{MessageId, limits::RateClass, text::excerpt_of_fault},
    server::{
        hub::protocol::{
            codec::{CompletionResult, Data},
            error_text::{
                argument_count_mismatch, binding_failed, cut, invocation_failed, method_not_found,
            },
            session::InvocationKind,
        },
        reply,
        route::{Who, Writes},
    },
};

/// A row in the table of a hub.
pub struct Method {
    /// Compared without case. Also the label in metrics.
    pub name: &'static str,
    pub who: Who,
    /// What it stores, and so which limit applies.
    pub writes: Writes,
    streams: bool,
    uploads: usize,
    bind: Binder,
}

type Binder = Box<dyn Fn(&str, Vec<Data>, &[String]) -> Result<BoundCall, String> + Send + Sync>;

/// A call whose arguments have been read.
#[derive(Debug)]
pub enum BoundCall {
    Method(MethodCall),
    Diagnostic(DiagnosticCall),
}

/// A row whose handler takes one argument and answers once.
pub fn method<A, F, R>(name: &'static str, who: Who, handler: F) -> Method
where
    A: Argument,
    F: Fn(Invocation, A) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Data, Error>> + Send + 'static,
{
    Method::new(name, who, move |target, arguments, _| {
        let argument = A::read(target, arguments)?;
        Ok(BoundCall::Method(MethodCall::new(name, argument, handler.clone())))
    })
}

impl Method {
    /// A row that reads its arguments, and the ids of the client's streams, itself.
    pub fn new(
        name: &'static str,
        who: Who,
        bind: impl Fn(&str, Vec<Data>, &[String]) -> Result<BoundCall, String> + Send + Sync + 'static,
    ) -> Method {
        let writes = Writes::Other;
        Method { name, who, writes, streams: false, uploads: 0, bind: Box::new(bind) }
    }

    /// Without this each call counts as one of [`Writes::Other`].
    #[must_use]
    pub fn writes(self, writes: Writes) -> Method {
        Method { writes, ..self }
    }

    /// It stores nothing.
    #[must_use]
    pub fn reads(self) -> Method {
        self.writes(Writes::Nothing)
    }

    /// It answers with a stream.
    #[must_use]
    pub fn streaming(self) -> Method {
        Method { streams: true, ..self }
    }

    /// It takes this many streams of the client.
    #[must_use]
    pub fn uploading(self, uploads: usize) -> Method {
        Method { uploads, ..self }
    }

    /// Authorises the caller: the only place that does so for calls. The error is the text for the completion.
    pub fn admit(&self, caller: &Caller) -> Result<(), String> {
        self.who.admit(caller).map_err(|error| {
            count(self.name);
            app_error(self.name, &error)
        })
    }

    /// Reads the arguments of a call. The error is the text for the completion.
    pub fn bind(
        &self,
        target: &str,
        arguments: Vec<Data>,
        uploads: &[String],
        kind: InvocationKind,
    ) -> Result<BoundCall, String> {
        let mut bound = (self.bind)(target, arguments, uploads)?;
        check_kind(self.name, self.streams, kind)?;
        check_uploads(self.name, uploads.len(), self.uploads)?;
        if let BoundCall::Method(call) = &mut bound {
            call.counted = self.writes.counted_first(self.who);
        }
        Ok(bound)
    }
}

/// Finds a method; names are compared without case, as the official server does. The error is the text for
/// the completion.
pub fn find<'a>(methods: &'a [Method], target: &str) -> Result<&'a Method, String> {
    let found = methods.iter().find(|method| method.name.eq_ignore_ascii_case(target));
    found.ok_or_else(|| method_not_found(target))
}

/// The argument of a method.
pub trait Argument: Sized + Send + 'static {
    /// The error is the text for the completion.
    fn read(target: &str, arguments: Vec<Data>) -> Result<Self, String>;

    /// The messages that a call with this argument acknowledges.
    fn acknowledged(&self) -> &[MessageId] {
        &[]
    }
}

pub struct NoArgument;

impl Argument for NoArgument {
    fn read(target: &str, arguments: Vec<Data>) -> Result<NoArgument, String> {
        none(target, &arguments).map(|()| NoArgument)
    }
}

/// Any one value.
impl Argument for Data {
    fn read(target: &str, arguments: Vec<Data>) -> Result<Data, String> {
        let [argument] = <[Data; 1]>::try_from(arguments)
            .map_err(|given| argument_count_mismatch(target, given.len(), 1))?;
        Ok(argument)
    }
}

/// The context of a call.
pub struct Invocation {
    pub app: App,
    pub caller: Caller,
    /// When each message that the argument acknowledges was written to the connection.
    pub written_at: Vec<Option<OffsetDateTime>>,
    /// The id of the connection; 0 for none.
    pub connection: u64,
}

type HandlerFuture = Pin<Box<dyn Future<Output = Result<Data, Error>> + Send>>;

/// A call that is ready to run.
pub struct MethodCall {
    method: &'static str,
    acknowledged: Vec<MessageId>,
    /// The rate limit that it counts against before it runs.
    counted: Option<RateClass>,
    run: Box<dyn FnOnce(Invocation) -> HandlerFuture + Send>,
}

impl fmt::Debug for MethodCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MethodCall").field(&self.method).field(&self.acknowledged).finish()
    }
}

pub struct InvocationResult {
    pub outcome: CompletionResult,
    /// These leave the connection's window of unacknowledged messages.
    pub acknowledged: Vec<MessageId>,
}

impl MethodCall {
    /// Its rate limit comes from its row ([`Method::bind`]).
    pub(super) fn new<A, R>(
        method: &'static str,
        argument: A,
        handler: impl FnOnce(Invocation, A) -> R + Send + 'static,
    ) -> MethodCall
    where
        A: Argument,
        R: Future<Output = Result<Data, Error>> + Send + 'static,
    {
        MethodCall {
            method,
            acknowledged: argument.acknowledged().to_vec(),
            counted: None,
            run: Box::new(move |invocation| Box::pin(handler(invocation, argument))),
        }
    }

    pub fn acknowledged(&self) -> &[MessageId] {
        &self.acknowledged
    }

    pub async fn run(self, invocation: Invocation) -> InvocationResult {
        count(self.method);
        let passed = match self.counted {
            Some(class) => invocation.app.limits.count_call(&invocation.caller, class).await,
            None => Ok(()),
        };
        let answered = match passed {
            Ok(()) => (self.run)(invocation).await,
            Err(limited) => Err(limited),
        };
        match answered {
            Ok(value) => InvocationResult {
                outcome: CompletionResult::Value(value),
                acknowledged: self.acknowledged,
            },
            // A message whose acknowledgement failed stays in the window: the client acknowledges it again.
            Err(error) => InvocationResult {
                outcome: CompletionResult::Error(app_error(self.method, &error)),
                acknowledged: Vec::new(),
            },
        }
    }
}

fn count(method: &'static str) {
    metrics::counter!("esh3ar_hub_invocations_total", "method" => method).increment(1);
}

/// Clients show everything after `HubException: `.
fn app_error(method: &str, error: &Error) -> String {
    let (_, code) = reply::classify(error);
    metrics::counter!("esh3ar_errors_total", "way" => "hub", "code" => code).increment(1);
    invocation_failed(method, &format!("{code}: {error}"))
}

/// A streaming method has to be called with a stream invocation, and no other method may be.
fn check_kind(method: &str, streams: bool, kind: InvocationKind) -> Result<(), String> {
    match (streams, kind) {
        (false, InvocationKind::Plain) | (true, InvocationKind::Stream) => Ok(()),
        (true, InvocationKind::Plain) => Err(format!(
            "The client attempted to invoke the streaming '{method}' method with a non-streaming \
             invocation."
        )),
        (false, InvocationKind::Stream) => Err(format!(
            "The client attempted to invoke the non-streaming '{method}' method with a streaming \
             invocation."
        )),
    }
}

fn check_uploads(method: &str, given: usize, expected: usize) -> Result<(), String> {
    if given == expected {
        return Ok(());
    }
    let text = format!("Client sent {given} stream(s), Hub method expects {expected}.");
    Err(invocation_failed(method, &text))
}

/// Reads the one argument of a method. The error is the text for the completion.
pub fn one<T: DeserializeOwned>(target: &str, arguments: Vec<Data>) -> Result<T, String> {
    // The official server gives no reason; without one, a misspelt field is hard to find.
    serde_json::from_value(Data::read(target, arguments)?.into_json())
        .map_err(|error| binding_failed(target, cut(&excerpt_of_fault(&error.to_string()), 300)))
}

pub(super) fn none(target: &str, arguments: &[Data]) -> Result<(), String> {
    if arguments.is_empty() {
        Ok(())
    } else {
        Err(argument_count_mismatch(target, arguments.len(), 0))
    }
}
