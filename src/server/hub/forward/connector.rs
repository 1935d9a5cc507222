//! Connections to other gateways: TCP, and TLS for https addresses.

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

/// For a connection with its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long sent bytes may stay unacknowledged, and how soon an idle connection is probed: a cut network does
/// not announce itself.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct GatewayConnector {
    tcp: HttpConnector,
    /// Built on first use: reading the system's certificates takes a moment.
    tls: Arc<OnceLock<TlsConnector>>,
}

impl GatewayConnector {
    pub(super) fn new() -> GatewayConnector {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE_TIMEOUT));
        tcp.set_keepalive_interval(Some(KEEPALIVE_TIMEOUT / 3));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(Some(KEEPALIVE_TIMEOUT));
        GatewayConnector { tcp, tls: Arc::default() }
    }
}

/// Trusts the system's certificates.
fn connector() -> Result<TlsConnector, rustls::Error> {
    Ok(TlsConnector::from(Arc::new(crate::tls::client_config()?)))
}

impl Service<Uri> for GatewayConnector {
    type Response = GatewayStream;
    type Error = Failure;
    type Future = BoxFuture<'static, Result<GatewayStream, Failure>>;

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
                    return Ok(GatewayStream::Plain(tcp));
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
                Ok(GatewayStream::Tls(Box::new(TokioIo::new(stream))))
            };
            tokio::time::timeout(CONNECT_TIMEOUT, connect).await?
        })
    }
}

pub(super) enum GatewayStream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for GatewayStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for GatewayStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            GatewayStream::Plain(io) => Pin::new(io).poll_read(context, buffer),
            GatewayStream::Tls(io) => Pin::new(&mut **io).poll_read(context, buffer),
        }
    }
}

impl Write for GatewayStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            GatewayStream::Plain(io) => Pin::new(io).poll_write(context, bytes),
            GatewayStream::Tls(io) => Pin::new(&mut **io).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            GatewayStream::Plain(io) => Pin::new(io).poll_flush(context),
            GatewayStream::Tls(io) => Pin::new(&mut **io).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            GatewayStream::Plain(io) => Pin::new(io).poll_shutdown(context),
            GatewayStream::Tls(io) => Pin::new(&mut **io).poll_shutdown(context),
        }
    }
}
