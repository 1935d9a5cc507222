//! A socket with a write timeout.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::connection::ConnectionHandle;

/// A write that makes no progress within the timeout fails. The connection is told about reads and writes.
/// Below TLS, because there progress means that bytes were sent.
pub(super) struct WriteTimeoutIo<T> {
    io: T,
    connection: ConnectionHandle,
    write_timeout: Duration,
    /// Created by the first write that waits.
    timer: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
    has_failed: bool,
    /// Makes the kernel drop unsent bytes when the socket is closed.
    reset: fn(&T),
}

impl<T> WriteTimeoutIo<T> {
    pub(super) fn new(
        io: T,
        connection: ConnectionHandle,
        write_timeout: Duration,
    ) -> WriteTimeoutIo<T> {
        WriteTimeoutIo {
            io,
            connection,
            write_timeout,
            timer: None,
            is_waiting: false,
            has_failed: false,
            reset: |_| {},
        }
    }

    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if std::mem::take(&mut self.is_waiting) {
                self.connection.set_writing(false);
            }
            return written;
        }
        let until = Instant::now() + self.write_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.is_waiting {
            self.is_waiting = true;
            self.connection.set_writing(true);
            timer.as_mut().reset(until);
        }
        ready!(timer.as_mut().poll(cx));
        if !std::mem::replace(&mut self.has_failed, true) {
            self.connection.unread();
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl WriteTimeoutIo<TcpStream> {
    /// Wraps a socket. If it is closed while the client does not read, it is reset: otherwise the kernel would
    /// keep unsent bytes for minutes, which no limit counts.
    pub(super) fn of_socket(
        tcp: TcpStream,
        connection: ConnectionHandle,
        write_timeout: Duration,
    ) -> WriteTimeoutIo<TcpStream> {
        let mut io = WriteTimeoutIo::new(tcp, connection, write_timeout);
        io.reset = |tcp| drop(tcp.set_zero_linger());
        io
    }
}

impl<T> Drop for WriteTimeoutIo<T> {
    fn drop(&mut self) {
        if self.is_waiting || self.has_failed {
            (self.reset)(&self.io);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WriteTimeoutIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.connection.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WriteTimeoutIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, pieces);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::server::{
        connection::OpenConnection, connection_limits::ConnectionLimits,
        connection_registry::ConnectionRegistry,
    };

    #[tokio::test]
    async fn a_write_fails_when_nothing_is_taken_and_not_while_a_little_is() {
        let limits = ConnectionLimits::new(10, 10, 10);
        let connections = ConnectionRegistry::new("test", limits, Duration::from_secs(10));
        let open = OpenConnection::new(&connections, [127, 0, 0, 1].into());
        let (io, mut client) = tokio::io::duplex(64);
        let mut io = WriteTimeoutIo::new(io, open.handle().clone(), Duration::from_millis(600));
        let bytes = [7; 64 * 8];
        // Takes twice the timeout.
        let reads = async {
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                client.read_exact(&mut [0; 64]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(io.write_all(&bytes), reads);
        written.unwrap();
        let begun = Instant::now();
        let error = io.write_all(&bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(600));
    }
}
