//! Traces for OpenTelemetry: the steps of followed messages, sent to a collector with OTLP over HTTP.
//!
//! A span's trace is its message's id. All spans of a message lie below `accept`, whose own id is the
//! second half of the message's, so that every process knows it. The processors of the library are not
//! used: they run on a thread of their own and count nothing of what they drop.

use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    domain::trace::{Cause, Fact, Step, StepKind},
    outbound::{AddressPolicy, OutboundClient, OutboundLimits},
};

/// Steps that may wait for the collector; what comes then is dropped and counted.
pub const WAITING: usize = 8192;
/// The most spans in one request, and how long they are gathered.
const BATCH: usize = 512;
const GATHERED: Duration = Duration::from_secs(1);
/// How long the collector may take for one request.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last spans may take when the process stops.
const LAST: Duration = Duration::from_secs(2);
/// How often it is said that the collector takes nothing.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// The most of an answer that is read.
const ANSWER: usize = 64 * 1024;

/// The collector's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("traces.endpoint cannot be used: {0}")]
pub struct Unusable(String);

/// Who tells the collector.
#[derive(Clone, Debug)]
pub struct Teller {
    /// The process among the others.
    pub node: String,
    /// What it is for: `serve`, `gateway` or `worker`.
    pub role: &'static str,
    /// The machine's name.
    pub host: String,
}

/// The way to the collector.
pub struct Collector {
    exporter: SpanExporter,
    /// When it was last said that it takes nothing, and how many spans that have been since.
    said: Option<Instant>,
    lost: u64,
}

impl Collector {
    /// A way to the collector at this address, such as `http://127.0.0.1:4318`. Connects only when there
    /// is something to tell.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn new(endpoint: &str, teller: Teller) -> Result<Collector, Unusable> {
        let unusable = |error: &dyn std::fmt::Display| Unusable(error.to_string());
        let limits = OutboundLimits {
            policy: AddressPolicy::Anywhere,
            timeout: PATIENCE,
            max_response_len: ANSWER,
            truncate: true,
            ..OutboundLimits::default()
        };
        let client = OutboundClient::new(limits).map_err(|error| unusable(&error))?;
        let base = endpoint.trim_end_matches('/');
        let path = if base.ends_with("/v1/traces") { "" } else { "/v1/traces" };
        // Not tried again: the library waits for that on the runtime's own thread.
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(client))
            .with_endpoint(format!("{base}{path}"))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(PATIENCE)
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| unusable(&error))?;
        exporter.set_resource(
            &Resource::builder_empty()
                .with_service_name("esh3ar")
                .with_attributes([
                    KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                    KeyValue::new("service.instance.id", teller.node),
                    KeyValue::new("host.name", teller.host),
                    KeyValue::new("esh3ar.role", teller.role),
                ])
                .build(),
        );
        Ok(Collector { exporter, said: None, lost: 0 })
    }

    /// Tells the collector of steps until `stop`; then what waits is told within two seconds.
    pub async fn run(self, steps: mpsc::Receiver<Step>, stop: CancellationToken) {
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            () = self.tell(steps, stop.clone()) => {}
            () = late => tracing::warn!("the last spans did not reach traces.endpoint in time"),
        }
    }

    async fn tell(mut self, mut steps: mpsc::Receiver<Step>, stop: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            let none = tokio::select! {
                count = steps.recv_many(&mut batch, BATCH) => count == 0,
                () = stop.cancelled(), if !steps.is_closed() => {
                    steps.close();
                    false
                }
            };
            if none {
                return;
            }
            let until = tokio::time::Instant::now() + GATHERED;
            while !steps.is_closed() && !batch.is_empty() && batch.len() < BATCH {
                let room = BATCH - batch.len();
                tokio::select! {
                    _ = steps.recv_many(&mut batch, room) => {}
                    () = tokio::time::sleep_until(until) => break,
                    () = stop.cancelled() => steps.close(),
                }
            }
            if !batch.is_empty() {
                self.export(batch.into_iter().map(span).collect()).await;
            }
        }
    }

    async fn export(&mut self, spans: Vec<SpanData>) {
        let count = spans.len() as u64;
        let told = match timeout(PATIENCE, self.exporter.export(spans)).await {
            Ok(told) => told.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer in {} s", PATIENCE.as_secs())),
        };
        let result = if told.is_ok() { "exported" } else { "failed" };
        metrics::counter!("esh3ar_trace_spans_total", "result" => result).increment(count);
        let Err(why) = told else { return };
        self.lost += count;
        if self.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            tracing::warn!(why, spans = self.lost, "spans did not reach traces.endpoint");
            (self.said, self.lost) = (Some(Instant::now()), 0);
        }
    }
}

/// The library's client would be another TLS stack, or another version of this one.
#[derive(Debug)]
struct Client(OutboundClient);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.send(request).await?;
        let mut response = Response::builder().status(answer.status);
        if let Some(headers) = response.headers_mut() {
            *headers = answer.headers;
        }
        Ok(response.body(answer.body)?)
    }
}

fn span(step: Step) -> SpanData {
    let trace = TraceId::from(step.message.0.as_u128());
    let (_, accept) = step.message.0.as_u64_pair();
    let (own, parent, kind) = match step.kind {
        StepKind::Accept => (accept, 0, SpanKind::Server),
        StepKind::HandOver => (fresh(), accept, SpanKind::Consumer),
        StepKind::Write => (fresh(), accept, SpanKind::Producer),
        StepKind::Acknowledge | StepKind::Retry | StepKind::DeadLetter => {
            (fresh(), accept, SpanKind::Internal)
        }
    };
    let failed = step.kind == StepKind::DeadLetter;
    let id = KeyValue::new("message.id", step.message.to_string());
    let facts = step.facts.into_iter().map(|(name, fact)| {
        let value = match fact {
            Fact::Text(text) => Value::from(text),
            Fact::Number(number) => Value::from(number),
        };
        KeyValue::new(format!("esh3ar.{name}"), value)
    });
    let mut links = SpanLinks::default();
    links.links.extend(step.cause.map(link));
    SpanData {
        span_context: context(trace, own, true, false),
        parent_span_id: SpanId::from(parent),
        parent_span_is_remote: parent != 0,
        span_kind: kind,
        name: step.kind.name().into(),
        start_time: SystemTime::from(step.began),
        end_time: SystemTime::from(step.ended),
        attributes: std::iter::once(id).chain(facts).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: if failed { Status::error("given up") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("esh3ar")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

/// A span's id that no other has. Half of a random UUID, of which two bits are always the same.
fn fresh() -> u64 {
    Uuid::new_v4().as_u64_pair().1
}

fn context(trace: TraceId, span: u64, followed: bool, remote: bool) -> SpanContext {
    let flags = if followed { TraceFlags::SAMPLED } else { TraceFlags::default() };
    SpanContext::new(trace, SpanId::from(span), flags, remote, TraceState::default())
}

fn link(cause: Cause) -> Link {
    let context = context(TraceId::from(cause.trace), cause.span, cause.followed, true);
    Link::new(context, Vec::new(), 0)
}
