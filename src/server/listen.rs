//! The accept loop. It is our own because warp's server sets no header timeout, no TCP_NODELAY, no
//! cap on connections and no TLS, and its graceful stop waits for half-sent headers for ever.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    peer::TrustedProxies, proxy_protocol, pulse::Pulse, streams::StreamExecutor, tls::Tls,
};

/// How long a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after the process has run out of files; accepting again at once would only spin.
const OUT_OF_FILES: Duration = Duration::from_millis(100);
/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How to listen.
#[derive(Clone)]
pub struct ListenOptions {
    /// HTTP connections at once; more wait in the kernel's backlog. A connection that became a
    /// WebSocket counts no longer.
    pub max_connections: usize,
    /// How long a request's headers may take, counted from the connection's start or the last
    /// answer.
    pub header_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub write_timeout: Duration,
    /// Serve TLS.
    pub tls: Option<Tls>,
    /// The balancers that may say whose connections they pass on.
    pub proxies: TrustedProxies,
    /// How long requests under way may take once the stop has begun.
    pub grace: Duration,
    /// Who wants to know whether connections are still accepted asks here.
    pub pulse: Pulse,
}

/// Serves connections until `stop`, then lets the requests under way end.
pub async fn serve<S, F, B>(
    listener: TcpListener,
    options: ListenOptions,
    service: S,
    stop: CancellationToken,
) where
    S: Fn(Request<Incoming>, IpAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(options.max_connections.max(1)));
    let graceful = GracefulShutdown::new();
    let tracker = TaskTracker::new();
    let mut builder = auto::Builder::new(StreamExecutor::new(options.write_timeout));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(16 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .max_concurrent_streams(128)
        .max_header_list_size(16 * 1024);
    let mut answers = options.pulse.answers();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = answers.next() => continue,
            () = stop.cancelled() => break,
        };
        let (tcp, address) = match accepted {
            Ok((tcp, address)) => (tcp, address.ip().to_canonical()),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(OUT_OF_FILES).await;
                continue;
            }
        };
        // Small answers must not wait for more to come.
        let _ = tcp.set_nodelay(true);
        let connection = Connection {
            builder: builder.clone(),
            watcher: graceful.watcher(),
            service: service.clone(),
            place,
        };
        let header_timeout = options.header_timeout;
        let is_proxy = options.proxies.contains(address);
        let tls = options.tls.as_ref().map(Tls::acceptor);
        let cut = stop.clone();
        tracker.spawn(async move {
            let opened = open(tcp, is_proxy.then_some(address), tls, header_timeout);
            let opened = tokio::select! {
                () = cut.cancelled() => return,
                opened = opened => opened,
            };
            match opened {
                Ok((named, Stream::Plain(tcp), version)) => {
                    connection.run(tcp, version, named.unwrap_or(address)).await;
                }
                Ok((named, Stream::Tls(stream), version)) => {
                    connection.run(stream, version, named.unwrap_or(address)).await;
                }
                Err(error) => {
                    tracing::debug!(%error, peer = %address, "a connection was not begun")
                }
            }
        });
    }
    drop(listener);
    tracker.close();
    let ended = async {
        graceful.shutdown().await;
        tracker.wait().await;
    };
    if tokio::time::timeout(options.grace, ended).await.is_err() {
        tracing::warn!(left = tracker.len(), "requests were cut off by the stop");
    }
}

/// What a connection speaks. Known before hyper gets it, because hyper finds it out by itself without
/// any limit of time, and a client that says nothing would hold its place for ever.
#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What comes before the first request, in limited time. Gives the client that `proxy` named, if the connection is one of
/// a trusted balancer.
async fn open(
    mut tcp: TcpStream,
    proxy: Option<IpAddr>,
    tls: Option<TlsAcceptor>,
    header_timeout: Duration,
) -> io::Result<(Option<IpAddr>, Stream, Version)> {
    let deadline = tokio::time::Instant::now() + header_timeout;
    let named = match proxy {
        None => None,
        Some(proxy) => {
            let read = proxy_protocol::read(&mut tcp, proxy);
            Some(tokio::time::timeout_at(deadline, read).await??)
        }
    };
    let Some(acceptor) = tls else {
        let is_two = proxy_protocol::begins_with(&tcp, PREFACE);
        let is_two = tokio::time::timeout_at(deadline, is_two).await??;
        let version = if is_two { Version::Two } else { Version::One };
        return Ok((named, Stream::Plain(tcp), version));
    };
    let stream = tokio::time::timeout(TLS_TIMEOUT, acceptor.accept(tcp)).await??;
    let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let version = if is_two { Version::Two } else { Version::One };
    Ok((named, Stream::Tls(Box::new(stream)), version))
}

struct Connection<S> {
    builder: auto::Builder<StreamExecutor>,
    watcher: Watcher,
    service: S,
    place: Option<OwnedSemaphorePermit>,
}

impl<S> Connection<S> {
    async fn run<T, F, B>(self, stream: T, version: Version, peer: IpAddr)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Request<Incoming>, IpAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Connection { builder, watcher, service, place } = self;
        let service = service_fn(move |request| {
            let answer = service(request, peer);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let builder = match version {
            Version::One => builder.http1_only(),
            Version::Two => builder.http2_only(),
        };
        let connection =
            builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended badly");
        }
        drop(place);
    }
}

/// A listener on an address, with a backlog for many clients that come back at once.
///
/// # Errors
/// The address is taken, not ours, or not permitted.
pub async fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}
