//! Ways to hold a connection without a use.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use crate::{attack::named, support::Server};

/// How long an attacker waits after its connection has ended.
const AGAIN: Duration = Duration::from_secs(2);
/// How often one that drips sends something.
const DRIP: Duration = Duration::from_millis(300);

pub fn address(server: &Server) -> String {
    server.base.strip_prefix("http://").unwrap().to_owned()
}

/// How a connection is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing is said.
    Silent,
    /// A head comes a byte at a time.
    HalfHead,
    /// HTTP/2 begins and does not go on.
    HalfPreface,
    /// HTTP/2 without a request, but with pings.
    Pings,
    /// The hello of TLS comes a byte at a time.
    HalfHello,
}

impl Hold {
    /// What comes at once, and what comes again and again.
    fn says(self) -> (Vec<u8>, Vec<u8>) {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
        const SETTINGS_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
        const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\x0012345678";
        match self {
            Hold::Silent => (Vec::new(), Vec::new()),
            Hold::HalfHead => {
                (b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_vec(), b"a".to_vec())
            }
            Hold::HalfPreface => (b"PRI * HTTP/2.0\r\n".to_vec(), Vec::new()),
            Hold::Pings => ([PREFACE, SETTINGS, SETTINGS_ACK].concat(), PING.to_vec()),
            // A handshake of 512 bytes.
            Hold::HalfHello => {
                (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(), b"a".to_vec())
            }
        }
    }

    /// Holds a connection until the server ends it.
    async fn hold(self, stream: impl AsyncRead + AsyncWrite) {
        let (mut from, mut to) = tokio::io::split(stream);
        let (first, again) = self.says();
        if to.write_all(&first).await.is_err() || to.flush().await.is_err() {
            return;
        }
        let ended = async {
            let mut bytes = [0; 256];
            while from.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
        };
        let drips = async {
            while !again.is_empty()
                && to.write_all(&again).await.is_ok()
                && to.flush().await.is_ok()
            {
                tokio::time::sleep(DRIP).await;
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = ended => {}
            () = drips => {}
        }
    }
}

/// Many that hold connections. One that has ended is begun again.
pub struct Attack {
    attackers: JoinSet<()>,
    over: Arc<AtomicBool>,
}

impl Attack {
    /// As many connections, the ways and the addresses in turn. When this returns each has been open once.
    pub async fn start(
        server: &str,
        tls: Option<Arc<ClientConfig>>,
        holds: &[Hold],
        from: &[Option<[u8; 4]>],
        count: usize,
    ) -> Attack {
        let server: SocketAddr = server.parse().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let mut attackers = JoinSet::new();
        let (opened, mut all) = tokio::sync::mpsc::channel(count);
        for n in 0..count {
            let (hold, from) = (holds[n % holds.len()], from[n / holds.len() % from.len()]);
            let (over, opened, tls) = (Arc::clone(&over), opened.clone(), tls.clone());
            attackers.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(mut tcp) = TcpStream::connect(server).await {
                        let head = from.map(named).unwrap_or_default();
                        let _ = tcp.write_all(&head).await;
                        let _ = opened.try_send(());
                        match &tls {
                            None => hold.hold(tcp).await,
                            Some(tls) => {
                                let name = ServerName::try_from("localhost").unwrap();
                                let mut config = (**tls).clone();
                                if hold == Hold::Pings {
                                    config.alpn_protocols = vec![b"h2".to_vec()];
                                }
                                let tls = TlsConnector::from(Arc::new(config));
                                if let Ok(stream) = tls.connect(name, tcp).await {
                                    hold.hold(stream).await;
                                }
                            }
                        }
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        for _ in 0..count {
            all.recv().await.unwrap();
        }
        Attack { attackers, over }
    }

    /// No connection is begun any more; the server ends the last ones in time.
    pub async fn ends_in(self, time: Duration) {
        self.over.store(true, Ordering::Relaxed);
        let ended = tokio::time::timeout(time, self.attackers.join_all());
        ended.await.expect("a held connection is still open");
    }
}

/// A client of TLS that believes this certificate.
pub fn trusting(pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// One request whose connection stays open.
pub async fn keep_alive(socket: &mut TcpStream, token: Option<&str>) -> std::io::Result<()> {
    let (path, header) = match token {
        None => ("/health/live", String::new()),
        Some(token) => ("/api/v1/messages/pending", format!("Authorization: Bearer {token}\r\n")),
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..read]);
        if is_whole(&answer) {
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            return Ok(());
        }
    }
}

/// Whether an answer has come in full, by its length.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    body.len() >= length.expect("an answer with a length")
}
