//! The accept loop. Not warp's, because warp's server has no header timeout, no TCP_NODELAY, no limit of
//! connections and no TLS, and its graceful shutdown waits for incomplete request heads forever.

use std::{convert::Infallible, io, net::IpAddr, pin::Pin, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    chunked_body::ChunkedBody,
    connection::{CLOSE_TIMEOUT, ConnectionHandle, OpenConnection, Phase},
    connection_limits::ConnectionLimits,
    connection_registry::ConnectionRegistry,
    liveness::LivenessProbe,
    peer::TrustedProxies,
    proxy_protocol,
    stream_timeout::StreamExecutor,
    tls::Tls,
    write_timeout::WriteTimeoutIo,
};

/// The delay after running out of file descriptors, because accepting again at once would spin.
const OUT_OF_FILES_DELAY: Duration = Duration::from_millis(100);
/// The same after evicting a connection, which frees a file descriptor.
const EVICTION_DELAY: Duration = Duration::from_millis(5);
/// Bytes that the kernel keeps for a client that does not read; it reserves as much again for itself.
const MAX_SEND_BUFFER_LEN: u32 = 128 * 1024;
/// The connection preface of HTTP/2 (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone)]
pub struct ListenOptions {
    /// The listener's name in metrics and logs.
    pub name: &'static str,
    /// Limits of HTTP connections. WebSockets do not count any more.
    pub limits: ConnectionLimits,
    /// Timeout of the PROXY header, of the TLS handshake, and of request headers since the start or the last
    /// response. Also the idle timeout before authentication.
    pub header_timeout: Duration,
    /// How long a client may not read.
    pub write_timeout: Duration,
    pub tls: Option<Tls>,
    /// Load balancers whose PROXY headers are trusted.
    pub proxies: TrustedProxies,
    /// How long requests in flight may take after the stop.
    pub grace: Duration,
    /// Tells whether connections are still accepted.
    pub liveness: LivenessProbe,
}

/// Serves connections until `stop`, then waits for requests in flight. A request has the [`ConnectionHandle`]
/// of its connection in its extensions.
pub async fn serve<S, F, B>(
    listener: TcpListener,
    options: ListenOptions,
    service: S,
    stop: CancellationToken,
) where
    S: Fn(Request<Incoming>, IpAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connections = ConnectionRegistry::new(options.name, options.limits, options.header_timeout);
    let tracker = TaskTracker::new();
    let builders = Builders::new(options.write_timeout);
    let mut responder = options.liveness.responder();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = responder.next() => continue,
            () = stop.cancelled() => break,
        };
        let (tcp, address) = match accepted {
            Ok((tcp, address)) => (tcp, address.ip().to_canonical()),
            Err(error) => {
                // Evictions are logged once a minute.
                let wait = if connections.make_room() {
                    tracing::debug!(%error, "cannot accept a connection");
                    EVICTION_DELAY
                } else {
                    tracing::warn!(%error, "cannot accept a connection");
                    OUT_OF_FILES_DELAY
                };
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        // Small responses must not wait for more data.
        let _ = tcp.set_nodelay(true);
        let open = OpenConnection::new(&connections, address);
        let opening = Opening {
            proxy: options.proxies.contains(address).then_some(address),
            tls: options.tls.as_ref().map(Tls::acceptor),
            header_timeout: options.header_timeout,
            write_timeout: options.write_timeout,
        };
        let (builders, service, stop) = (builders.clone(), service.clone(), stop.clone());
        tracker.spawn(async move {
            let connection = open.handle();
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                () = connection.closed() => return,
                opened = opening.open(tcp, connection) => opened,
            };
            match opened {
                Ok((Stream::Plain(tcp), version)) => {
                    builders.serve(tcp, version, service, connection, &stop).await;
                }
                Ok((Stream::Tls(stream), version)) => {
                    builders.serve(stream, version, service, connection, &stop).await;
                }
                Err(error) => {
                    tracing::debug!(%error, peer = %address, "connection setup failed")
                }
            }
        });
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(options.grace, tracker.wait()).await.is_err() {
        tracing::warn!(left = tracker.len(), "shutdown grace period over; aborting open requests");
    }
}

/// Detected here, because hyper's own detection has no timeout: a client that sends nothing would keep its
/// connection forever.
#[derive(Clone, Copy)]
enum HttpVersion {
    Http1,
    Http2,
}

type Tcp = WriteTimeoutIo<TcpStream>;

enum Stream {
    Plain(Tcp),
    Tls(Box<TlsStream<Tcp>>),
}

