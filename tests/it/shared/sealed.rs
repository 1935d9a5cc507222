//! What somebody sees who reads all of Redis, and what somebody can do who writes there.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    sync::{Arc, Mutex, mpsc},
};

use esh3ar::{
    domain::{MessageId, Party},
    presence::{Outbound, RouteOutcome},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Node, delivered, drain, party, settled, until};
use crate::support::{
    acknowledge,
    cluster::{Breaks, Cluster, Mq},
    id, next_messages,
    redis::Redis,
    wait_for,
};

const PHONE: &str = "+967771234567";
const TEXT: &str = "the combination is 11-26-7";

type Frames = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Everything that a Redis is told from now on.
struct Tap {
    url: String,
    commands: Arc<Mutex<String>>,
    frames: Frames,
}

impl Tap {
    fn on(server: &Redis) -> Tap {
        let (commands, frames) = (Arc::default(), Frames::default());
        let mut monitor = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        monitor.write_all(b"MONITOR\r\n").unwrap();
        let mut monitor = BufReader::new(monitor);
        let mut ready = String::new();
        monitor.read_line(&mut ready).unwrap();
        assert_eq!(ready, "+OK\r\n");
        let seen: Arc<Mutex<String>> = Arc::clone(&commands);
        // Both threads end with the server.
        std::thread::spawn(move || {
            let mut line = String::new();
            while monitor.read_line(&mut line).is_ok_and(|read| read > 0) {
                seen.lock().unwrap().push_str(&std::mem::take(&mut line));
            }
        });
        let (ready, subscribed) = mpsc::channel();
        let (url, heard) = (server.url(), Arc::clone(&frames));
        std::thread::spawn(move || {
            let client = ::redis::Client::open(url).unwrap();
            let mut connection = client.get_connection().unwrap();
            let mut channels = connection.as_pubsub();
            channels.psubscribe("*").unwrap();
            ready.send(()).unwrap();
            while let Ok(message) = channels.get_message() {
                let channel = message.get_channel_name().to_owned();
                heard.lock().unwrap().push((channel, message.get_payload_bytes().to_vec()));
            }
        });
        subscribed.recv().unwrap();
        Tap { url: server.url(), commands, frames }
    }

    fn saw(&self, text: &str) -> bool {
        self.commands.lock().unwrap().contains(text)
    }

    fn frames(&self) -> Vec<(String, Vec<u8>)> {
        self.frames.lock().unwrap().clone()
    }

    fn connection(&self) -> ::redis::Connection {
        ::redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap()
    }

    fn publish(&self, channel: &str, frame: &[u8]) {
        let mut publish = ::redis::cmd("PUBLISH");
        publish.arg(channel).arg(frame);
        publish.query::<i64>(&mut self.connection()).unwrap();
    }

    /// Changes every cached page: half of them by a byte, half by putting another page in its place.
    fn change_pages(&self) {
        let mut connection = self.connection();
        let keys =
            ::redis::cmd("KEYS").arg("esh3ar:v2:entry:*").query::<Vec<String>>(&mut connection);
        let keys = keys.unwrap();
        let page = |key: &str, connection: &mut ::redis::Connection| {
            ::redis::cmd("GET").arg(key).query::<Option<Vec<u8>>>(connection).unwrap()
        };
        let pages: Vec<_> = keys.iter().filter_map(|key| page(key, &mut connection)).collect();
        for (n, key) in keys.iter().enumerate() {
            let Some(mut changed) = pages.get((n + 1) % keys.len()).cloned() else { continue };
            if keys.len() == 1 || n % 2 == 0 {
                *changed.last_mut().unwrap() ^= 1;
            }
            ::redis::cmd("SET").arg(key).arg(changed).exec(&mut connection).unwrap();
        }
    }
}

