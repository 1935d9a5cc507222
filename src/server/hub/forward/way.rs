//! Connections to other gateways: TCP, and TLS where their address says so.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

/// How long another gateway may take to take a connection, with its TLS handshake.
const CONNECT: Duration = Duration::from_secs(2);
/// How long sent bytes may stay without an answer of the other machine, and how often an idle
/// connection asks whether it is there: a network that was cut tells nobody.
const UNANSWERED: Duration = Duration::from_secs(15);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The way to other gateways. Cheap to clone.
#[derive(Clone)]
pub(super) struct Way {
    tcp: HttpConnector,
    /// Made when the first address needs it: reading the system's certificates takes a moment.
    tls: Arc<OnceLock<TlsConnector>>,
}

impl Way {
    pub(super) fn new() -> Way {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(UNANSWERED));
        tcp.set_keepalive_interval(Some(UNANSWERED / 3));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(Some(UNANSWERED));
        Way { tcp, tls: Arc::default() }
    }
}

/// The client's side of TLS by the system's certificates.
fn connector() -> Result<TlsConnector, rustls::Error> {
    Ok(TlsConnector::from(Arc::new(crate::tls::client_config()?)))
}

impl Service<Uri> for Way {
    type Response = Link;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<Link, Failure>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let tls = Arc::clone(&self.tls);
        let encrypted = address.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = address.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let tcp = self.tcp.call(address);
        Box::pin(async move {
            let connect = async {
                let tcp = tcp.await?;
                if !encrypted {
                    return Ok(Link::Plain(tcp));
                }
                let tls = match tls.get() {
                    Some(tls) => tls,
                    None => {
                        let made = connector()?;
                        tls.get_or_init(|| made)
                    }
                };
                let name = ServerName::try_from(host)?;
                let stream = tls.connect(name, tcp.into_inner()).await?;
                Ok(Link::Tls(Box::new(TokioIo::new(stream))))
            };
            tokio::time::timeout(CONNECT, connect).await?
        })
    }
}

/// A connection to another gateway.
pub(super) enum Link {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Link::Plain(io) => Pin::new(io).poll_read(context, buffer),
            Link::Tls(io) => Pin::new(&mut **io).poll_read(context, buffer),
        }
    }
}

impl Write for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Link::Plain(io) => Pin::new(io).poll_write(context, bytes),
            Link::Tls(io) => Pin::new(&mut **io).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Link::Plain(io) => Pin::new(io).poll_flush(context),
            Link::Tls(io) => Pin::new(&mut **io).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Link::Plain(io) => Pin::new(io).poll_shutdown(context),
            Link::Tls(io) => Pin::new(&mut **io).poll_shutdown(context),
        }
    }
}