/// Everything before the first request: PROXY header, TLS and the HTTP version.
struct Opening {
    /// The trusted load balancer that it comes from, if any.
    proxy: Option<IpAddr>,
    tls: Option<TlsAcceptor>,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Opening {
    /// Has a timeout. Sets the address that a PROXY header names.
    async fn open(
        self,
        mut tcp: TcpStream,
        connection: &ConnectionHandle,
    ) -> io::Result<(Stream, HttpVersion)> {
        let deadline = Instant::now() + self.header_timeout;
        if let Some(proxy) = self.proxy {
            let named = timeout_at(deadline, proxy_protocol::read(&mut tcp, proxy)).await??;
            connection.rename(named);
        }
        let is_two = match &self.tls {
            None => {
                timeout_at(deadline, proxy_protocol::begins_with(&tcp, HTTP2_PREFACE)).await??
            }
            Some(_) => false,
        };
        let tcp = WriteTimeoutIo::of_socket(tcp, connection.clone(), self.write_timeout);
        let (stream, is_two) = match self.tls {
            None => (Stream::Plain(tcp), is_two),
            Some(acceptor) => {
                let stream =
                    tokio::time::timeout(self.header_timeout, acceptor.accept(tcp)).await??;
                let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Stream::Tls(Box::new(stream)), is_two)
            }
        };
        Ok((stream, if is_two { HttpVersion::Http2 } else { HttpVersion::Http1 }))
    }
}

#[derive(Clone)]
struct Builders {
    one: http1::Builder,
    two: http2::Builder<StreamExecutor>,
}

impl Builders {
    fn new(write_timeout: Duration) -> Builders {
        let mut one = http1::Builder::new();
        // The connection's own timeouts cover the headers.
        one.header_read_timeout(None::<Duration>).max_buf_size(16 * 1024);
        let mut two = http2::Builder::new(StreamExecutor::new(write_timeout));
        two.timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .max_concurrent_streams(128)
            .max_header_list_size(16 * 1024);
        Builders { one, two }
    }

    async fn serve<T, S, F, B>(
        self,
        stream: T,
        version: HttpVersion,
        service: S,
        connection: &ConnectionHandle,
        stop: &CancellationToken,
    ) where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Request<Incoming>, IpAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (handle, address) = (connection.clone(), connection.address());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let in_flight = handle.begin();
            request.extensions_mut().insert(handle.clone());
            // On the heap: a future that is awaited by another, and moved with it, would take its room several times.
            let answer = Box::pin(service(request, address));
            async move {
                let answer = answer.await;
                Ok::<_, Infallible>(answer.map(|body| ChunkedBody::new(body, in_flight)))
            }
        });
        let io = TokioIo::new(stream);
        match version {
            HttpVersion::Http1 => {
                connection.start(true);
                let served = self.one.serve_connection(io, service).with_upgrades();
                let finish = http1::UpgradeableConnection::graceful_shutdown;
                drive(served, finish, connection, stop).await;
            }
            HttpVersion::Http2 => {
                connection.start(false);
                let served = self.two.serve_connection(io, service);
                drive(served, http2::Connection::graceful_shutdown, connection, stop).await;
            }
        }
    }
}

/// Serves a connection until it ends, is idle for too long, or is closed. `finish` makes the requests in flight
/// the last ones.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    served: C,
    finish: impl Fn(Pin<&mut C>),
    connection: &ConnectionHandle,
    stop: &CancellationToken,
) {
    let mut served = pin!(served);
    let mut phase = Phase::Open;
    let mut timer = pin!(tokio::time::sleep_until(connection.due(phase).into()));
    let mut closed = pin!(connection.closed());
    loop {
        let ended = std::future::poll_fn(|cx| {
            if let Poll::Ready(ended) = served.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            // Reads and responses move the deadline. A timer that fires early is reset.
            loop {
                let due = Instant::from(connection.due(phase));
                if due <= Instant::now() {
                    return Poll::Ready(None);
                }
                if timer.is_elapsed() || due < timer.deadline() {
                    timer.as_mut().reset(due);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        });
        tokio::select! {
            biased;
            () = closed.as_mut() => {
                finish(served.as_mut());
                // Sends pending bytes if the client takes them at once.
                let once = std::future::poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx).is_ready()));
                let _ = once.await;
                return;
            }
            ended = ended => match ended {
                Some(Ok(())) => return,
                Some(Err(error)) => {
                    tracing::debug!(%error, "connection failed");
                    return;
                }
                None if matches!(phase, Phase::Closing(_)) => return,
                None => {
                    tracing::debug!("closing idle connection");
                    connection.idle();
                    finish(served.as_mut());
                    phase = Phase::Closing((Instant::now() + CLOSE_TIMEOUT).into());
                }
            },
            // After reading what has arrived: such a request is still answered.
            () = stop.cancelled(), if matches!(phase, Phase::Open) => {
                finish(served.as_mut());
                phase = Phase::Stopping;
            }
        }
    }
}

/// Binds an address, with a backlog for many clients that reconnect at once.
///
/// # Errors
/// The address is in use, not local, or not permitted.
pub async fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    // Connections inherit it. By default the kernel buffers megabytes for every client that does not read.
    socket.set_send_buffer_size(MAX_SEND_BUFFER_LEN)?;
    socket.bind(address)?;
    socket.listen(4096)
}
