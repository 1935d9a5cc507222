//! Where the administrator's commands are carried out: on the database that this machine opens, or by a
//! server elsewhere, over its admin API. Either way they ask the same routes, so that they do and show
//! the same.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Deserialize as _;
use serde_json::Value;

use super::{
    Setup,
    answer::{Page, read},
    exit::{Failure, Kind, MAKE_ROOM},
    opened::{self, Opened},
    why::{Why, operator},
};
use crate::{
    client::{self, ApiClient, LongAnswer, encode},
    config,
    server::{
        in_process::{self, InProcessClient},
        reply::{ProblemBody, code},
    },
};

/// The largest page of a list.
const PAGE: usize = 200;
/// The most that a command lists.
pub(super) const MOST: usize = 10_000;

/// How long an answer that comes line by line may be silent.
const SILENCE: Duration = Duration::from_secs(120);

/// The most bytes of certificates that are trusted.
const MOST_ROOTS: u64 = 1 << 20;

/// A server elsewhere.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct RemoteArgs {
    /// Administer the server at this address over its API, instead of the database of this machine
    /// [env: ESH3AR_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<String>,
    /// File with an administrator's token for --url [env: ESH3AR_TOKEN, the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Trust the certificates of this PEM file too, beside the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
}

impl RemoteArgs {
    /// The API of that server.
    fn api(&self, url: &str) -> Result<ApiClient, Failure> {
        if url.contains('@') {
            // It is not repeated: a password may be in it.
            return Err(Failure::new(Kind::Usage, "--url must be an address without a login")
                .hint("the token comes from --token-file FILE or ESH3AR_TOKEN"));
        }
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            return Err(Failure::new(Kind::Usage, format!("'{url}' is no address of a server"))
                .hint("write https://messages.example.org, or http://127.0.0.1:5000"));
        }
        let roots = self.ca_file.as_deref().map(|path| text_of(path, MOST_ROOTS)).transpose()?;
        ApiClient::trusting(url, &self.token()?, roots.as_deref().map(str::as_bytes)).map_err(
            |error| {
                Failure::new(Kind::Config, format!("--ca-file cannot be used: {error}"))
                    .hint("it holds certificates in PEM form")
            },
        )
    }

    fn token(&self) -> Result<String, Failure> {
        let token = match &self.token_file {
            Some(path) => text_of(path, config::LONGEST_SECRET)?,
            None => std::env::var("ESH3AR_TOKEN").unwrap_or_default(),
        };
        let token = token.trim();
        if token.is_empty() || token.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Failure::new(Kind::Usage, "--url needs an administrator's token")
                .hint("give --token-file FILE or ESH3AR_TOKEN; on the server: esh3ar token create --user NAME"));
        }
        Ok(token.to_owned())
    }
}

fn text_of(path: &Path, most: u64) -> Result<String, Failure> {
    config::read_bounded(path, most).map_err(|error| {
        Failure::new(Kind::Config, format!("{} cannot be read: {error}", path.display()))
            .hint("check the path, its permissions and what is in it")
    })
}

/// The admin API, wherever it is, and what is open for it.
pub(super) struct Admin {
    way: Way,
    opened: Option<Box<Opened>>,
}

/// The way to the admin API. Cheap to clone.
#[derive(Clone)]
pub(super) enum Way {
    /// In this process, over a database that it has opened.
    Here(InProcessClient),
    /// At a server.
    There {
        /// The way there.
        api: ApiClient,
        /// Its address.
        url: String,
    },
}

impl Deref for Admin {
    type Target = Way;

    fn deref(&self) -> &Way {
        &self.way
    }
}

impl Admin {
    /// Opens the database, or prepares to ask the server that was named.
    pub(super) async fn open(setup: &Setup) -> Result<Admin, Failure> {
        match Admin::there(setup)? {
            Some(there) => Ok(there),
            None => Ok(Admin::here(opened::open(setup).await?)),
        }
    }

    /// Over a database that is open.
    pub(super) fn here(opened: Opened) -> Admin {
        let way = Way::Here(InProcessClient::new(opened.app.clone()));
        Admin { way, opened: Some(Box::new(opened)) }
    }

