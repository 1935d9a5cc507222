//! Connections to Postgres that may have no TLS: a password is never sent on them as it is.
//!
//! The driver answers every server that asks for the password in clear, also an attacker's. So such connections go
//! through a stream that reads what the server asks, and ends the connection before the driver sees it. The
//! driver takes this stream for TLS without a negotiation, and the negotiation is done here.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_postgres::{
    Config, Socket,
    config::{SslMode, SslNegotiation},
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Asks a server whether it speaks TLS; it answers with one byte.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const SPEAKS_TLS: u8 = b'S';

type RustlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type RustlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// The server asked for the password in clear over a connection without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server asks for the password in clear over a connection without TLS; it was not sent: add \
     ?sslmode=require to the URL, or let the server use scram-sha-256 (pg_hba.conf)"
)]
pub(super) struct CleartextPassword;

/// Makes connections with TLS where the server speaks it, or always without.
#[derive(Clone)]
pub(super) struct PasswordGuard {
    tls: Option<MakeRustlsConnect>,
}

impl PasswordGuard {
    /// For a server, with the configuration that the driver is to be given. Without `tls` there is none, as with
    /// `sslmode=disable`.
    pub(super) fn new(server: &Config, tls: Option<MakeRustlsConnect>) -> (PasswordGuard, Config) {
        let mut config = server.clone();
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        // The driver wants a name, also where the address alone is known.
        if config.get_hosts().is_empty() {
            for address in server.get_hostaddrs() {
                config.host(address.to_string());
            }
        }
        (PasswordGuard { tls }, config)
    }
}

impl MakeTlsConnect<Socket> for PasswordGuard {
    type Stream = GuardedStream;
    type TlsConnect = GuardedConnect;
    type Error = Box<dyn Error + Send + Sync>;

    fn make_tls_connect(&mut self, domain: &str) -> Result<GuardedConnect, Self::Error> {
        let tls = self.tls.as_mut();
        let tls = tls.map(|tls| MakeTlsConnect::<Socket>::make_tls_connect(tls, domain));
        Ok(GuardedConnect { tls: tls.transpose()? })
    }
}

pub(super) struct GuardedConnect {
    tls: Option<RustlsConnect>,
}

impl TlsConnect<Socket> for GuardedConnect {
    type Stream = GuardedStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<GuardedStream>> + Send>>;

    fn connect(self, mut socket: Socket) -> Self::Future {
        Box::pin(async move {
            if let Some(tls) = self.tls {
                socket.write_all(&SSL_REQUEST).await?;
                if socket.read_u8().await? == SPEAKS_TLS {
                    return Ok(GuardedStream::Tls(Box::new(tls.connect(socket).await?)));
                }
            }
            Ok(GuardedStream::Plain(PlainStream::new(socket)))
        })
    }
}

pub(super) enum GuardedStream {
    Tls(Box<RustlsStream>),
    Plain(PlainStream<Socket>),
}

impl TlsStream for GuardedStream {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            GuardedStream::Tls(stream) => stream.channel_binding(),
            GuardedStream::Plain(_) => ChannelBinding::none(),
        }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            GuardedStream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            GuardedStream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            GuardedStream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            GuardedStream::Plain(stream) => Pin::new(&mut stream.inner).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            GuardedStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            GuardedStream::Plain(stream) => Pin::new(&mut stream.inner).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            GuardedStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            GuardedStream::Plain(stream) => Pin::new(&mut stream.inner).poll_shutdown(cx),
        }
    }
}

/// A stream without TLS that reads along until the client is authenticated.
pub(super) struct PlainStream<S> {
    inner: S,
    scan: AuthenticationScan,
}

impl<S> PlainStream<S> {
    fn new(inner: S) -> PlainStream<S> {
        PlainStream { inner, scan: AuthenticationScan::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlainStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut stream.inner).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        Poll::Ready(stream.scan.read(read).map_err(io::Error::other))
    }
}

/// Follows the server's messages: a letter, a length that counts itself, and a body. That of `R` begins with what
/// the server asks for.
#[derive(Debug, Default)]
struct AuthenticationScan {
    /// The beginning of a message, of which so many bytes are known.
    head: [u8; HEAD_LEN],
    known: usize,
    /// Bytes of a body that are of no interest.
    skip: usize,
    is_over: bool,
}

const HEAD_LEN: usize = 9;
/// The letter and the length.
const FRAME_LEN: usize = 5;
const AUTHENTICATION: u8 = b'R';
const IS_OK: u32 = 0;
const ASKS_FOR_CLEARTEXT: u32 = 3;

