//! The HTTP API.

use std::time::Duration;

use serde_json::Value;

use super::Error;

/// A client of the HTTP API with a token.
#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// A response.
#[derive(Debug)]
pub struct ApiResponse {
    /// The HTTP status.
    pub status: u16,
    /// The body, null when there is none.
    pub body: Value,
}

/// Below the ten seconds after which the server closes an idle connection, perhaps during a request.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

impl ApiClient {
    /// A client of the server at `base`, such as `http://127.0.0.1:5000`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(base: &str, token: &str) -> Result<ApiClient, Error> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            // Loading the system's certificates takes longer than most requests.
            .tls_built_in_root_certs(!base.starts_with("http://"))
            .build()
            .map_err(|error| Error::Connection(error.to_string()))?;
        Ok(ApiClient { http, base: base.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// The same, also trusting the certificates of a PEM file, and following no redirects:
    /// the token is for this server.
    ///
    /// # Errors
    /// The certificates cannot be read, or the HTTP client cannot be made.
    pub fn with_ca(base: &str, token: &str, roots: Option<&[u8]>) -> Result<ApiClient, Error> {
        let mut builder = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        for root in roots
            .map(reqwest::Certificate::from_pem_bundle)
            .transpose()
            .map_err(connection_error)?
            .into_iter()
            .flatten()
        {
            builder = builder.add_root_certificate(root);
        }
        let http = builder.build().map_err(connection_error)?;
        Ok(ApiClient { http, base: base.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// The same client with another token; both share their connections.
    #[must_use]
    pub fn with_token(&self, token: &str) -> ApiClient {
        ApiClient { token: token.to_owned(), ..self.clone() }
    }

    /// `GET`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, path: &str) -> Result<ApiResponse, Error> {
        self.answer(self.http.get(format!("{}{path}", self.base))).await
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<ApiResponse, Error> {
        self.answer(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    /// Any request; error responses are returned, too. `reason` is for
    /// the audit log.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        reason: Option<&str>,
    ) -> Result<ApiResponse, Error> {
        let request = self.builder(method, path, body, reason)?;
        let response = request.bearer_auth(&self.token).send().await.map_err(connection_error)?;
        let status = response.status().as_u16();
        let text = response.text().await.map_err(connection_error)?;
        Ok(ApiResponse { status, body: serde_json::from_str(&text).unwrap_or_default() })
    }

    /// Any request whose response is streamed: only a pause of `idle_timeout` ends it. An
    /// error response is read to its end.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub async fn request_streamed(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        reason: Option<&str>,
        idle_timeout: Duration,
    ) -> Result<StreamedResponse, Error> {
        let request = self.builder(method, path, body, reason)?;
        let request = request.timeout(TOTAL_TIMEOUT).bearer_auth(&self.token).send();
        let response =
            tokio::time::timeout(idle_timeout, request).await.map_err(|_| Error::TimedOut)?;
        let response = response.map_err(connection_error)?;
        let status = response.status().as_u16();
        if response.status().is_success() {
            return Ok(StreamedResponse::Chunks(BodyChunks { response, idle_timeout }));
        }
        let text = response.text().await.map_err(connection_error)?;
        Ok(StreamedResponse::Complete(ApiResponse {
            status,
            body: serde_json::from_str(&text).unwrap_or_default(),
        }))
    }

    fn builder(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        reason: Option<&str>,
    ) -> Result<reqwest::RequestBuilder, Error> {
        let method = reqwest::Method::from_bytes(method.as_bytes())
            .map_err(|error| Error::Protocol(error.to_string()))?;
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(reason) = reason {
            request = request.header("x-reason", reason.as_bytes());
        }
        Ok(request)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<ApiResponse, Error> {
        let response = request.bearer_auth(&self.token).send().await.map_err(connection_error)?;
        let status = response.status();
        let text = response.text().await.map_err(connection_error)?;
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(ApiResponse { status: status.as_u16(), body });
        }
        let detail = body["detail"].as_str().map_or(text.as_str(), |detail| detail).to_owned();
        Err(Error::Refused { status: status.as_u16(), detail })
    }
}

/// For a whole streamed response.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A response that may be streamed.
pub enum StreamedResponse {
    /// The body of a success, not read yet.
    Chunks(BodyChunks),
    /// An error response.
    Complete(ApiResponse),
}

/// The chunks of a body.
pub struct BodyChunks {
    response: reqwest::Response,
    idle_timeout: Duration,
}

impl BodyChunks {
    /// The next; `None` at the end.
    ///
    /// # Errors
    /// The connection was lost, or nothing came for too long.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        let next = tokio::time::timeout(self.idle_timeout, self.response.chunk()).await;
        next.map_err(|_| Error::TimedOut)?.map_err(connection_error)
    }
}

/// The error with all its causes: the first one says only that the request failed.
fn connection_error(error: reqwest::Error) -> Error {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if is_plain_http(cause) {
            return Error::Connection("it does not speak TLS there: use http://".to_owned());
        }
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Error::Connection(text)
}

/// Whether TLS received plain HTTP.
fn is_plain_http(cause: &(dyn std::error::Error + 'static)) -> bool {
    let wanted = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    // One I/O error may be wrapped in another, and `source` skips what they hold.
    let mut inner = Some(cause);
    while let Some(error) = inner {
        if error.downcast_ref::<rustls::Error>().is_some_and(|tls| *tls == wanted) {
            return true;
        }
        let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner = held.map(|error| error as &(dyn std::error::Error + 'static));
    }
    false
}

/// Percent-encodes a path segment or a value of a query.
pub fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// For a page that needs no token.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);

fn page_error(error: reqwest::Error) -> Error {
    if error.is_timeout() { Error::TimedOut } else { connection_error(error) }
}

/// The text of a page that needs no token, within two seconds.
///
/// # Errors
/// See [`Error`].
pub async fn fetch(url: &str) -> Result<String, Error> {
    let client = reqwest::Client::builder()
        .timeout(PAGE_TIMEOUT)
        .tls_built_in_root_certs(!url.starts_with("http://"))
        .build()
        .map_err(page_error)?;
    let response = client.get(url).send().await.map_err(page_error)?;
    let status = response.status();
    let text = response.text().await.map_err(page_error)?;
    if status.is_success() {
        return Ok(text);
    }
    Err(Error::Refused { status: status.as_u16(), detail: text })
}