fn changed(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_never_stand_in_redis_and_what_others_write_there_is_ignored() {
    let Some(mut cluster) = Cluster::breakable(Breaks::REDIS, 2, 1).await else { return };
    cluster.settled().await;
    let tap = Tap::on(cluster.engines.redis.server());
    let (near, far) = (&cluster.gateways[0], &cluster.gateways[1]);
    let (shop, phone) = (near.user("shop", "Chat"), near.phone(PHONE));
    let body = json!({ "phone": PHONE }).to_string();
    let (status, made) =
        near.request("POST", "/api/v1/conversations", Some(&shop), Some(&body)).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/api/v1/conversations/{}/messages", made["id"].as_str().unwrap());
    let say = async |content: &str| {
        let body = json!({ "content": content }).to_string();
        let (status, message) = near.request("POST", &path, Some(&shop), Some(&body)).await;
        assert_eq!(status, 201, "{message}");
        id(&message)
    };
    let history = async || {
        let (status, page) = near.request("GET", &path, Some(&shop), None).await;
        assert_eq!(status, 200, "{page}");
        assert!(page.to_string().contains(TEXT), "{page}");
    };
    let mut hub = far.hub(&phone).await;
    let mut received: Vec<Value> = Vec::new();
    let sent = say(TEXT).await;
    while received.is_empty() {
        received.extend(next_messages(&mut hub).await.1);
    }
    assert_eq!((id(&received[0]), &received[0]["content"]), (sent.clone(), &json!(TEXT)));
    acknowledge(&mut hub, std::slice::from_ref(&sent)).await;
    history().await;
    wait_for("a frame and a page", || {
        (tap.saw("\"PUBLISH\" \"esh3ar:v2:to:") && tap.saw("\"SET\" \"esh3ar:v2:entry:"))
            .then_some(())
    })
    .await;
    assert!(!tap.saw(TEXT) && !tap.saw("combination"));
    let in_clear = |bytes: &[u8]| bytes.windows(11).any(|part| part == b"combination");
    assert!(!tap.frames().iter().any(|(_, frame)| in_clear(frame)));
    // Frames that were heard, once more; changed ones; and what nobody wrote.
    for (channel, frame) in tap.frames() {
        tap.publish(&channel, &frame);
        tap.publish(&channel, &changed(&frame, frame.len() / 2));
        tap.publish(&channel, b"forged");
    }
    until("forged frames to be counted", async || {
        (far.metric("esh3ar_redis_rejected_total{kind=\"frame\"}").await >= 2.0).then_some(())
    })
    .await;
    // A page is found as long as nothing about the conversation changes.
    until("changed pages to be counted", async || {
        tap.change_pages();
        history().await;
        (near.metric("esh3ar_redis_rejected_total{kind=\"page\"}").await >= 1.0).then_some(())
    })
    .await;
    // Wake-ups for a message that was delivered, and for one that there is not.
    let Mq::Shared(host) = &cluster.engines.mq else { panic!("a broker of its own") };
    for forged in [sent.clone(), Uuid::now_v7().to_string()] {
        for generation in [0, 1, 2] {
            let frame = format!(r#"{{"v":1,"messages":[["{forged}",{generation}]]}}"#);
            host.publish("Esh3arTech.Messaging", "esh3ar.v1.high.0", &frame);
        }
    }
    until("the wake-ups to be taken", async || (host.waiting().await == 0).then_some(())).await;
    let mut all = vec![sent];
    for n in 0..3 {
        all.push(say(&format!("message {n}")).await);
    }
    while received.iter().all(|message| Some(&id(message)) != all.last()) {
        let more = next_messages(&mut hub).await.1;
        let ids: Vec<String> = more.iter().map(id).collect();
        acknowledge(&mut hub, &ids).await;
        received.extend(more);
    }
    assert_eq!(received.iter().map(id).collect::<Vec<_>>(), all, "each once, and in order");
    hub.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_published_again_is_ignored() {
    let Some(server) = Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let phone = party(1);
    let mut registration = b.connect(&phone).await;
    settled(&b).await;
    drain(&mut registration);
    let tap = Tap::on(&server);
    assert_eq!(a.route_one(&phone).await, RouteOutcome::Delivered);
    delivered(&mut registration).await;
    wait_for("the frame", || (!tap.frames().is_empty()).then_some(())).await;
    let (channel, frame) = tap.frames().remove(0);
    assert_eq!(channel, "esh3ar:v2:to:0b0b0b0b0b0b0b0b");
    for _ in 0..3 {
        tap.publish(&channel, &frame);
    }
    // To the other process: there it opens nothing.
    tap.publish("esh3ar:v2:to:0a0a0a0a0a0a0a0a", &frame);
    let told = Outbound::Acknowledged([MessageId(Uuid::from_u128(5))].into());
    a.presence.send(&phone, &told);
    let next = tokio::time::timeout(crate::support::DEADLINE, registration.next()).await.unwrap();
    assert!(matches!(next, Some(Outbound::Acknowledged(_))), "{next:?}");
}

/// Those of which Redis cannot tell, because it was emptied, count as perhaps connected until every gateway
/// has written its connections again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_not_believed_that_nobody_is_connected() {
    let Some(server) = Redis::start().await else { return };
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    let (phone, nobody) = (party(1), party(2));
    let _registration = b.connect(&phone).await;
    settled(&b).await;
    let relay = a.presence.relay().unwrap();
    relay.set_gateways(vec![b.redis.node()]);
    a.routes_as(&nobody, RouteOutcome::Offline).await;
    a.routes_as(&phone, RouteOutcome::Delivered).await;
    assert!(relay.can_tell_absence().await);
    for _ in 0..2 {
        server.flush();
        let mut unknown = 0;
        until("the connections to be back", async || {
            let fate = a.route_one(&phone).await;
            assert_ne!(fate, RouteOutcome::Offline, "it is connected all the time");
            if fate == RouteOutcome::Unknown {
                unknown += 1;
                assert_eq!(a.presence.are_online(&[&phone]).await, [true], "nobody can say no");
            }
            (fate == RouteOutcome::Delivered).then_some(())
        })
        .await;
        println!("unknown {unknown} times");
        // And then it is believed again.
        a.routes_as(&nobody, RouteOutcome::Offline).await;
    }
    // A gateway that Postgres knows and Redis does not may have anybody.
    relay.set_gateways(vec![b.redis.node(), [0xC; 8].into()]);
    assert_eq!(a.route_one(&nobody).await, RouteOutcome::Unknown);
    assert_eq!(a.route_one(&phone).await, RouteOutcome::Delivered);
    assert!(!relay.can_tell_absence().await);
    let parties: [&Party; 1] = [&nobody];
    assert_eq!(a.presence.are_online(&parties).await, [true]);
}
