//! Answers that nobody reads, and long documents, take a bounded part of memory and of the loop.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{addresses, named, quantile, sends_during};
use crate::support::{DEADLINE, Server};

const PHONE: &str = "+967771234567";
const OTHER: &str = "+967771234599";
/// What an attack may add to the process's memory, in KiB. A build for development takes more; without the bounds it is
/// several times as much in either.
fn most() -> u64 {
    let is_for_use = std::env::var_os("ESH3AR_TEST_BINARY").is_some();
    if is_for_use { 64 * 1024 } else { 192 * 1024 }
}
/// The largest content, of characters that take two bytes each in JSON.
const LENGTH: usize = 10_000;
const LIST: &str = "/api/v1/messages?limit=200";

/// Sends this many messages of the largest size to a phone.
async fn fill(server: &Server, token: &str, to: &str, count: usize) {
    let item = json!({ "to": to, "content": "\"".repeat(LENGTH) });
    let batch = json!({ "messages": vec![item; count] });
    let answer = server.api(token).post("/api/v1/messages/batch", &batch).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
}

type Sender = SendRequest<Empty<Bytes>>;

/// A connection of HTTP/2 whose streams take nothing, from an address that a balancer names.
async fn shut(server: &Server, from: Option<[u8; 4]>) -> Sender {
    let host = server.base.strip_prefix("http://").unwrap();
    let mut tcp = TcpStream::connect(host).await.unwrap();
    if let Some(from) = from {
        tcp.write_all(&named(from)).await.unwrap();
    }
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(tcp))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// Asks so many times at once, and takes the heads of the answers alone.
async fn ask(
    sender: &Sender,
    server: &Server,
    token: &str,
    path: &str,
    times: usize,
) -> Vec<Response<Incoming>> {
    let answers = (0..times).map(|_| {
        let request = Request::get(format!("{}{path}", server.base))
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::new())
            .unwrap();
        sender.clone().send_request(request)
    });
    join_all(answers).await.into_iter().map(Result::unwrap).collect()
}

fn count(answers: &[Response<Incoming>], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status().as_u16() == status).count()
}

