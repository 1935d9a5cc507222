//! The hub: negotiation, a WebSocket, and JSON records ended by 0x1E.

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message as Frame, client::IntoClientRequest as _},
};

use super::{ApiClient, Error};

const RECORD_END: char = '\u{1e}';
/// Events that are kept while a call waits for its result; more fail the connection.
const EVENT_QUEUE_CAPACITY: usize = 10_000;
/// The server closes a connection after 30 s of silence; the official clients ping at this interval.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// A message of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum HubEvent {
    /// A call of a client method.
    Invocation {
        /// The method.
        target: String,
        /// Its arguments.
        arguments: Vec<Value>,
    },
    /// The result of a call.
    Completion {
        /// The invocation id.
        id: String,
        /// The result, or the error's text.
        result: Result<Value, String>,
    },
    /// A keep-alive.
    Ping,
    /// The server closes the connection.
    Close {
        /// The reason, if it is an error.
        error: Option<String>,
        /// Whether the client may reconnect.
        allow_reconnect: bool,
    },
}

/// A connection to the hub.
pub struct HubClient {
    socket: WebSocketStream<TcpStream>,
    events: VecDeque<HubEvent>,
    calls: u64,
}

impl HubClient {
    /// Connects to the hub for messages. `base` is `http://host:port`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn connect(base: &str, token: &str) -> Result<HubClient, Error> {
        HubClient::connect_to(base, "/hub", token).await
    }

    /// Connects to the hub at a path: negotiation, WebSocket, handshake.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn connect_to(base: &str, hub: &str, token: &str) -> Result<HubClient, Error> {
        let base = base.trim_end_matches('/');
        let Some(host) = base.strip_prefix("http://") else {
            let text = "this client speaks http:// only".to_owned();
            return Err(Error::Connection(text));
        };
        let api = ApiClient::new(base, token)?;
        let answer = api.post(&format!("{hub}/negotiate?negotiateVersion=1"), &Value::Null).await?;
        let id = answer.body["connectionToken"]
            .as_str()
            .ok_or_else(|| Error::Protocol("negotiation gave no connectionToken".to_owned()))?;
        let broken = |error: &dyn std::fmt::Display| Error::Connection(error.to_string());
        let mut request = format!("ws://{host}{hub}?id={id}")
            .into_client_request()
            .map_err(|error| broken(&error))?;
        let bearer = format!("Bearer {token}").parse().map_err(|_| broken(&"unfit token"))?;
        request.headers_mut().insert("authorization", bearer);
        let tcp = TcpStream::connect(host).await.map_err(|error| broken(&error))?;
        tcp.set_nodelay(true).map_err(|error| broken(&error))?;
        let (socket, _) = client_async(request, tcp).await.map_err(|error| broken(&error))?;
        let mut client = HubClient { socket, events: VecDeque::new(), calls: 0 };
        client.write(&json!({ "protocol": "json", "version": 1 })).await?;
        let text = client.read_text().await?;
        let mut records = text.split(RECORD_END).filter(|record| !record.is_empty());
        let first: Value = records.next().map(parse).transpose()?.unwrap_or_default();
        if let Some(error) = first["error"].as_str() {
            return Err(Error::Protocol(error.to_owned()));
        }
        for record in records {
            client.enqueue(&parse(record)?)?;
        }
        // Starts the server's keep-alive timeout, as the official clients do.
        client.write(&json!({ "type": 6 })).await?;
        Ok(client)
    }

    /// The next message of the server, pings included.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn next(&mut self) -> Result<HubEvent, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.fill().await?;
        }
    }

    /// Calls a method and waits for its result; other messages are kept for [`HubClient::next`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn call(
        &mut self,
        target: &str,
        arguments: Vec<Value>,
        timeout: Duration,
    ) -> Result<Value, Error> {
        self.calls += 1;
        let id = self.calls.to_string();
        self.write(&json!({
            "type": 1, "invocationId": id, "target": target, "arguments": arguments,
        }))
        .await?;
        tokio::time::timeout(timeout, self.completion(&id)).await.map_err(|_| Error::TimedOut)?
    }

    async fn completion(&mut self, wanted: &str) -> Result<Value, Error> {
        loop {
            let is_wanted =
                |event: &HubEvent| matches!(event, HubEvent::Completion { id, .. } if id == wanted);
            if let Some(at) = self.events.iter().position(is_wanted)
                && let Some(HubEvent::Completion { result, .. }) = self.events.remove(at)
            {
                return result.map_err(Error::Call);
            }
            self.fill().await?;
        }
    }

    /// Closes the connection.
    pub async fn close(mut self) {
        let _ = self.write(&json!({ "type": 7 })).await;
        let _ = self.socket.close(None).await;
    }

    async fn fill(&mut self) -> Result<(), Error> {
        loop {
            match tokio::time::timeout(PING_INTERVAL, self.read_text()).await {
                Err(_) => self.write(&json!({ "type": 6 })).await?,
                Ok(text) => {
                    for record in text?.split(RECORD_END).filter(|record| !record.is_empty()) {
                        self.enqueue(&parse(record)?)?;
                    }
                    return Ok(());
                }
            }
        }
    }

    fn enqueue(&mut self, record: &Value) -> Result<(), Error> {
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let event = match record["type"].as_u64() {
            Some(1) => HubEvent::Invocation {
                target: text("target"),
                arguments: record["arguments"].as_array().cloned().unwrap_or_default(),
            },
            Some(3) => HubEvent::Completion {
                id: text("invocationId"),
                result: match record["error"].as_str() {
                    Some(error) => Err(error.to_owned()),
                    None => Ok(record["result"].clone()),
                },
            },
            Some(6) => HubEvent::Ping,
            Some(7) => HubEvent::Close {
                error: record["error"].as_str().map(str::to_owned),
                allow_reconnect: record["allowReconnect"].as_bool().unwrap_or_default(),
            },
            _ => return Ok(()),
        };
        if self.events.len() >= EVENT_QUEUE_CAPACITY {
            return Err(Error::Protocol("too many events while waiting for an answer".to_owned()));
        }
        self.events.push_back(event);
        Ok(())
    }

    async fn read_text(&mut self) -> Result<String, Error> {
        loop {
            match self.socket.next().await {
                Some(Ok(Frame::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Frame::Close(_))) | None => {
                    return Err(Error::Connection("the server closed the socket".to_owned()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Error::Connection(error.to_string())),
            }
        }
    }

    async fn write(&mut self, record: &Value) -> Result<(), Error> {
        let frame = Frame::text(format!("{record}{RECORD_END}"));
        self.socket.send(frame).await.map_err(|error| Error::Connection(error.to_string()))
    }
}

fn parse(record: &str) -> Result<Value, Error> {
    serde_json::from_str(record).map_err(|error| Error::Protocol(error.to_string()))
}
