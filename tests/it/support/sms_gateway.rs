//! A gateway for SMS: keeps what it is sent, and gives the answers that a test sets.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct GatewayCall {
    /// Such as `POST /messages HTTP/1.1`.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl GatewayCall {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The line, these headers and the body.
    pub fn text(&self, headers: &[&str]) -> String {
        let mut text = format!("{}\n", self.line);
        for name in headers {
            let value = self.header(name).unwrap_or_default();
            text.push_str(&format!("{name}: {value}\n"));
        }
        text + "\n" + &self.body
    }
}

#[derive(Default)]
struct Inner {
    calls: Vec<GatewayCall>,
    answers: VecDeque<(u16, String)>,
    last: Option<(u16, String)>,
}

pub struct GatewayStub {
    /// Such as `http://127.0.0.1:1234`.
    pub base: String,
    /// The certificate in PEM, with TLS.
    pub certificate: Option<String>,
    inner: Arc<Mutex<Inner>>,
    task: tokio::task::JoinHandle<()>,
}

impl GatewayStub {
    pub async fn start() -> GatewayStub {
        GatewayStub::start_with(None).await
    }

    /// One whose certificate no system trusts.
    pub async fn start_tls() -> GatewayStub {
        esh3ar::client::prepare();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let tls = TlsAcceptor::from(Arc::new(config.unwrap()));
        let mut stub = GatewayStub::start_with(Some(tls)).await;
        stub.certificate = Some(made.cert.pem());
        stub
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> GatewayStub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let base = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let inner: Arc<Mutex<Inner>> = Arc::default();
        let kept = Arc::clone(&inner);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (tls, kept) = (tls.clone(), Arc::clone(&kept));
                open.spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                let _ = serve(socket, &kept).await;
                            }
                        }
                        None => {
                            let _ = serve(socket, &kept).await;
                        }
                    }
                });
            }
        });
        GatewayStub { base, certificate: None, inner, task }
    }

    /// The next answer; the last one that is set is repeated.
    pub fn answers(&self, status: u16, body: &str) {
        self.inner.lock().unwrap().answers.push_back((status, body.to_owned()));
    }

    /// What came since this was asked last.
    pub fn calls(&self) -> Vec<GatewayCall> {
        std::mem::take(&mut self.inner.lock().unwrap().calls)
    }
}

impl Drop for GatewayStub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request on a connection.
async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    inner: &Mutex<Inner>,
) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<(String, String)> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
    socket.read_exact(&mut body).await?;
    let body = String::from_utf8(body).unwrap();
    let (status, answer) = {
        let mut inner = inner.lock().unwrap();
        inner.calls.push(GatewayCall { line: lines.remove(0), headers, body });
        if let Some(next) = inner.answers.pop_front() {
            inner.last = Some(next);
        }
        inner.last.clone().unwrap_or((200, String::new()))
    };
    let length = answer.len();
    let head =
        format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    socket.write_all((head + &answer).as_bytes()).await?;
    socket.flush().await?;
    socket.shutdown().await
}
