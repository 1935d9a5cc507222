//! Connections that are held without a use do not keep others out.

mod holds;

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use self::holds::{Attack, Hold, address, keep_alive, trusting};
use super::{addresses, named};
use crate::{
    listen::certificate,
    support::{DEADLINE, Folder, Server},
    transports::Plain,
};

const PHONE: &str = "+967771234567";
/// How long a request of somebody else may take while the places are attacked. On this machine the attacker has one of
/// two cores.
const PROMPT: Duration = Duration::from_secs(8);
/// The times of the server are a second; then it takes two to close, and some to notice.
const ENDED: Duration = Duration::from_secs(8);

const SMALL: [(&str, &str); 4] = [
    ("ESH3AR__HTTP__MAX_CONNECTIONS", "200"),
    ("ESH3AR__HTTP__HEADER_TIMEOUT", "1s"),
    ("ESH3AR__HTTP__WRITE_TIMEOUT", "1s"),
    ("ESH3AR__HTTP__TRUSTED_PROXIES", "127.0.0.1"),
];

const STRANGERS: [(&str, &str); 2] = [("listener", "http"), ("state", "unauthenticated")];

/// Somebody else, with a new connection for each request.
struct Victim {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Victim {
    fn new(server: &Server, base: &str, pem: Option<&str>) -> Victim {
        let mut builder = reqwest::Client::builder().pool_max_idle_per_host(0);
        builder = match pem {
            None => builder.tls_built_in_root_certs(false),
            Some(pem) => builder
                .add_root_certificate(reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()),
        };
        let token = server.user("shop", "SendMessages");
        server.phone(PHONE);
        Victim { client: builder.build().unwrap(), base: base.to_owned(), token }
    }

