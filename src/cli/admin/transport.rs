//! Where the administrator's commands are carried out: on the database that this machine opens, or by a
//! server elsewhere, over its admin API. Either way they ask the same routes, so that they do and show
//! the same.

use std::{ops::Deref, time::Duration};

use serde::Deserialize as _;
use serde_json::Value;

use super::{audit_reason::AuditReason, query::Query};
use crate::{
    cli::{
        io::{
            answer::{ResponsePage, read},
            exit::{ExitStatus, FREE_DISK_SPACE, Failure},
        },
        process::{
            database::{self, OpenApp},
            operator::operator,
        },
        remote,
        setup::Setup,
    },
    client::{self, ApiClient, StreamedResponse},
    server::{
        in_process::{self, InProcessClient},
        reply::{ProblemBody, code},
    },
};

const PAGE_SIZE: usize = 200;
pub(crate) const MAX_LISTED: usize = 10_000;

/// Between two chunks of a streamed response.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The admin API, and the database that was opened for it.
pub(crate) struct AdminClient {
    transport: AdminTransport,
    opened: Option<Box<OpenApp>>,
}

/// Reaches the admin API. Cheap to clone.
#[derive(Clone)]
pub(crate) enum AdminTransport {
    /// In this process, over an open database.
    InProcess(InProcessClient),
    /// On a server.
    Remote { api: ApiClient, url: String },
}

impl Deref for AdminClient {
    type Target = AdminTransport;

    fn deref(&self) -> &AdminTransport {
        &self.transport
    }
}

impl AdminClient {
    /// Opens the database, unless `--url` names a server.
    pub(crate) async fn open(setup: &Setup) -> Result<AdminClient, Failure> {
        match AdminClient::remote(setup)? {
            Some(there) => Ok(there),
            None => Ok(AdminClient::in_process(database::open(setup).await?)),
        }
    }

    pub(crate) fn in_process(opened: OpenApp) -> AdminClient {
        let transport = AdminTransport::InProcess(InProcessClient::new(opened.app.clone()));
        AdminClient { transport, opened: Some(Box::new(opened)) }
    }

    /// For the server that `--url` names, if it does.
    pub(crate) fn remote(setup: &Setup) -> Result<Option<AdminClient>, Failure> {
        let Some(url) = &setup.remote.url else { return Ok(None) };
        if url.starts_with("http://") && !remote::is_loopback(url) {
            setup.output.note("the token is sent unencrypted: use https://");
        }
        let transport = AdminTransport::Remote { api: setup.remote.api(url)?, url: url.clone() };
        Ok(Some(AdminClient { transport, opened: None }))
    }

    /// Closes the database, then returns the command's own result.
    pub(crate) async fn close<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        let AdminClient { transport, opened } = self;
        drop(transport);
        match opened {
            Some(opened) => opened.close(result).await,
            None => result,
        }
    }
}

impl AdminTransport {
    pub(crate) fn is_in_process(&self) -> bool {
        matches!(self, AdminTransport::InProcess(_))
    }

    /// Sends a request. `path` is relative to `/api/v1/admin`.
    pub(crate) async fn request(
        &self,
        why: &AuditReason,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let path = format!("/api/v1/admin{path}");
        let (status, body) = match self {
            AdminTransport::InProcess(inside) => {
                let by = operator().because(why.text())?;
                inside.ask(by, method, &path, body).await
            }
            AdminTransport::Remote { api, url } => {
                let answer = api.request(method, &path, body, why.text()).await;
                let answer = answer.map_err(|error| connection_failure(url, &error))?;
                (answer.status, answer.body)
            }
        };
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(self.failure(status, &body))
    }

    /// Sends a request whose response is streamed as lines of JSON.
    pub(crate) async fn request_lines(
        &self,
        why: &AuditReason,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<ResponseLines, Failure> {
        let path = format!("/api/v1/admin{path}");
        let (status, body) = match self {
            AdminTransport::InProcess(inside) => {
                let by = operator().because(why.text())?;
                let (status, chunks) = inside.ask_streamed(by, method, &path, body).await;
                if (200..300).contains(&status) {
                    return Ok(ResponseLines::of(LineSource::InProcess(chunks)));
                }
                (status, chunks.json().await)
            }
            AdminTransport::Remote { api, url } => {
                let answer =
                    api.request_streamed(method, &path, body, why.text(), IDLE_TIMEOUT).await;
                match answer.map_err(|error| connection_failure(url, &error))? {
                    StreamedResponse::Chunks(chunks) => {
                        let url = url.clone();
                        return Ok(ResponseLines::of(LineSource::Remote { chunks, url }));
                    }
                    StreamedResponse::Complete(answer) => (answer.status, answer.body),
                }
            }
        };
        Err(self.failure(status, &body))
    }

    pub(crate) async fn get(&self, why: &AuditReason, path: &str) -> Result<Value, Failure> {
        self.request(why, "GET", path, None).await
    }

    /// Reads a list page by page, up to `limit` items. Returns also whether there are more.
    pub(crate) async fn list(
        &self,
        why: &AuditReason,
        path: &str,
        query: &Query,
        limit: usize,
    ) -> Result<(Vec<Value>, bool), Failure> {
        let limit = limit.clamp(1, MAX_LISTED);
        let mut items: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let size = PAGE_SIZE.min(limit - items.len());
            let page = query.clone().with("limit", size).with_some("after", after.as_deref());
            let page: ResponsePage = read(&self.get(why, &format!("{path}{page}")).await?)?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() || items.len() >= limit {
                return Ok((items, after.is_some()));
            }
        }
    }

