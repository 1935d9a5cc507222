//! The HTTP API.

use std::time::Duration;

use serde_json::Value;

use super::Error;

/// A caller with a token.
#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// An answer of success.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, null when there is none.
    pub body: Value,
}

impl ApiClient {
    /// A client of the server at `base`, such as `http://127.0.0.1:5000`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(base: &str, token: &str) -> Result<ApiClient, Error> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| Error::Connection(error.to_string()))?;
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
    pub async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.answer(self.http.get(format!("{}{path}", self.base))).await
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.answer(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Answer, Error> {
        let response = request
            .bearer_auth(&self.token)
            .send()
            .await
            .map_err(|error| Error::Connection(error.to_string()))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| Error::Connection(error.to_string()))?;
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(Answer { status: status.as_u16(), body });
        }
        let detail = body["detail"].as_str().map_or(text.as_str(), |detail| detail).to_owned();
        Err(Error::Refused { status: status.as_u16(), detail })
    }
}

/// The text of a page that needs no token.
///
/// # Errors
/// See [`Error`].
pub async fn fetch(url: &str) -> Result<String, Error> {
    let broken = |error: reqwest::Error| Error::Connection(error.to_string());
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(5)).build().map_err(broken)?;
    client.get(url).send().await.map_err(broken)?.text().await.map_err(broken)
}