    /// Sends messages and asks for the server's health; each is answered in time.
    async fn is_served(&self, times: usize) {
        for n in 0..times {
            let send = self
                .client
                .post(format!("{}/api/v1/messages", self.base))
                .bearer_auth(&self.token)
                .json(&json!({ "to": PHONE, "content": "as always" }))
                .send();
            let live = self.client.get(format!("{}/health/live", self.base)).send();
            for (status, request) in [(202, in_time(n, send).await), (200, in_time(n, live).await)]
            {
                assert_eq!(request, status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn in_time(
    n: usize,
    request: impl Future<Output = reqwest::Result<reqwest::Response>>,
) -> u16 {
    let begun = Instant::now();
    let answer = tokio::time::timeout(DEADLINE, request).await.expect("an answer");
    let answer = answer.unwrap_or_else(|error| panic!("request {n}: {error:?}"));
    assert!(begun.elapsed() < PROMPT, "request {n} took {:?}", begun.elapsed());
    answer.status().as_u16()
}

/// The value of a metric with these labels.
async fn metric(server: &Server, name: &str, labels: &[(&str, &str)]) -> f64 {
    let page = crate::support::get(format!("{}/metrics", server.metrics)).await.unwrap();
    let page = page.text().await.unwrap();
    let labels: Vec<String> = labels.iter().map(|(name, is)| format!("{name}=\"{is}\"")).collect();
    let found = page.lines().find(|line| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    });
    found.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// From one address, which is that of the others too, and from fifty.
fn sides() -> [Vec<Option<[u8; 4]>>; 2] {
    [vec![None], addresses(50).map(Some).collect()]
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_half_heads_and_pings_keep_nobody_out() {
    let server = Server::start_with(&SMALL).await;
    let victim = Victim::new(&server, &server.base, None);
    for from in sides() {
        let holds = [Hold::Silent, Hold::HalfHead, Hold::HalfPreface, Hold::Pings];
        let attack = Attack::start(&address(&server), None, &holds, &from, 300).await;
        victim.is_served(15).await;
        let held = metric(&server, "esh3ar_http_connections", &STRANGERS).await;
        assert!(held <= 100.0, "{held} connections");
        attack.ends_in(ENDED).await;
    }
    let labels = [("listener", "http"), ("reason", "unauthenticated")];
    assert!(metric(&server, "esh3ar_http_connections_ended_total", &labels).await > 0.0);
    let told = server.log().matches("closing the longest idle ones").count();
    assert!((1..=2).contains(&told), "{told} warnings");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_around_the_tls_handshake_keeps_nobody_out() {
    use std::os::unix::fs::PermissionsExt as _;
    esh3ar::client::prepare();
    let folder = Folder::seeded();
    let path = folder.path().to_owned();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let pem = certificate(&path, "own");
    let (cert, key) = (path.join("cert.pem"), path.join("key.pem"));
    let mut environment = SMALL.to_vec();
    // A handshake takes longer.
    environment.push(("ESH3AR__HTTP__HEADER_TIMEOUT", "2s"));
    environment.push(("ESH3AR__HTTP__TLS_CERT", cert.to_str().unwrap()));
    environment.push(("ESH3AR__HTTP__TLS_KEY", key.to_str().unwrap()));
    let server = Server::start_in(folder, &environment).await;
    let base = server.base.replace("http://127.0.0.1", "https://localhost");
    let victim = Victim::new(&server, &base, Some(&pem));
    for from in sides() {
        let holds = [Hold::Silent, Hold::HalfHello];
        let attack = Attack::start(&address(&server), None, &holds, &from, 100).await;
        let holds = [Hold::Silent, Hold::HalfHead, Hold::HalfPreface, Hold::Pings];
        let tls = Some(trusting(&pem));
        let within = Attack::start(&address(&server), tls, &holds, &from, 100).await;
        victim.is_served(10).await;
        attack.ends_in(ENDED).await;
        within.ends_in(ENDED).await;
    }
}

/// A client that pipelines requests for a large page and reads none of it.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_read_keep_nobody_out() {
    let server = Server::start_with(&SMALL).await;
    let victim = Victim::new(&server, &server.base, None);
    for side in sides() {
        let mut held = Vec::new();
        for n in 0..250 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let mut socket = socket.connect(address(&server).parse().unwrap()).await.unwrap();
            let mut sent = side[n % side.len()].map(named).unwrap_or_default();
            sent.extend("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100).as_bytes());
            // It may be evicted already.
            let _ = socket.write_all(&sent).await;
            held.push(socket);
        }
        victim.is_served(10).await;
        let ended = async {
            while metric(&server, "esh3ar_http_connections", &STRANGERS).await > 0.0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ended = tokio::time::timeout(ENDED, ended).await;
        ended.expect("a connection that is not read is still open");
        drop(held);
    }
    let labels = [("listener", "http"), ("reason", "unread")];
    assert!(metric(&server, "esh3ar_http_connections_ended_total", &labels).await > 0.0);
}

/// One token takes half of the connections at most, and who has authenticated keeps a connection longer.
#[tokio::test(flavor = "multi_thread")]
async fn one_token_takes_half_and_keeps_its_connections() {
    let server = Server::start_with(&SMALL).await;
    let victim = Victim::new(&server, &server.base, None);
    let token = server.phone("+967771234568");
    let mut held = Vec::new();
    for _ in 0..150 {
        let mut socket = TcpStream::connect(address(&server)).await.unwrap();
        keep_alive(&mut socket, Some(&token)).await.expect("an answer");
        held.push(socket);
    }
    let labels = [("listener", "http"), ("state", "authenticated")];
    let count = metric(&server, "esh3ar_http_connections", &labels).await;
    assert!((95.0..=100.0).contains(&count), "{count} of one token");
    let mut stranger = TcpStream::connect(address(&server)).await.unwrap();
    keep_alive(&mut stranger, None).await.expect("an answer");
    victim.is_served(10).await;
    // Past the time for those who have not authenticated.
    let ended = tokio::time::timeout(ENDED, stranger.read(&mut [0; 64])).await;
    assert_eq!(ended.expect("an idle connection ends").unwrap_or(0), 0);
    let mut last = held.pop().unwrap();
    keep_alive(&mut last, Some(&token)).await.expect("it is kept");
    // But the head of a request has its time.
    last.write_all(b"GET /api/v1/messages/pending HTTP/1.1\r\n").await.unwrap();
    let ended = tokio::time::timeout(ENDED, last.read(&mut [0; 64])).await;
    assert_eq!(ended.expect("half a head ends").unwrap_or(0), 0);
}

/// Posts whose bodies do not come wait for each other; a few may.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_posts_may_wait_and_no_more() {
    let server = Server::start_with(&SMALL).await;
    let victim = Victim::new(&server, &server.base, None);
    let token = server.phone("+967771234568");
    let plain = Plain::new(&server, "/hub", &token);
    let id = plain.polling().await;
    let mut waiting = JoinSet::new();
    for _ in 0..40 {
        let mut socket = TcpStream::connect(address(&server)).await.unwrap();
        let head = format!(
            "POST /hub{id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: 1000\r\n\r\n{{"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        waiting.spawn(async move {
            let mut status = [0; 12];
            socket
                .read_exact(&mut status)
                .await
                .map(|_| String::from_utf8_lossy(&status).into_owned())
        });
    }
    for _ in 0..35 {
        let refused = tokio::time::timeout(DEADLINE, waiting.join_next()).await;
        let refused = refused.expect("an answer").unwrap().unwrap().unwrap();
        assert_eq!(refused, "HTTP/1.1 429");
    }
    victim.is_served(5).await;
    // Those that are in order: one has its turn, four wait.
    assert!(waiting.try_join_next().is_none());
    assert_eq!(waiting.len(), 5);
}
