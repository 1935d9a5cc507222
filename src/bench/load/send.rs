//! One sender: a connection that posts messages and reads the outcomes.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use serde::Deserialize;
use uuid::Uuid;

use super::{Error, server_address::ServerAddress};
use crate::{
    bench::checker::{SendOutcome, Tag},
    domain::MessageId,
};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Hexadecimal digits at the start of the content: the due time in microseconds since the run's zero, and the
/// tag.
pub(super) const MARK_LEN: usize = 32;

/// Bits of a tag that number the messages of a run. The other bits tell runs apart.
const RUN_TAG_BITS: u32 = 40;

/// The first tag of a new run. The server may still have messages of another one.
pub(super) fn first_tag() -> Tag {
    (Uuid::new_v4().as_u64_pair().1 >> RUN_TAG_BITS) << RUN_TAG_BITS
}

/// Whether a tag is of the run whose first tag is given.
pub(super) fn of_run(first: Tag, tag: Tag) -> bool {
    first >> RUN_TAG_BITS == tag >> RUN_TAG_BITS
}

pub(super) struct Draft<'a> {
    pub(super) to: &'a str,
    pub(super) due_micros: u64,
    pub(super) tag: Tag,
}

pub(super) struct Sender {
    place: ServerAddress,
    bearer: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Deserialize)]
struct Receipt {
    id: Option<Uuid>,
    #[serde(rename = "conversationId")]
    conversation: Option<Uuid>,
    seq: Option<i64>,
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<Receipt>,
}

impl Sender {
    pub(super) fn new(place: ServerAddress, token: &str) -> Sender {
        Sender { place, bearer: format!("Bearer {token}"), connection: None }
    }

    /// Posts one message, or several as a batch. Returns the status, 0 for no answer, and the outcome of each.
    pub(super) async fn post(
        &mut self,
        drafts: &[Draft<'_>],
        priority: &str,
        padding: &str,
    ) -> (u16, Vec<SendOutcome>) {
        let message = |draft: &Draft<'_>| {
            let Draft { to, due_micros, tag } = draft;
            format!(
                "{{\"to\":\"{to}\",\"priority\":\"{priority}\",\
                 \"content\":\"{due_micros:016x}{tag:016x}{padding}\"}}"
            )
        };
        let (path, body) = match drafts {
            [one] => ("/api/v1/messages", message(one)),
            many => {
                let all: Vec<String> = many.iter().map(message).collect();
                ("/api/v1/messages/batch", format!("{{\"messages\":[{}]}}", all.join(",")))
            }
        };
        let bearer = self.bearer.clone();
        match self.answer("POST", path, &bearer, body).await {
            Some((status, body)) => (status, told(status, &body, drafts.len())),
            None => (0, vec![SendOutcome::Unknown; drafts.len()]),
        }
    }

    /// Sends a chat message as the owner of the token.
    pub(super) async fn send_chat(
        &mut self,
        bearer: &str,
        conversation: Uuid,
        due_micros: u64,
        tag: Tag,
        padding: &str,
    ) -> (u16, SendOutcome, Option<(u64, i64)>) {
        let path = format!("/api/v1/conversations/{conversation}/messages");
        let body = format!(
            "{{\"clientMessageId\":\"{tag:016x}\",\
             \"content\":\"{due_micros:016x}{tag:016x}{padding}\"}}"
        );
        let Some((status, body)) = self.answer("POST", &path, bearer, body).await else {
            return (0, SendOutcome::Unknown, None);
        };
        let receipt = matches!(status, 200 | 201).then(|| serde_json::from_slice(&body).ok());
        match receipt.flatten() {
            Some(Receipt { id: Some(id), conversation, seq }) => {
                let place = conversation.zip(seq).map(|(id, seq)| (id.as_u64_pair().1, seq));
                (status, SendOutcome::Accepted(MessageId(id)), place)
            }
            _ => {
                let told = told(status, &[], 1).pop().unwrap_or(SendOutcome::Unknown);
                (status, told, None)
            }
        }
    }

    /// One request and its answer; `None` without one.
    pub(super) async fn answer(
        &mut self,
        method: &str,
        path: &str,
        bearer: &str,
        body: String,
    ) -> Option<(u16, Bytes)> {
        let exchange = self.exchange(method, path, bearer, body);
        match tokio::time::timeout(RESPONSE_TIMEOUT, exchange).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) | Err(_) => {
                self.connection = None;
                None
            }
        }
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        bearer: &str,
        body: String,
    ) -> Result<(u16, Bytes), Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.place.http().await?),
        };
        let failed = |error: hyper::Error| Error::Connect(error.to_string());
        connection.ready().await.map_err(failed)?;
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.place.authority())
            .header("authorization", bearer)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Error::Connect(error.to_string()))?;
        let answer = connection.send_request(request).await.map_err(failed)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(failed)?.to_bytes();
        Ok((status, body))
    }
}

fn told(status: u16, body: &[u8], count: usize) -> Vec<SendOutcome> {
    let accepted = |receipt: &Receipt| {
        receipt.id.map_or(SendOutcome::Refused, |id| SendOutcome::Accepted(MessageId(id)))
    };
    match status {
        202 => serde_json::from_slice::<Receipt>(body)
            .map_or_else(|_| vec![SendOutcome::Unknown; count], |receipt| vec![accepted(&receipt)]),
        200 => serde_json::from_slice::<BatchAnswer>(body).map_or_else(
            |_| vec![SendOutcome::Unknown; count],
            |answer| answer.results.iter().map(accepted).collect(),
        ),
        // With these the message may have been stored or not.
        500 | 502 | 503 | 504 => vec![SendOutcome::Unknown; count],
        _ => vec![SendOutcome::Refused; count],
    }
}
