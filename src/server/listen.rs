//! The accept loop. It is our own because warp's server sets no header timeout, no TCP_NODELAY, no
//! cap on connections and no TLS, and its graceful stop waits for half-sent headers for ever.

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
    connection::{CLOSE_TIMEOUT, ConnectionHandle, Phase},
    connections::Connections,
    peer::TrustedProxies,
    places::ConnectionLimits,
    proxy_protocol,
    pulse::Pulse,
    sent_body::SentBody,
    streams::StreamExecutor,
    tls::Tls,
    watched_io::WatchedIo,
};

/// The wait after the process has run out of files; accepting again at once would only spin.
const OUT_OF_FILES: Duration = Duration::from_millis(100);
/// The same after a connection was told to end, which gives its file back.
const EVICTING: Duration = Duration::from_millis(5);
/// The most bytes that the system keeps for a client that does not read; it reserves as much again for itself.
const SEND_BUFFER: u32 = 128 * 1024;
/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How to listen.
#[derive(Clone)]
pub struct ListenOptions {
    /// The name of this listener in metrics and in the log.
    pub name: &'static str,
    /// HTTP connections at once. A connection that became a WebSocket counts no longer.
    pub limits: ConnectionLimits,
    /// How long a connection may take for a PROXY header, for the TLS handshake, and for a request's headers, counted
    /// from its start or the last answer; so long it may be idle before somebody has authenticated on it.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what is sent.
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

/// Serves connections until `stop`, then lets the requests under way end. A request has the [`ConnectionHandle`] of
/// its connection among its extensions.
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
    let connections = Connections::new(options.name, options.limits, options.header_timeout);
    let tracker = TaskTracker::new();
    let builders = Builders::new(options.write_timeout);
    let mut answers = options.pulse.answers();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = answers.next() => continue,
            () = stop.cancelled() => break,
        };
        let (tcp, address) = match accepted {
            Ok((tcp, address)) => (tcp, address.ip().to_canonical()),
            Err(error) => {
                // Evicting is logged once a minute.
                let wait = if connections.make_room() {
                    tracing::debug!(%error, "a connection could not be accepted");
                    EVICTING
                } else {
                    tracing::warn!(%error, "a connection could not be accepted");
                    OUT_OF_FILES
                };
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        // Small answers must not wait for more to come.
        let _ = tcp.set_nodelay(true);
        let open = connections.open(address);
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
                    tracing::debug!(%error, peer = %address, "a connection was not begun")
                }
            }
        });
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(options.grace, tracker.wait()).await.is_err() {
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

type Tcp = WatchedIo<TcpStream>;

enum Stream {
    Plain(Tcp),
    Tls(Box<TlsStream<Tcp>>),
}

/// What comes before the first request.
struct Opening {
    /// The balancer that it comes from, if it is a trusted one.
    proxy: Option<IpAddr>,
    tls: Option<TlsAcceptor>,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Opening {
    /// Reads it in limited time, and tells the connection whose it is if a balancer says so.
    async fn open(
        self,
        mut tcp: TcpStream,
        connection: &ConnectionHandle,
    ) -> io::Result<(Stream, Version)> {
        let deadline = Instant::now() + self.header_timeout;
        if let Some(proxy) = self.proxy {
            let named = timeout_at(deadline, proxy_protocol::read(&mut tcp, proxy)).await??;
            connection.rename(named);
        }
        let is_two = match &self.tls {
            None => timeout_at(deadline, proxy_protocol::begins_with(&tcp, PREFACE)).await??,
            Some(_) => false,
        };
        let tcp = WatchedIo::of_socket(tcp, connection.clone(), self.write_timeout);
        let (stream, is_two) = match self.tls {
            None => (Stream::Plain(tcp), is_two),
            Some(acceptor) => {
                let stream =
                    tokio::time::timeout(self.header_timeout, acceptor.accept(tcp)).await??;
                let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Stream::Tls(Box::new(stream)), is_two)
            }
        };
        Ok((stream, if is_two { Version::Two } else { Version::One }))
    }
}

/// How each version is served.
#[derive(Clone)]
struct Builders {
    one: http1::Builder,
    two: http2::Builder<StreamExecutor>,
}

impl Builders {
    fn new(write_timeout: Duration) -> Builders {
        let mut one = http1::Builder::new();
        // The connection's own time covers the headers too.
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
        version: Version,
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
                Ok::<_, Infallible>(answer.map(|body| SentBody::new(body, in_flight)))
            }
        });
        let io = TokioIo::new(stream);
        match version {
            Version::One => {
                connection.start(true);
                let served = self.one.serve_connection(io, service).with_upgrades();
                let finish = http1::UpgradeableConnection::graceful_shutdown;
                drive(served, finish, connection, stop).await;
            }
            Version::Two => {
                connection.start(false);
                let served = self.two.serve_connection(io, service);
                drive(served, http2::Connection::graceful_shutdown, connection, stop).await;
            }
        }
    }
}

/// Serves a connection until it ends, is idle for too long, or is told to end. `finish` says to it that the requests in
/// flight are its last.
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
            // What was just read or answered moves the time. A timer that comes too early is set again.
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
                // What is to be sent before the end is sent if the client takes it at once.
                let once = std::future::poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx).is_ready()));
                let _ = once.await;
                return;
            }
            ended = ended => match ended {
                Some(Ok(())) => return,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a connection ended badly");
                    return;
                }
                None if matches!(phase, Phase::Closing(_)) => return,
                None => {
                    tracing::debug!("an idle connection is closed");
                    connection.idle();
                    finish(served.as_mut());
                    phase = Phase::Closing((Instant::now() + CLOSE_TIMEOUT).into());
                }
            },
            // After what has come is read: a request that is there is answered.
            () = stop.cancelled(), if matches!(phase, Phase::Open) => {
                finish(served.as_mut());
                phase = Phase::Stopping;
            }
        }
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
    // Each connection has that of its listener. Left to itself the system keeps megabytes for each that does not read.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(4096)
}
