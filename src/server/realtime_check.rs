//! Checks whether clients can connect: connects to the hub of this process through its own listener.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, process::health::HEALTH_INTERVAL},
    tls::crypto_provider,
};

/// Covers the whole check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// The delay before the one retry, so that a short CPU stall does not count as a failure.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The interval while the check fails.
const DOWN_INTERVAL: Duration = Duration::from_secs(5);
const RECORD_SEPARATOR: char = '\u{1e}';

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub struct RealtimeCheck {
    app: App,
    address: SocketAddr,
    tls: Option<TlsConnector>,
}

impl RealtimeCheck {
    /// For the hub that listens on this address.
    pub fn new(app: App, listening: SocketAddr, encrypted: bool) -> RealtimeCheck {
        let tls = if encrypted { connector() } else { None };
        RealtimeCheck { app, address: reachable(listening), tls }
    }

    /// Checks periodically until `stop`. The first check is made before, by [`RealtimeCheck::check`].
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let wait =
                if self.app.process.is_realtime_up() { HEALTH_INTERVAL } else { DOWN_INTERVAL };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => self.check().await,
            }
        }
    }

    /// Checks once and records the result.
    pub async fn check(&self) {
        let mut found = self.check_once().await;
        if found.is_err() {
            tokio::time::sleep(RETRY_DELAY).await;
            found = self.check_once().await;
        }
        // A draining process accepts no connections, which is no failure.
        if !self.app.process.is_draining() {
            self.app.process.record_realtime(found);
        }
    }

    async fn check_once(&self) -> Result<Duration, String> {
        let begun = Instant::now();
        match tokio::time::timeout(CHECK_TIMEOUT, self.connect()).await {
            Ok(Ok(())) => Ok(begun.elapsed()),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no connection to the hub in {} s", CHECK_TIMEOUT.as_secs())),
        }
    }

    /// Connects, does the handshake and calls `Echo`.
    async fn connect(&self) -> Result<(), String> {
        let tcp = TcpStream::connect(self.address).await.map_err(text)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::IpAddress(self.address.ip().into());
                Box::new(tls.connect(name, tcp).await.map_err(text)?)
            }
        };
        let mut request =
            format!("ws://{}/hub", self.address).into_client_request().map_err(text)?;
        let bearer = format!("Bearer {}", self.app.identity.probe_token()).parse().map_err(text)?;
        request.headers_mut().insert("authorization", bearer);
        let (mut socket, _) = client_async(request, stream).await.map_err(text)?;
        send(&mut socket, r#"{"protocol":"json","version":1}"#).await?;
        receive(&mut socket, |record| record == "{}").await?;
        send(&mut socket, r#"{"type":1,"invocationId":"1","target":"Echo","arguments":["ping"]}"#)
            .await?;
        receive(&mut socket, |record| record.contains(r#""ping""#)).await?;
        // The close is not checked.
        let _ = socket.close(None).await;
        Ok(())
    }
}

async fn send(socket: &mut WebSocketStream<Box<dyn Stream>>, record: &str) -> Result<(), String> {
    socket.send(Message::text(format!("{record}{RECORD_SEPARATOR}"))).await.map_err(text)
}

/// Reads until the wanted record arrives.
async fn receive(
    socket: &mut WebSocketStream<Box<dyn Stream>>,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), String> {
    while let Some(frame) = socket.next().await {
        match frame.map_err(text)? {
            Message::Text(records) if records.split(RECORD_SEPARATOR).any(&wanted) => return Ok(()),
            Message::Close(_) => break,
            _ => {}
        }
    }
    Err("the hub closed the connection".to_owned())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The address to connect to: a wildcard becomes loopback.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// A client that accepts every certificate. The process itself has bound the address, and the token it sends is
/// valid nowhere else. `esh3ar doctor` checks whether the certificate is valid for clients.
fn connector() -> Option<TlsConnector> {
    let provider = crypto_provider();
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn a_wildcard_is_reached_by_the_loopback() {
        for (listening, reached) in [
            ("0.0.0.0:5000", "127.0.0.1:5000"),
            ("[::]:5000", "[::1]:5000"),
            ("10.0.0.5:80", "10.0.0.5:80"),
            ("127.0.0.2:1", "127.0.0.2:1"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
