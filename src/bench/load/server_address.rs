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
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use super::Error;

/// Bytes read at once from a socket; a message of the usual size fits.
const READ_BUFFER: usize = 4096;

/// Either kind of stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A WebSocket over either.
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Where the server is, or each gateway of a cluster. Every new connection goes to the next of them that
/// takes it.
#[derive(Clone)]
pub(super) struct Place {
    doors: Arc<[Door]>,
    next: Arc<AtomicUsize>,
}

/// One address.
struct Door {
    host: String,
    authority: String,
    tls: Option<tokio_rustls::TlsConnector>,
}

impl Door {
    fn parse(url: &str) -> Result<Door, Error> {
        let bad = || Error::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?.to_owned();
        let (port, secure) = match uri.scheme_str() {
            Some("http") => (80, false),
            Some("https") => (443, true),
            _ => return Err(bad()),
        };
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(port));
        Ok(Door { host, authority, tls: secure.then(connector) })
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

impl Place {
    /// One address, or several with commas.
    pub(super) fn parse(urls: &str) -> Result<Place, Error> {
        let doors: Vec<Door> =
            urls.split(',').map(|url| Door::parse(url.trim())).collect::<Result<_, _>>()?;
        Ok(Place { doors: doors.into(), next: Arc::default() })
    }

    /// Host and port, as requests name them.
    pub(super) fn authority(&self) -> &str {
        self.doors.first().map_or("", |door| &door.authority)
    }

    async fn stream(&self) -> Result<(Box<dyn Stream>, &Door), Error> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut last = Error::Connect("there is no address".to_owned());
        for n in 0..self.doors.len() {
            let door = &self.doors[(first + n) % self.doors.len()];
            match door.stream().await {
                Ok(stream) => return Ok((stream, door)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A connection for requests.
    pub(super) async fn http(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let io = TokioIo::new(self.stream().await?.0);
        let (sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|error| Error::Connect(error.to_string()))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A connection to the hub, before its handshake.
    pub(super) async fn hub(&self, token: &str) -> Result<Socket, Error> {
        let (stream, door) = self.stream().await?;
        let scheme = if door.tls.is_some() { "wss" } else { "ws" };
        let failed = |error: &dyn std::fmt::Display| Error::Connect(error.to_string());
        let mut request = format!("{scheme}://{}/hub", door.authority)
            .into_client_request()
            .map_err(|error| failed(&error))?;
        let bearer = format!("Bearer {token}").parse().map_err(|_| failed(&"unfit token"))?;
        request.headers_mut().insert("authorization", bearer);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
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

fn connector() -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // One unreadable certificate of the system must not keep the others from use.
        let _ = roots.add(certificate);
    }
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}
