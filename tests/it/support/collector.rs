//! A collector of traces: takes what OTLP over HTTP brings, and keeps the spans.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value, trace::v1 as otlp,
};
use prost::Message as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// A span, and the process that it is from.
#[derive(Clone, Debug)]
pub struct Span {
    pub role: String,
    pub span: otlp::Span,
}

impl Span {
    /// An attribute as text.
    pub fn fact(&self, name: &str) -> Option<String> {
        text_of(&self.span.attributes, name)
    }
}

fn text_of(
    attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue],
    name: &str,
) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

pub struct Collector {
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    /// All that came, to look for what must not be in it.
    raw: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (spans, raw) = (Arc::default(), Arc::default());
        let kept = (Arc::clone(&spans), Arc::clone(&raw));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                open.spawn(serve(socket, Arc::clone(&kept.0), Arc::clone(&kept.1)));
            }
        });
        Collector { endpoint, spans, raw, task }
    }

    /// The spans of a trace, in the order of their beginnings.
    pub fn of(&self, trace: &str) -> Vec<Span> {
        let trace = uuid::Uuid::parse_str(trace).unwrap();
        let spans = self.spans.lock().unwrap();
        let mut found: Vec<Span> =
            spans.iter().filter(|span| span.span.trace_id == trace.as_bytes()).cloned().collect();
        found.sort_by_key(|span| span.span.start_time_unix_nano);
        found
    }

    pub fn count(&self) -> usize {
        self.spans.lock().unwrap().len()
    }

    pub fn has_heard(&self, text: &str) -> bool {
        let raw = self.raw.lock().unwrap();
        raw.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    socket: TcpStream,
    spans: Arc<Mutex<Vec<Span>>>,
    raw: Arc<Mutex<Vec<u8>>>,
) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if socket.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().trim().parse().unwrap()];
        socket.read_exact(&mut body).await?;
        let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        for of_process in request.resource_spans {
            let resource = of_process.resource.unwrap().attributes;
            assert_eq!(text_of(&resource, "service.name").as_deref(), Some("esh3ar"));
            let role = text_of(&resource, "esh3ar.role").unwrap();
            let all = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let all = all.map(|span| Span { role: role.clone(), span });
            spans.lock().unwrap().extend(all);
        }
        raw.lock().unwrap().extend(body);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}