/// How a page of the list is answered to a client that reads it.
async fn listed(server: &Server, token: &str) -> (u16, Value) {
    server.request("GET", LIST, Some(token), None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_one_phone_does_not_read_are_bounded_and_end() {
    let server = Server::start_with(&[("ESH3AR__HTTP__WRITE_TIMEOUT", "3s")]).await;
    let (shop, phone) = (server.user("shop", "SendMessages"), server.phone(PHONE));
    server.phone(OTHER);
    fill(&server, &shop, PHONE, 200).await;
    let connections = join_all((0..4).map(|_| shut(&server, None))).await;
    let attack = async |path: &str| {
        let begun = Instant::now();
        let asked = connections.iter().map(|sender| ask(sender, &server, &phone, path, 40));
        let answers: Vec<Response<Incoming>> =
            join_all(asked).await.into_iter().flatten().collect();
        // As long as the other, so that as many sends are compared.
        tokio::time::sleep_until((begun + Duration::from_millis(1500)).into()).await;
        answers
    };
    let (quiet, answers) = sends_during(&server, &shop, OTHER, attack("/health/live")).await;
    assert_eq!(count(&answers, 200), 160);
    drop(answers);
    let before = server.peak_memory();
    let (took, mut answers) = sends_during(&server, &shop, OTHER, attack(LIST)).await;
    let more = server.peak_memory() - before;
    assert!(more < most(), "{more} KiB more for answers that nobody reads");
    let (good, refused) = (count(&answers, 200), count(&answers, 429));
    assert!(good >= 8 && refused > 0 && good + refused == 160, "{good} good, {refused} refused");
    let (usual, now) = (quantile(&quiet, 0.9), quantile(&took, 0.9));
    assert!(now < usual * 20 + Duration::from_millis(500), "{usual:?} became {now:?}");
    // What nobody takes is not kept for longer than the time-out.
    let answer = answers.iter_mut().find(|answer| answer.status().as_u16() == 200).unwrap();
    let ended = tokio::time::timeout(DEADLINE, answer.body_mut().frame()).await.unwrap();
    assert!(ended.is_none_or(|frame| frame.is_err()), "the stream is reset");
    wait_for_page(&server, &phone).await;
    assert!(connections[0].is_ready(), "the connection goes on");
}

/// Waits until the phone gets a whole page, and follows the list to its end.
async fn wait_for_page(server: &Server, phone: &str) {
    let deadline = Instant::now() + DEADLINE;
    while listed(server, phone).await.0 != 200 {
        assert!(Instant::now() < deadline, "the phone is still refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut path, mut seen) = (LIST.to_owned(), 0);
    loop {
        let (status, page) = server.request("GET", &path, Some(phone), None).await;
        let items = page["items"].as_array().unwrap();
        assert!(status == 200 && !items.is_empty(), "{status}");
        assert!(page.to_string().len() <= 300 * 1024, "{} bytes", page.to_string().len());
        seen += items.len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("{LIST}&after={next}");
    }
    assert_eq!(seen, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_many_phones_from_many_addresses_do_not_read_are_bounded() {
    let server = Server::start_with(&[("ESH3AR__HTTP__TRUSTED_PROXIES", "127.0.0.1")]).await;
    let shop = server.user("shop", "SendMessages");
    let numbers: Vec<String> = (0..10).map(|n| format!("+9677712345{n:02}")).collect();
    let phones = server.phones(&numbers.iter().map(String::as_str).collect::<Vec<_>>());
    for number in &numbers {
        fill(&server, &shop, number, 40).await;
    }
    let connections = join_all(addresses(50).map(|from| shut(&server, Some(from)))).await;
    // The same generator, before the pages.
    let live =
        connections.iter().map(|sender| ask(sender, &server, &phones[0], "/health/live", 20));
    join_all(live).await;
    let before = server.peak_memory();
    let asked = connections.iter().zip(phones.iter().cycle());
    let asked = asked.map(|(sender, phone)| ask(sender, &server, phone, LIST, 20));
    let answers: Vec<Response<Incoming>> = join_all(asked).await.into_iter().flatten().collect();
    let more = server.peak_memory() - before;
    assert!(more < most(), "{more} KiB more for answers that nobody reads");
    assert!(count(&answers, 200) >= 100, "{} good", count(&answers, 200));
    // What others hold keeps nobody from sending, nor from a list.
    server.send(&shop, &numbers[0], "as always").await;
    let (status, page) = listed(&server, &shop).await;
    assert_eq!(status, 200, "{page}");
    assert!(page["items"].as_array().is_some_and(|items| !items.is_empty()), "{page}");
}

/// Requests whose bodies never come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_of_one_party_are_bounded() {
    const REQUESTS: usize = 1000;
    let server = Server::start().await;
    let (shop, busy) = (server.user("shop", "SendMessages"), server.user("busy", "SendMessages"));
    let host = server.base.strip_prefix("http://").unwrap();
    let connect = async || {
        let tcp = TcpStream::connect(host).await.unwrap();
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake::<_, Never>(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        sender
    };
    let connections = join_all((0..9).map(|_| connect())).await;
    let before = server.peak_memory();
    let (told, mut refused) = tokio::sync::mpsc::channel(4096);
    for sender in &connections {
        for _ in 0..124 {
            let mut request = Request::post(format!("{}/api/v1/messages", server.base))
                .header("authorization", format!("Bearer {busy}"));
            for n in 0..50 {
                request = request.header(format!("x-{n}"), "x".repeat(100));
            }
            let answer = sender.clone().send_request(request.body(Never).unwrap());
            let told = told.clone();
            tokio::spawn(async move {
                if let Ok(answer) = answer.await {
                    let _ = told.try_send(answer.status().as_u16());
                }
            });
        }
    }
    for _ in 0..9 * 124 - REQUESTS {
        let status = tokio::time::timeout(DEADLINE, refused.recv()).await.unwrap().unwrap();
        assert_eq!(status, 429);
    }
    let more = server.peak_memory() - before;
    println!("{more} KiB more for {REQUESTS} requests in flight");
    assert!(more < most(), "{more} KiB more for requests whose bodies do not come");
    server.send(&shop, PHONE, "as always").await;
    // Their ends give the room back.
    drop(connections);
    let deadline = Instant::now() + DEADLINE;
    while server.request("GET", LIST, Some(&busy), None).await.0 != 200 {
        assert!(Instant::now() < deadline, "the party is still refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A body of which nothing comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

/// What the system keeps of a server's answers because nobody reads them, in KiB.
fn unsent(server: &Server) -> u64 {
    let port: u16 = server.base.rsplit_once(':').unwrap().1.parse().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let bytes = table.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (queued, _) = fields[4].split_once(':').unwrap();
        let is_ours = fields[1].ends_with(&format!(":{port:04X}"));
        if is_ours { u64::from_str_radix(queued, 16).unwrap() } else { 0 }
    });
    bytes.sum::<u64>() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_read_over_http_1_are_bounded() {
    let server = Server::start().await;
    let (shop, phone) = (server.user("shop", "SendMessages"), server.phone(PHONE));
    server.phone(OTHER);
    fill(&server, &shop, PHONE, 200).await;
    let pipelined = |path: &str| {
        let one =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {phone}\r\n\r\n");
        one.repeat(40)
    };
    let host = server.base.strip_prefix("http://").unwrap();
    let attack = async |path: &str| {
        let asked = (0..100).map(async |_| {
            let mut tcp = TcpStream::connect(host).await.unwrap();
            tcp.write_all(pipelined(path).as_bytes()).await.unwrap();
            let mut first = [0; 12];
            tcp.read_exact(&mut first).await.unwrap();
            (tcp, String::from_utf8_lossy(&first).into_owned())
        });
        let sockets = join_all(asked).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        sockets
    };
    let (_, sockets) = sends_during(&server, &shop, OTHER, attack("/health/live")).await;
    drop(sockets);
    let before = server.peak_memory();
    let (took, sockets) = sends_during(&server, &shop, OTHER, attack(LIST)).await;
    let more = server.peak_memory() - before;
    assert!(more < most(), "{more} KiB more for answers that nobody reads");
    let kept = unsent(&server);
    println!("{more} KiB more and {kept} KiB in the system for 100 connections that do not read");
    assert!(kept < 100 * 256, "{kept} KiB are kept by the system");
    assert!(took.len() > 3, "{} sends", took.len());
    let begun = sockets.iter().filter(|(_, head)| head == "HTTP/1.1 200").count();
    assert!(begun >= 8, "{begun} answers were begun");
    drop(sockets);
    wait_for_page(&server, &phone).await;
}

#[tokio::test]
async fn a_history_goes_on_where_its_bytes_end_a_page() {
    let server = Server::start().await;
    let (shop, phone) = (server.user("shop", "Chat"), server.phone(PHONE));
    let api = server.api(&shop);
    let talk = api.post("/api/v1/conversations", &json!({ "phone": PHONE })).await.unwrap();
    let path = format!("/api/v1/conversations/{}/messages", talk.body["id"].as_str().unwrap());
    for number in 0..40 {
        let content = format!("{number}{}", "\"".repeat(LENGTH - 2));
        let said = api.post(&path, &json!({ "content": content })).await.unwrap();
        assert_eq!(said.status, 201);
    }
    for (limit, from, ascends) in [(200, "", false), (50, "", false), (200, "after=0", true)] {
        let (mut seqs, mut from, mut pages) = (Vec::new(), from.to_owned(), 0);
        loop {
            let path = format!("{path}?limit={limit}&{from}");
            let (status, page) = server.request("GET", &path, Some(&phone), None).await;
            assert_eq!(status, 200, "{page}");
            assert!(page.to_string().len() <= 300 * 1024);
            let items = page["items"].as_array().unwrap();
            seqs.extend(items.iter().map(|item| item["seq"].as_i64().unwrap()));
            pages += 1;
            let Some(next) = page["next"].as_i64() else { break };
            from = format!("{}={next}", if ascends { "after" } else { "before" });
        }
        let mut all: Vec<i64> = (1..=40).collect();
        if !ascends {
            all.reverse();
        }
        assert_eq!(seqs, all, "limit {limit}");
        assert!(pages > 2, "{pages} pages");
    }
}

#[tokio::test]
async fn the_existing_list_is_whole_or_refused() {
    let server = Server::start().await;
    let (shop, phone) = (server.user("shop", "SendMessages"), server.phone(PHONE));
    fill(&server, &shop, PHONE, 80).await;
    let list = async |query: &str| {
        let path = format!("/api/app/message/one-way-messages{query}");
        server.request("GET", &path, Some(&shop), None).await
    };
    // More than is read at once, and within what one answer may have.
    for (query, shown) in [("", 10), ("?MaxResultCount=40&SkipCount=30", 40)] {
        let (status, page) = list(query).await;
        let items = page["items"].as_array().unwrap();
        assert_eq!((status, items.len(), &page["totalCount"]), (200, shown, &json!(80)), "{query}");
        let mut ids: Vec<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
        ids.dedup();
        assert_eq!(ids.len(), shown);
    }
    let (status, refused) = list("?MaxResultCount=80").await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("page_too_large")), "{refused}");
    let pending = "/api/app/message/pending-messages";
    let (status, pending) = server.request("GET", pending, Some(&phone), None).await;
    assert!(status == 200 && pending.as_array().is_some_and(|list| !list.is_empty()));
    assert!(pending.to_string().len() <= 300 * 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_documents_of_one_party_do_not_hold_up_another() {
    const SIZE: usize = 24 * 1024 * 1024 - 64;
    let server = Server::start().await;
    let (one, shop) = (server.user("one", "SendMessages"), server.user("shop", "SendMessages"));
    server.phone(PHONE);
    // Small items, each of which is read, after many that are too many.
    let item = json!({ "to": PHONE, "content": "" }).to_string();
    let long =
        format!("{{\"messages\":[{}]}}", vec![item.as_str(); SIZE / (item.len() + 1)].join(","));
    let long = Bytes::from(long);
    let client = reqwest::Client::new();
    let attack = async |path: &str| {
        for _ in 0..3 {
            let sent = (0..2).map(|_| {
                let request = client.post(format!("{}{path}", server.base)).bearer_auth(&one);
                let request = request.header("content-type", "application/json");
                request.header("idempotency-key", "long").body(long.clone()).send()
            });
            join_all(sent).await;
        }
    };
    let (quiet, ()) = sends_during(&server, &shop, PHONE, attack("/api/v1/nothing")).await;
    let before = server.peak_memory();
    let (took, ()) = sends_during(&server, &shop, PHONE, attack("/api/v1/messages/batch")).await;
    let more = server.peak_memory() - before;
    assert!(more < most(), "{more} KiB more for long documents");
    let (usual, now) = (quantile(&quiet, 0.9), quantile(&took, 0.9));
    assert!(now < usual * 20 + Duration::from_millis(500), "{usual:?} became {now:?}");
    server.send(&one, PHONE, "as always").await;
}
