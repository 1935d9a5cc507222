//! WebSockets.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as Frame,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    CLIENT_REFUSED, TransportEvent,
    frame_splitter::{FrameSplitter, MAX_FRAME_LEN},
};

/// The library's default would be 128 KiB for each idle connection.
const READ_BUFFER_LEN: usize = 2 * 1024;
/// The largest page, escaped.
const MAX_WRITE_BUFFER_LEN: usize = 8 * 1024 * 1024;
/// How long the client may take to answer our close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct WebSocketTransport {
    stream: WebSocketStream<FrameSplitter<TokioIo<Upgraded>>>,
    close_received: bool,
    /// The client's close frame says that it could not process its input.
    refused: bool,
}

impl WebSocketTransport {
    /// The server's side of an upgraded connection.
    pub async fn new(upgraded: Upgraded) -> WebSocketTransport {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_LEN)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_WRITE_BUFFER_LEN)
            .max_message_size(Some(MAX_FRAME_LEN))
            .max_frame_size(Some(MAX_FRAME_LEN));
        let io = FrameSplitter::new(TokioIo::new(upgraded));
        let stream = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        WebSocketTransport { stream, close_received: false, refused: false }
    }

    pub(super) async fn receive(&mut self) -> TransportEvent {
        loop {
            return match self.stream.next().await {
                Some(Ok(Frame::Text(text))) => TransportEvent::Bytes(text.into()),
                Some(Ok(Frame::Binary(bytes))) => TransportEvent::Bytes(bytes),
                // The library answers pings and close frames; the stream ends after a close frame.
                Some(Ok(Frame::Ping(_) | Frame::Frame(_))) => continue,
                Some(Ok(Frame::Pong(payload))) => TransportEvent::Pong(payload),
                Some(Ok(Frame::Close(frame))) => {
                    self.close_received = true;
                    self.refused = frame.is_some_and(|frame| is_refusal(frame.code));
                    continue;
                }
                Some(Err(error)) if !self.close_received => {
                    tracing::debug!(%error, "WebSocket failed");
                    TransportEvent::Lost("socket_broken")
                }
                None if !self.close_received => TransportEvent::Lost("socket_closed"),
                Some(Err(_)) | None if self.refused => TransportEvent::Ended(CLIENT_REFUSED),
                Some(Err(_)) | None => TransportEvent::Ended("socket_closed"),
            };
        }
    }

    pub(super) async fn send(&mut self, bytes: Bytes, text: bool) -> Result<(), &'static str> {
        let frame = if text {
            Frame::Text(bytes.try_into().map_err(|_| "encoding")?)
        } else {
            Frame::Binary(bytes)
        };
        self.stream.send(frame).await.map_err(|_| "socket_broken")
    }

    pub(super) async fn ping(&mut self, payload: Bytes) -> Result<(), &'static str> {
        self.stream.send(Frame::Ping(payload)).await.map_err(|_| "socket_broken")
    }

    /// Sends our close frame and waits for the client's.
    pub(super) async fn close(mut self: Box<Self>) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let handshake = async {
            if self.stream.close(Some(frame)).await.is_ok() {
                // Read to the end: closing with unread input would reset the connection, and the client would not
                // see the reason.
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, handshake).await;
    }
}

/// Whether a close code blames the input: its form, its kind or its length.
fn is_refusal(code: CloseCode) -> bool {
    matches!(
        code,
        CloseCode::Protocol | CloseCode::Unsupported | CloseCode::Invalid | CloseCode::Size
    )
}

/// The value of `Sec-WebSocket-Accept` if this is a request for a WebSocket (RFC 6455, 4.2.1).
pub fn accept_key(headers: &HeaderMap) -> Option<String> {
    let has = |name: header::HeaderName, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    let wanted = has(header::UPGRADE, "websocket")
        && has(header::CONNECTION, "upgrade")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    wanted.then(|| derive_accept_key(key.as_bytes()))
}