    /// At the server that was named, if one was.
    pub(super) fn there(setup: &Setup) -> Result<Option<Admin>, Failure> {
        let Some(url) = &setup.remote.url else { return Ok(None) };
        if url.starts_with("http://") && !is_near(url) {
            setup.output.note("the token is sent unencrypted: use https://");
        }
        let way = Way::There { api: setup.remote.api(url)?, url: url.clone() };
        Ok(Some(Admin { way, opened: None }))
    }

    /// Closes what is open, then gives the command's own result.
    pub(super) async fn close<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        let Admin { way, opened } = self;
        drop(way);
        match opened {
            Some(opened) => opened.close(result).await,
            None => result,
        }
    }
}

impl Way {
    /// Whether it is over a database of this machine's.
    pub(super) fn is_here(&self) -> bool {
        matches!(self, Way::Here(_))
    }

    /// Asks. `path` begins after `/api/v1/admin`.
    pub(super) async fn ask(
        &self,
        why: &Why,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let path = format!("/api/v1/admin{path}");
        let (status, body) = match self {
            Way::Here(inside) => {
                let by = operator().because(why.text())?;
                inside.ask(by, method, &path, body).await
            }
            Way::There { api, url } => {
                let answer = api.ask(method, &path, body, why.text()).await;
                let answer = answer.map_err(|error| unreached(url, &error))?;
                (answer.status, answer.body)
            }
        };
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(self.refused(status, &body))
    }

    /// Asks for what comes line by line, each a JSON document.
    pub(super) async fn ask_lines(
        &self,
        why: &Why,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Lines, Failure> {
        let path = format!("/api/v1/admin{path}");
        let (status, body) = match self {
            Way::Here(inside) => {
                let by = operator().because(why.text())?;
                let (status, pieces) = inside.ask_streamed(by, method, &path, body).await;
                if (200..300).contains(&status) {
                    return Ok(Lines::of(Pieces::Here(pieces)));
                }
                (status, pieces.json().await)
            }
            Way::There { api, url } => {
                let answer = api.ask_long(method, &path, body, why.text(), SILENCE).await;
                match answer.map_err(|error| unreached(url, &error))? {
                    LongAnswer::Pieces(pieces) => {
                        let url = url.clone();
                        return Ok(Lines::of(Pieces::There { pieces, url }));
                    }
                    LongAnswer::Whole(answer) => (answer.status, answer.body),
                }
            }
        };
        Err(self.refused(status, &body))
    }

    /// Reads something.
    pub(super) async fn get(&self, why: &Why, path: &str) -> Result<Value, Failure> {
        self.ask(why, "GET", path, None).await
    }

    /// Reads a list, page after page, until there are `limit`. Gives also whether there is more.
    pub(super) async fn list(
        &self,
        why: &Why,
        path: &str,
        query: &Query,
        limit: usize,
    ) -> Result<(Vec<Value>, bool), Failure> {
        let limit = limit.clamp(1, MOST);
        let mut items: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let size = PAGE.min(limit - items.len());
            let page = query.clone().with("limit", size).with_some("after", after.as_deref());
            let page: Page = read(&self.get(why, &format!("{path}{page}")).await?)?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() || items.len() >= limit {
                return Ok((items, after.is_some()));
            }
        }
    }

