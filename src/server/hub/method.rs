//! A method of a hub: its name, who may call it, how it is called, and what answers it. The rows are in
//! [`super::methods`], [`super::diagnostics`] and `legacy::hub`; the look-up, authorisation, the reading of
//! arguments, the metric's label and the test with wrong callers follow from them.

use std::{fmt, pin::Pin};

use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::{
    codec::{Data, Outcome},
    diagnostics,
    session::Kind,
};
use crate::{
    app::{App, Caller, Error},
    domain::{MessageId, limits::RateClass, text::excerpt_of_fault},
    server::{
        reply,
        route::{Who, Writes},
    },
};

/// A row of a hub's table.
pub struct Method {
    /// The name. Clients may write it in any case. It is the label in metrics, too.
    pub name: &'static str,
    /// Who may call it.
    pub who: Who,
    /// What it stores, and with that what limits it.
    pub writes: Writes,
    streams: bool,
    uploads: usize,
    bind: Binder,
}

type Binder = Box<dyn Fn(&str, Vec<Data>, &[String]) -> Result<Bound, String> + Send + Sync>;

/// A call whose arguments were read.
#[derive(Debug)]
pub enum Bound {
    /// Of the hubs for messages.
    Method(Call),
    /// Of the diagnostics hub.
    Diagnostic(diagnostics::Call),
}

/// A row whose handler gets one argument and answers once.
pub fn method<A, F, R>(name: &'static str, who: Who, handler: F) -> Method
where
    A: Argument,
    F: Fn(Invocation, A) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Data, Error>> + Send + 'static,
{
    Method::new(name, who, move |target, arguments, _| {
        let argument = A::read(target, arguments)?;
        Ok(Bound::Method(Call::new(name, argument, handler.clone())))
    })
}

impl Method {
    /// A row that reads its arguments, and the ids of the client's streams, by itself.
    pub fn new(
        name: &'static str,
        who: Who,
        bind: impl Fn(&str, Vec<Data>, &[String]) -> Result<Bound, String> + Send + Sync + 'static,
    ) -> Method {
        let writes = Writes::Other;
        Method { name, who, writes, streams: false, uploads: 0, bind: Box::new(bind) }
    }

    /// The same, and it stores this. Without it each call counts as one of [`Writes::Other`].
    #[must_use]
    pub fn writes(self, writes: Writes) -> Method {
        Method { writes, ..self }
    }

    /// The same, and it stores nothing.
    #[must_use]
    pub fn reads(self) -> Method {
        self.writes(Writes::Nothing)
    }

    /// The same, and it answers with a stream.
    #[must_use]
    pub fn streaming(self) -> Method {
        Method { streams: true, ..self }
    }

    /// The same, and it takes so many streams of the client.
    #[must_use]
    pub fn uploading(self, uploads: usize) -> Method {
        Method { uploads, ..self }
    }

    /// Whether the caller may call it. The only place that decides this for calls.
    ///
    /// # Errors
    /// The text of the completion's error.
    pub fn admit(&self, caller: &Caller) -> Result<(), String> {
        self.who.admit(caller).map_err(|error| {
            count(self.name);
            failed(self.name, &error)
        })
    }

    /// Reads the arguments of a call.
    ///
    /// # Errors
    /// The text of the completion's error.
    pub fn bind(
        &self,
        target: &str,
        arguments: Vec<Data>,
        uploads: &[String],
        kind: Kind,
    ) -> Result<Bound, String> {
        let mut bound = (self.bind)(target, arguments, uploads)?;
        check_kind(self.name, self.streams, kind)?;
        check_uploads(self.name, uploads.len(), self.uploads)?;
        if let Bound::Method(call) = &mut bound {
            call.counted = self.writes.counted_first(self.who);
        }
        Ok(bound)
    }
}

/// Finds a method, without regard to case as the official server does.
///
/// # Errors
/// The text of the completion's error (reference: the official server's texts, which clients show).
pub fn find<'a>(methods: &'a [Method], target: &str) -> Result<&'a Method, String> {
    let found = methods.iter().find(|method| method.name.eq_ignore_ascii_case(target));
    found.ok_or_else(|| unknown(target))
}

/// What a method is called with.
pub trait Argument: Sized + Send + 'static {
    /// Reads it.
    ///
    /// # Errors
    /// The text of the completion's error.
    fn read(target: &str, arguments: Vec<Data>) -> Result<Self, String>;

    /// The messages that the recipient says with it to have.
    fn acknowledged(&self) -> &[MessageId] {
        &[]
    }
}

/// A method without an argument.
pub struct Nothing;

impl Argument for Nothing {
    fn read(target: &str, arguments: Vec<Data>) -> Result<Nothing, String> {
        none(target, &arguments).map(|()| Nothing)
    }
}

/// Anything at all.
impl Argument for Data {
    fn read(target: &str, arguments: Vec<Data>) -> Result<Data, String> {
        let [argument] =
            <[Data; 1]>::try_from(arguments).map_err(|given| miscounted(target, given.len(), 1))?;
        Ok(argument)
    }
}