impl AuthenticationScan {
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), CleartextPassword> {
        while !self.is_over && !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let Some((next, rest)) = bytes.split_first() else { break };
            bytes = rest;
            if let Some(place) = self.head.get_mut(self.known) {
                *place = *next;
            }
            self.known += 1;
            self.judge()?;
        }
        Ok(())
    }

    fn judge(&mut self) -> Result<(), CleartextPassword> {
        let [letter, a, b, c, d, code @ ..] = self.head;
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        match self.known {
            // The driver ends a connection with such a length.
            FRAME_LEN if len < 4 => self.is_over = true,
            FRAME_LEN if letter != AUTHENTICATION || len < 8 => self.skip_to_next(len - 4),
            HEAD_LEN => match u32::from_be_bytes(code) {
                ASKS_FOR_CLEARTEXT => return Err(CleartextPassword),
                IS_OK => self.is_over = true,
                _ => self.skip_to_next(len - 8),
            },
            _ => {}
        }
        Ok(())
    }

    fn skip_to_next(&mut self, rest: usize) {
        (self.known, self.skip) = (0, rest);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::store::{Store, pool::parse_url};

    fn message(letter: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[letter][..], &len, body].concat()
    }

    #[test]
    fn the_question_is_found_wherever_it_stands() {
        let cleartext = message(b'R', &3_u32.to_be_bytes());
        let md5 = message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]);
        let notice = message(b'N', b"R\0\0\0\x08\0\0\0\x03");
        let short = message(b'R', &[]);
        for before in [vec![], md5.clone(), notice.clone(), short, [notice, md5].concat()] {
            let asked = [before.clone(), cleartext.clone()].concat();
            assert_eq!(AuthenticationScan::default().read(&asked), Err(CleartextPassword));
            let mut scan = AuthenticationScan::default();
            let one_by_one = asked.iter().try_for_each(|byte| scan.read(&[*byte]));
            assert_eq!(one_by_one, Err(CleartextPassword));
            assert_eq!(AuthenticationScan::default().read(&before), Ok(()));
        }
        // What comes after the authentication is data.
        let ok = message(b'R', &0_u32.to_be_bytes());
        assert_eq!(AuthenticationScan::default().read(&[ok, cleartext].concat()), Ok(()));
        // No length makes it stop or panic.
        for len in 0..8_u32 {
            let odd = [&[b'R'][..], &len.to_be_bytes(), &[0; 40]].concat();
            assert_eq!(AuthenticationScan::default().read(&odd), Ok(()), "{len}");
        }
    }

    /// A server that speaks no TLS and asks for the password in clear; all that it was sent, without the
    /// password if `guarded`.
    async fn asked(parameters: &str) -> (Vec<u8>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let (mut heard, mut buffer) = (Vec::new(), [0; 1024]);
            loop {
                let read = client.read(&mut buffer).await.unwrap_or(0);
                if read == 0 {
                    return heard;
                }
                heard.extend_from_slice(&buffer[..read]);
                let answer = match buffer[..read] == SSL_REQUEST {
                    true => b"N".to_vec(),
                    false => message(b'R', &3_u32.to_be_bytes()),
                };
                client.write_all(&answer).await.unwrap();
            }
        });
        let url = format!("postgres://who:hunter2@127.0.0.1:{port}/d{parameters}");
        let store = Store::new(parse_url(&url).unwrap(), 1).unwrap();
        let error = store.ping().await.unwrap_err().to_string();
        drop(store);
        let heard = tokio::time::timeout(Duration::from_secs(20), server).await;
        (heard.unwrap().unwrap(), error)
    }

    #[tokio::test]
    async fn a_server_that_asks_for_the_password_in_clear_gets_no_byte_of_it() {
        for parameters in ["", "?sslmode=prefer", "?sslmode=disable"] {
            let (heard, error) = asked(parameters).await;
            let has = |text: &[u8]| heard.windows(text.len()).any(|part| part == text);
            assert!(has(b"who"), "{parameters}: it was asked to let in");
            assert!(!has(b"hunter2") && !has(b"p\0\0\0"), "{parameters}: {heard:?}");
            assert_eq!(has(&SSL_REQUEST), parameters != "?sslmode=disable", "{parameters}");
            assert!(error.contains("sslmode=require"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let (heard, error) = asked("?sslmode=require").await;
        assert_eq!(heard, SSL_REQUEST, "{error}");
    }
}