    /// What to say of an answer that is none of success.
    pub(super) fn refused(&self, status: u16, problem: &Value) -> Failure {
        let kind = match status {
            400 => Kind::Usage,
            404 => Kind::NotFound,
            401 | 403 | 409 | 422 => Kind::Refused,
            429 | 503 => Kind::Unavailable,
            _ => Kind::Failed,
        };
        let problem = ProblemBody::deserialize(problem).ok();
        let url = match self {
            Way::Here(_) => {
                let detail = problem.as_ref().map(|problem| problem.detail);
                let failure = Failure::new(kind, detail.unwrap_or("an internal error"));
                let is_full = problem.is_some_and(|problem| problem.code == code::DISK_FULL);
                return match kind {
                    Kind::Unavailable if is_full => failure.hint(MAKE_ROOM),
                    Kind::Unavailable => failure.hint("run: esh3ar doctor"),
                    _ => failure,
                };
            }
            Way::There { url, .. } => url,
        };
        let Some(ProblemBody { detail, code, retry_after, .. }) = problem else {
            // No problem of ours: a proxy, or something else altogether.
            let kind = if status >= 500 { Kind::Unavailable } else { Kind::Failed };
            return Failure::new(kind, format!("{url} answered {status}, which is not esh3ar"))
                .hint("check --url");
        };
        match (status, code) {
            (401, _) => Failure::new(kind, format!("{url} does not take this token"))
                .hint("it expired or was revoked, or is another server's"),
            (403, _) => Failure::new(kind, format!("this token may not administer: {detail}"))
                .hint("it needs a user with the permission Admin: esh3ar user set NAME --permission …"),
            (404, code::ROUTE_NOT_FOUND) => {
                Failure::new(Kind::Failed, format!("{url} does not know how to do this"))
                    .hint("its esh3ar may be older than this one")
            }
            _ => {
                let failure = Failure::new(kind, detail);
                match (kind, retry_after) {
                    (Kind::Unavailable, Some(wait)) => failure.hint(format!("try again in {wait} s")),
                    (Kind::Unavailable, None) => failure.hint("on the server, run: esh3ar doctor"),
                    _ => failure,
                }
            }
        }
    }
}

/// An answer that comes line by line.
pub(super) struct Lines {
    pieces: Pieces,
    came: Vec<u8>,
    /// How much of it was looked through for the end of a line.
    seen: usize,
}

enum Pieces {
    Here(in_process::ResponseChunks),
    There { pieces: client::Pieces, url: String },
}

impl Lines {
    /// The longest line.
    const LONGEST: usize = 16 << 20;

    fn of(pieces: Pieces) -> Lines {
        Lines { pieces, came: Vec::new(), seen: 0 }
    }

    /// The next line, without its end; `None` after the last.
    ///
    /// # Errors
    /// The answer broke off.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            let fresh = self.came.get(self.seen..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.came.split_off(self.seen + end + 1);
                let line = std::mem::replace(&mut self.came, rest);
                self.seen = 0;
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            self.seen = self.came.len();
            let piece = match &mut self.pieces {
                Pieces::Here(pieces) => pieces.next().await.map_err(|error| {
                    Failure::new(Kind::Unavailable, error.to_string()).hint("run: esh3ar doctor")
                })?,
                Pieces::There { pieces, url } => pieces.next().await.map_err(|error| {
                    let what = format!("the answer of {url} broke off: {error}");
                    Failure::new(Kind::Unavailable, what).hint("run the same again")
                })?,
            };
            match piece {
                Some(piece) if self.came.len() + piece.len() <= Lines::LONGEST => {
                    self.came.extend_from_slice(&piece);
                }
                Some(_) => {
                    return Err(Failure::new(Kind::Failed, "a line of the answer has no end"));
                }
                None if self.came.is_empty() => return Ok(None),
                // A line without its end is no line.
                None => return Err(Failure::new(Kind::Failed, "the answer broke off")),
            }
        }
    }
}

fn unreached(url: &str, error: &client::Error) -> Failure {
    Failure::new(Kind::Unavailable, format!("{url} cannot be reached: {error}"))
        .hint("check --url, --ca-file, and that esh3ar serve runs there")
}

/// Whether what is sent there stays on this machine.
fn is_near(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else { return false };
    let host = url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// How many a list is to show, of what is typed.
///
/// # Errors
/// It is no number, or 0.
pub(super) fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "a whole number above 0".to_owned())
}

/// A query: names and values.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    text: String,
}

impl Query {
    /// With one more.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: impl ToString) -> Query {
        self.text.push(if self.text.is_empty() { '?' } else { '&' });
        self.text.push_str(&format!("{name}={}", encode(&value.to_string())));
        self
    }

    /// With one more, if it is given.
    #[must_use]
    pub(super) fn with_some(self, name: &str, value: Option<impl ToString>) -> Query {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_this_machine_is_near() {
        for near in ["http://127.0.0.1:5000", "http://localhost", "http://[::1]:80/x"] {
            assert!(super::is_near(near), "{near}");
        }
        for far in [
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://10.0.0.1",
            "x y",
        ] {
            assert!(!super::is_near(far), "{far}");
        }
    }
}