/// What a handler knows of its call.
pub struct Invocation {
    /// The appliance.
    pub app: App,
    /// Who calls.
    pub caller: Caller,
    /// When each message that the argument acknowledges was written to the connection.
    pub written_at: Vec<Option<OffsetDateTime>>,
    /// The connection; 0 for none.
    pub connection: u64,
}

type Answering = Pin<Box<dyn Future<Output = Result<Data, Error>> + Send>>;

/// A call that can be carried out.
pub struct Call {
    method: &'static str,
    acknowledged: Vec<MessageId>,
    /// What it counts as before it runs.
    counted: Option<RateClass>,
    run: Box<dyn FnOnce(Invocation) -> Answering + Send>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Call").field(&self.method).field(&self.acknowledged).finish()
    }
}

/// How a call went.
pub struct Done {
    /// The answer.
    pub outcome: Outcome,
    /// The recipient has these: they leave the connection's window.
    pub acknowledged: Vec<MessageId>,
}

impl Call {
    /// Of a method with this argument. What it counts as is said by its row ([`Method::bind`]).
    pub(super) fn new<A, R>(
        method: &'static str,
        argument: A,
        handler: impl FnOnce(Invocation, A) -> R + Send + 'static,
    ) -> Call
    where
        A: Argument,
        R: Future<Output = Result<Data, Error>> + Send + 'static,
    {
        Call {
            method,
            acknowledged: argument.acknowledged().to_vec(),
            counted: None,
            run: Box::new(move |invocation| Box::pin(handler(invocation, argument))),
        }
    }

    /// The messages that the recipient says with it to have.
    pub fn acknowledged(&self) -> &[MessageId] {
        &self.acknowledged
    }

    /// Does what was asked.
    pub async fn run(self, invocation: Invocation) -> Done {
        count(self.method);
        let passed = match self.counted {
            Some(class) => invocation.app.count_call(&invocation.caller, class).await,
            None => Ok(()),
        };
        let answered = match passed {
            Ok(()) => (self.run)(invocation).await,
            Err(limited) => Err(limited),
        };
        match answered {
            Ok(value) => Done { outcome: Outcome::Value(value), acknowledged: self.acknowledged },
            // What could not be stored stays in the window: it will be said again.
            Err(error) => Done {
                outcome: Outcome::Error(failed(self.method, &error)),
                acknowledged: Vec::new(),
            },
        }
    }
}

fn count(method: &'static str) {
    metrics::counter!("esh3ar_hub_invocations_total", "method" => method).increment(1);
}

/// The text for an error of the application; clients see everything after `HubException: `.
fn failed(method: &str, error: &Error) -> String {
    let (_, code) = reply::classify(error);
    metrics::counter!("esh3ar_errors_total", "way" => "hub", "code" => code).increment(1);
    failed_with(method, &format!("{code}: {error}"))
}

/// The text for an application error of a method.
pub(super) fn failed_with(method: &str, text: &str) -> String {
    let method = shown(method);
    format!("An unexpected error occurred invoking '{method}' on the server. HubException: {text}")
}

/// The text for a method that is not there.
fn unknown(target: &str) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. HubException: Method does not exist.",
        shown(target)
    )
}

/// Whether a method is called in the way that it answers.
fn check_kind(method: &str, streams: bool, kind: Kind) -> Result<(), String> {
    match (streams, kind) {
        (false, Kind::Plain) | (true, Kind::Stream) => Ok(()),
        (true, Kind::Plain) => Err(format!(
            "The client attempted to invoke the streaming '{method}' method with a non-streaming \
             invocation."
        )),
        (false, Kind::Stream) => Err(format!(
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
    Err(failed_with(method, &text))
}

/// Reads the one argument of a method.
///
/// # Errors
/// The text of the completion's error.
pub fn one<T: DeserializeOwned>(target: &str, arguments: Vec<Data>) -> Result<T, String> {
    // The official server does not say what is wrong; who misspelt a field would look for it long.
    serde_json::from_value(Data::read(target, arguments)?.into_json())
        .map_err(|error| misfit(target, cut(&excerpt_of_fault(&error.to_string()), 300)))
}

pub(super) fn none(target: &str, arguments: &[Data]) -> Result<(), String> {
    if arguments.is_empty() { Ok(()) } else { Err(miscounted(target, arguments.len(), 0)) }
}

fn miscounted(target: &str, given: usize, expected: usize) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. InvalidDataException: Invocation \
         provides {given} argument(s) but target expects {expected}.",
        shown(target)
    )
}

/// Arguments of which nothing can be made, and why.
pub(super) fn misfit(target: &str, why: &str) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. InvalidDataException: Error binding \
         arguments. Make sure that the types of the provided values match the types of the hub \
         method being invoked. {why}.",
        shown(target)
    )
}

/// What a client sent, cut so that an answer cannot be blown up with it.
fn shown(text: &str) -> &str {
    cut(text, 100)
}

fn cut(text: &str, chars: usize) -> &str {
    let end = text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}