    /// The failure for an error response.
    pub(crate) fn failure(&self, status: u16, problem: &Value) -> Failure {
        let kind = match status {
            400 => ExitStatus::Usage,
            404 => ExitStatus::NotFound,
            401 | 403 | 409 | 422 => ExitStatus::Refused,
            429 | 503 => ExitStatus::Unavailable,
            _ => ExitStatus::Failed,
        };
        let problem = ProblemBody::deserialize(problem).ok();
        let url = match self {
            AdminTransport::InProcess(_) => {
                let detail = problem.as_ref().map(|problem| problem.detail);
                let failure = Failure::new(kind, detail.unwrap_or("an internal error"));
                let is_full = problem.is_some_and(|problem| problem.code == code::DISK_FULL);
                return match kind {
                    ExitStatus::Unavailable if is_full => failure.hint(FREE_DISK_SPACE),
                    ExitStatus::Unavailable => failure.hint("run: esh3ar doctor"),
                    _ => failure,
                };
            }
            AdminTransport::Remote { url, .. } => url,
        };
        let Some(ProblemBody { detail, code, retry_after, .. }) = problem else {
            // Not an error of esh3ar's: a proxy, or another program.
            let kind = if status >= 500 { ExitStatus::Unavailable } else { ExitStatus::Failed };
            return Failure::new(
                kind,
                format!("{url} answered {status} and is not an esh3ar server"),
            )
            .hint("check --url");
        };
        match (status, code) {
            (401, _) => Failure::new(kind, format!("{url} rejected the token"))
                .hint("it has expired, was revoked, or belongs to another server"),
            (403, _) => Failure::new(kind, format!("not an administrator's token: {detail}"))
                .hint("its user needs the permission Admin: esh3ar user set NAME --permission …"),
            (404, code::ROUTE_NOT_FOUND) => {
                Failure::new(ExitStatus::Failed, format!("{url} does not support this command"))
                    .hint("its esh3ar may be older than this one")
            }
            _ => {
                let failure = Failure::new(kind, detail);
                match (kind, retry_after) {
                    (ExitStatus::Unavailable, Some(wait)) => {
                        failure.hint(format!("try again in {wait} s"))
                    }
                    (ExitStatus::Unavailable, None) => {
                        failure.hint("on the server, run: esh3ar doctor")
                    }
                    _ => failure,
                }
            }
        }
    }
}

/// A response that is streamed line by line.
pub(crate) struct ResponseLines {
    chunks: LineSource,
    buffer: Vec<u8>,
    /// How much of it was searched for a line feed.
    scanned: usize,
}

enum LineSource {
    InProcess(in_process::ResponseChunks),
    Remote { chunks: client::BodyChunks, url: String },
}

impl ResponseLines {
    const MAX_LINE_LEN: usize = 16 << 20;

    fn of(chunks: LineSource) -> ResponseLines {
        ResponseLines { chunks, buffer: Vec::new(), scanned: 0 }
    }

    /// The next line, without its end; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.scanned + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.scanned = 0;
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            self.scanned = self.buffer.len();
            let chunk = match &mut self.chunks {
                LineSource::InProcess(chunks) => chunks.next().await.map_err(|error| {
                    Failure::new(ExitStatus::Unavailable, error.to_string())
                        .hint("run: esh3ar doctor")
                })?,
                LineSource::Remote { chunks, url } => chunks.next().await.map_err(|error| {
                    let what = format!("the response from {url} was interrupted: {error}");
                    Failure::new(ExitStatus::Unavailable, what).hint("run the command again")
                })?,
            };
            match chunk {
                Some(chunk) if self.buffer.len() + chunk.len() <= ResponseLines::MAX_LINE_LEN => {
                    self.buffer.extend_from_slice(&chunk);
                }
                Some(_) => {
                    return Err(Failure::new(
                        ExitStatus::Failed,
                        "a line of the response is too long",
                    ));
                }
                None if self.buffer.is_empty() => return Ok(None),
                // A line without a line feed is truncated.
                None => {
                    return Err(Failure::new(ExitStatus::Failed, "the response was interrupted"));
                }
            }
        }
    }
}

fn connection_failure(url: &str, error: &client::Error) -> Failure {
    Failure::new(ExitStatus::Unavailable, format!("cannot reach {url}: {error}"))
        .hint("check --url and --ca-file, and that esh3ar serve is running there")
}
