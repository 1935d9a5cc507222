//! Connections to the server: HTTP that is kept alive, and WebSockets with small buffers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use super::Error;
use crate::tls;

/// Fits a message of the usual size.
const READ_BUFFER_LEN: usize = 4096;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// The address of the server, or of each gateway of a cluster. New connections go to them in turn; one that
/// refuses is skipped.
#[derive(Clone)]
pub(super) struct ServerAddress {
    endpoints: Arc<[Endpoint]>,
    next: Arc<AtomicUsize>,
}

struct Endpoint {
    host: String,
    authority: String,
    tls: Option<TlsConnector>,
}

impl Endpoint {
    fn parse(url: &str) -> Result<Endpoint, Error> {
        let bad = || Error::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?.to_owned();
        let (port, secure) = match uri.scheme_str() {
            Some("http") => (80, false),
            Some("https") => (443, true),
            _ => return Err(bad()),
        };
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(port));
        let tls = secure.then(connector).transpose()?;
        Ok(Endpoint { host, authority, tls })
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, Error> {
        let failed = |error: std::io::Error| Error::Connect(error.to_string());
        let tcp = TcpStream::connect(&self.authority).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| Error::Connect(error.to_string()))?;
        Ok(Box::new(tls.connect(name, tcp).await.map_err(failed)?))
    }
}

impl ServerAddress {
    /// Parses one URL, or several with commas.
    pub(super) fn parse(urls: &str) -> Result<ServerAddress, Error> {
        let endpoints: Vec<Endpoint> =
            urls.split(',').map(|url| Endpoint::parse(url.trim())).collect::<Result<_, _>>()?;
        Ok(ServerAddress { endpoints: endpoints.into(), next: Arc::default() })
    }

    /// Host and port, for the `host` header.
    pub(super) fn authority(&self) -> &str {
        self.endpoints.first().map_or("", |endpoint| &endpoint.authority)
    }

    async fn stream(&self) -> Result<(Box<dyn Stream>, &Endpoint), Error> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut last = Error::Connect("there is no address".to_owned());
        for n in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[(first + n) % self.endpoints.len()];
            match endpoint.stream().await {
                Ok(stream) => return Ok((stream, endpoint)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) async fn http(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let io = TokioIo::new(self.stream().await?.0);
        let (sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|error| Error::Connect(error.to_string()))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A WebSocket to the hub, before the hub's handshake.
    pub(super) async fn hub(&self, token: &str) -> Result<Socket, Error> {
        let (stream, endpoint) = self.stream().await?;
        let scheme = if endpoint.tls.is_some() { "wss" } else { "ws" };
        let failed = |error: &dyn std::fmt::Display| Error::Connect(error.to_string());
        let mut request = format!("{scheme}://{}/hub", endpoint.authority)
            .into_client_request()
            .map_err(|error| failed(&error))?;
        let bearer = format!("Bearer {token}").parse().map_err(|_| failed(&"unfit token"))?;
        request.headers_mut().insert("authorization", bearer);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_LEN)
            .write_buffer_size(0)
            .max_write_buffer_size(1024 * 1024);
        let (socket, _) =
            client_async_with_config(request, stream, Some(config)).await.map_err(|error| {
                match error {
                    tokio_tungstenite::tungstenite::Error::Http(answer) => {
                        Error::Refused(answer.status().as_u16())
                    }
                    other => failed(&other),
                }
            })?;
        Ok(socket)
    }
}

fn connector() -> Result<TlsConnector, Error> {
    let config = tls::client_config().map_err(|error| Error::Connect(error.to_string()))?;
    Ok(TlsConnector::from(Arc::new(config)))
}
