//! OpenTelemetry traces of sampled messages, exported by OTLP over HTTP.
//!
//! The trace id is the message id. All spans of a message are children of `accept`, whose span id is the
//! second half of the message id, so that every process knows it. The library's batch processors are not
//! used: they run on their own thread and do not count what they drop.

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
    domain::trace::{TraceAttribute, TraceParent, TraceStep, TraceStepKind},
    outbound::{AddressPolicy, OutboundClient, OutboundLimits},
};

/// Steps queued for export; further ones are dropped and counted.
pub const QUEUE_CAPACITY: usize = 8192;
/// Spans per export request, and how long they are collected.
const BATCH_SIZE: usize = 512;
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to export the last spans at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Minimum interval between warnings about failed exports.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum length of a collector's response, in bytes.
const MAX_RESPONSE_LEN: usize = 64 * 1024;

/// The collector's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("traces.endpoint cannot be used: {0}")]
pub struct InvalidEndpoint(String);

/// The resource attributes of this process.
#[derive(Clone, Debug)]
pub struct TraceResource {
    /// Node id.
    pub node: String,
    /// `serve`, `gateway` or `worker`.
    pub role: &'static str,
    pub host: String,
}

/// Exports spans to a collector.
pub struct TraceExporter {
    exporter: SpanExporter,
    /// The last warning about failed exports, and the spans lost since.
    last_warning: Option<Instant>,
    lost: u64,
}

impl TraceExporter {
    /// An exporter to this endpoint, such as `http://127.0.0.1:4318`. Connects at the first export.
    /// `extra_roots` are certificates in PEM that are trusted in addition to the system's.
    ///
    /// # Errors
    /// [`InvalidEndpoint`].
    pub fn new(
        endpoint: &str,
        resource: TraceResource,
        extra_roots: Option<Vec<u8>>,
    ) -> Result<TraceExporter, InvalidEndpoint> {
        let invalid = |error: &dyn std::fmt::Display| InvalidEndpoint(error.to_string());
        let limits = OutboundLimits {
            policy: AddressPolicy::Anywhere,
            timeout: EXPORT_TIMEOUT,
            max_response_len: MAX_RESPONSE_LEN,
            truncate: true,
            extra_roots,
            ..OutboundLimits::default()
        };
        let client = OutboundClient::new(limits).map_err(|error| invalid(&error))?;
        let base = endpoint.trim_end_matches('/');
        let path = if base.ends_with("/v1/traces") { "" } else { "/v1/traces" };
        // No retries: the library would block the runtime's thread for them.
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(ExporterHttpClient(client))
            .with_endpoint(format!("{base}{path}"))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(EXPORT_TIMEOUT)
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| invalid(&error))?;
        exporter.set_resource(
            &Resource::builder_empty()
                .with_service_name("esh3ar")
                .with_attributes([
                    KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                    KeyValue::new("service.instance.id", resource.node),
                    KeyValue::new("host.name", resource.host),
                    KeyValue::new("esh3ar.role", resource.role),
                ])
                .build(),
        );
        Ok(TraceExporter { exporter, last_warning: None, lost: 0 })
    }

    /// Exports steps until `stop`, then what is queued, for at most two seconds.
    pub async fn run(self, steps: mpsc::Receiver<TraceStep>, stop: CancellationToken) {
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            () = self.export_all(steps, stop.clone()) => {}
            () = late => tracing::warn!("shutdown: spans not exported in time"),
        }
    }

    async fn export_all(mut self, mut steps: mpsc::Receiver<TraceStep>, stop: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            let none = tokio::select! {
                count = steps.recv_many(&mut batch, BATCH_SIZE) => count == 0,
                () = stop.cancelled(), if !steps.is_closed() => {
                    steps.close();
                    false
                }
            };
            if none {
                return;
            }
            let until = tokio::time::Instant::now() + BATCH_INTERVAL;
            while !steps.is_closed() && !batch.is_empty() && batch.len() < BATCH_SIZE {
                let room = BATCH_SIZE - batch.len();
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
        let exported = match timeout(EXPORT_TIMEOUT, self.exporter.export(spans)).await {
            Ok(exported) => exported.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer in {} s", EXPORT_TIMEOUT.as_secs())),
        };
        let result = if exported.is_ok() { "exported" } else { "failed" };
        metrics::counter!("esh3ar_trace_spans_total", "result" => result).increment(count);
        let Err(why) = exported else { return };
        self.lost += count;
        if self.last_warning.is_none_or(|last_warning| last_warning.elapsed() >= WARNING_INTERVAL) {
            tracing::warn!(why, spans = self.lost, "trace export failed");
            (self.last_warning, self.lost) = (Some(Instant::now()), 0);
        }
    }
}

/// The library's own client would add a second TLS stack or HTTP client version.
#[derive(Debug)]
struct ExporterHttpClient(OutboundClient);

#[async_trait]
impl HttpClient for ExporterHttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.send(request).await?;
        let mut response = Response::builder().status(answer.status);
        if let Some(headers) = response.headers_mut() {
            *headers = answer.headers;
        }
        Ok(response.body(answer.body)?)
    }
}

fn span(step: TraceStep) -> SpanData {
    let trace = TraceId::from(step.message.0.as_u128());
    let (_, accept) = step.message.0.as_u64_pair();
    let (own, parent, kind) = match step.kind {
        TraceStepKind::Accept => (accept, 0, SpanKind::Server),
        TraceStepKind::HandOver => (fresh(), accept, SpanKind::Consumer),
        TraceStepKind::Write => (fresh(), accept, SpanKind::Producer),
        TraceStepKind::Acknowledge | TraceStepKind::Retry | TraceStepKind::DeadLetter => {
            (fresh(), accept, SpanKind::Internal)
        }
    };
    let failed = step.kind == TraceStepKind::DeadLetter;
    let id = KeyValue::new("message.id", step.message.to_string());
    let facts = step.facts.into_iter().map(|(name, fact)| {
        let value = match fact {
            TraceAttribute::Text(text) => Value::from(text),
            TraceAttribute::Number(number) => Value::from(number),
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

/// A random span id: half of a UUIDv4, two bits of which are fixed.
fn fresh() -> u64 {
    Uuid::new_v4().as_u64_pair().1
}

fn context(trace: TraceId, span: u64, followed: bool, remote: bool) -> SpanContext {
    let flags = if followed { TraceFlags::SAMPLED } else { TraceFlags::default() };
    SpanContext::new(trace, SpanId::from(span), flags, remote, TraceState::default())
}

fn link(cause: TraceParent) -> Link {
    let context = context(TraceId::from(cause.trace), cause.span, cause.followed, true);
    Link::new(context, Vec::new(), 0)
}
