//! What is stored has a limit by party.

mod walk;

use std::time::{Duration, Instant};

use esh3ar::client::{Error, HubClient};
use serde_json::{Value, json};

use crate::{
    support::{DEADLINE, Server, acknowledge, cluster::Cluster, id, next_messages, number},
    transports::Plain,
};

const PHONE: &str = "+967771234567";

/// The status of an answer, and whole seconds of its `Retry-After`.
async fn told(response: reqwest::Response) -> (u16, Option<u64>, Value) {
    let status = response.status().as_u16();
    let wait = response.headers().get("retry-after");
    let wait = wait.map(|value| value.to_str().unwrap().parse().unwrap());
    let text = response.text().await.unwrap();
    (status, wait, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn batch(server: &Server, token: &str, key: &str, body: &Value) -> (bool, String) {
    let request = server.http().post(format!("{}/api/v1/messages/batch", server.base));
    let answer = request
        .bearer_auth(token)
        .header("idempotency-key", key)
        .body(body.to_string())
        .header("content-type", "application/json")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let replayed = answer.headers().contains_key("idempotency-replayed");
    (replayed, answer.text().await.unwrap())
}

/// How many keys are kept, and how long the longest answer is.
async fn keys(server: &Server) -> (i64, i64) {
    let sql =
        "SELECT count(*), coalesce(max(octet_length(response)), 0)::int8 FROM idempotency_keys";
    let row = server.database().await.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// 55 MiB were stored in seconds by batches of which no item was a message.
#[tokio::test]
async fn a_batch_of_which_nothing_is_accepted_leaves_nothing_behind() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let name = "z".repeat(4000);
    let bad = json!({ "to": PHONE, "content": "x", name.as_str(): 1 });
    let body = json!({ "messages": vec![bad.clone(); 500] });
    let mut first = String::new();
    for n in 0..10 {
        let (replayed, answer) = batch(&server, &shop, &format!("key {n}"), &body).await;
        assert!(!replayed);
        // Of the name that nobody knows no more than its beginning is repeated.
        assert!(answer.len() < 500 * 600, "{}", answer.len());
        assert!(answer.contains("unknown_field") && !answer.contains(&"z".repeat(101)));
        first = answer;
    }
    assert_eq!(keys(&server).await, (0, 0));
    // The same again is judged again, and the key is free for something else.
    assert_eq!(batch(&server, &shop, "key 0", &body).await, (false, first));
    let good = json!({ "to": PHONE, "content": "x" });
    let mixed = json!({ "messages": [good.clone(), bad] });
    let (_, accepted) = batch(&server, &shop, "key 0", &mixed).await;
    assert_eq!(batch(&server, &shop, "key 0", &mixed).await, (true, accepted));
    // What was accepted under it keeps it.
    let other = server.http().post(format!("{}/api/v1/messages/batch", server.base));
    let other = other.bearer_auth(&shop).header("idempotency-key", "key 0").json(&body);
    assert_eq!(other.send().await.unwrap().status(), 422);

    // As long as an answer can be: each character of each item takes six in JSON, and more than once.
    let name = "\u{1}".repeat(4000);
    let mut items = vec![json!({ "to": PHONE, "content": "x", name.as_str(): 1 }); 499];
    items.push(good);
    let worst = json!({ "messages": items });
    let (_, answer) = batch(&server, &shop, "worst", &worst).await;
    assert!(answer.contains("unknown_field") && answer.contains("\"id\""));
    assert_eq!(batch(&server, &shop, "worst", &worst).await, (true, answer));
    let (count, longest) = keys(&server).await;
    assert!(count == 2 && longest <= 256 * 1024, "{count} {longest}");
}

/// 86,700 rows were stored in seconds by one phone that connected again and again.
#[tokio::test]
async fn a_phone_that_reconnects_again_and_again_leaves_one_event_a_message() {
    const WAITING: i64 = 100;
    const CONNECTS: usize = 6;
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let items = vec![json!({ "to": PHONE, "content": "x" }); WAITING as usize];
    let (_, sent) = batch(&server, &shop, "key", &json!({ "messages": items })).await;
    let sent: Value = serde_json::from_str(&sent).unwrap();
    let first = id(&sent["results"][0]);
    let database = server.database().await;
    let told = async || -> (i64, i64, i32) {
        let sql = "SELECT count(*), coalesce(sum(count), 0)::int8, coalesce(max(count), 0)
                   FROM delivery_events WHERE kind = 'connection_lost'";
        let row = database.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    let mut before = 0;
    for _ in 0..CONNECTS {
        let mut hub = server.hub(&phone).await;
        let mut got = 0;
        while got < WAITING as usize {
            got += next_messages(&mut hub).await.1.len();
        }
        drop(hub);
        let deadline = Instant::now() + DEADLINE;
        // All of one connection are written in one batch.
        while told().await.1 == before {
            assert!(Instant::now() < deadline, "no lost connection was noted");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        before = told().await.1;
    }
    let (rows, _, most) = told().await;
    assert!(rows <= WAITING, "{rows} events of {WAITING} messages");
    assert!(most > 1 && most <= CONNECTS as i32, "{most}");

    // The story says how often, and when last.
    let steps = async || -> Vec<Value> {
        let story = server.run_json(&["message", "explain", &first]);
        let steps = story["steps"].as_array().unwrap().iter();
        steps.filter(|step| step["step"] == "connection_lost").cloned().collect()
    };
    let lost = steps().await;
    assert_eq!(lost.len(), 1);
    let count = lost[0]["count"].as_i64().unwrap();
    assert!(count > 1 && lost[0]["lastAt"].as_str() > lost[0]["at"].as_str(), "{lost:?}");
    let shown = server.run(&["message", "show", &first, "-o", "table"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("({count} times, the last at ")), "{shown}");

    // Of very many rows that an earlier version wrote, the newest are shown.
    let old = "INSERT INTO delivery_events (message_id, generation, at, kind, detail)
               SELECT $1::text::uuid, 0, now() + n * interval '1 ms', 'connection_lost', 'old ' || n
               FROM generate_series(1, 1500) n";
    database.execute(old, &[&first]).await.unwrap();
    let lost = steps().await;
    assert_eq!(lost.len(), 1000);
    assert_eq!(lost.last().unwrap()["detail"], "old 1500");
}

fn refused_by_rate(answer: Result<HubClient, Error>) -> bool {
    matches!(answer, Err(Error::Refused { status: 429, .. }))
}

#[tokio::test]
async fn a_party_begins_so_many_connections_and_others_are_not_held_up() {
    let server = Server::start_with(&[
        ("ESH3AR__LIMITS__CONNECTS_PER_USER_PER_MINUTE", "3"),
        ("ESH3AR__LIMITS__CONNECTS_PER_BUSINESS_USER_PER_MINUTE", "5"),
    ])
    .await;
    let (phone, other) = (server.phone(PHONE), server.phone(&number(1)));
    let shop = server.user("shop", "Chat");
    for (token, most) in [(&phone, 3), (&shop, 5)] {
        for _ in 0..most {
            server.hub(token).await.close().await;
        }
        assert!(refused_by_rate(HubClient::connect(&server.base, token).await));
        let plain = Plain::new(&server, "/hub", token);
        let (status, wait, problem) =
            told(plain.post("/negotiate?negotiateVersion=1", "").await).await;
        assert_eq!((status, &problem["code"]), (429, &json!("rate_limited")), "{problem}");
        assert!(matches!(wait, Some(1..=61)), "{wait:?}");
        // Without negotiation neither.
        assert_eq!(upgrade(&server, token, "").await.status(), 429);
    }
    server.hub(&other).await.close().await;
    assert!(server.metric("esh3ar_rate_limited_total{class=\"connects\"}").await >= 4.0);

    // A socket that comes back to its connection is one more.
    let third = server.phone(&number(2));
    let plain = Plain::new(&server, "/hub", &third);
    let connection = plain.negotiate("&useStatefulReconnect=true").await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let socket = upgrade(&server, &third, &connection).await;
        assert_eq!(socket.status(), 101);
        sockets.push(socket);
    }
    assert_eq!(upgrade(&server, &third, &connection).await.status(), 429);
}

/// Asks for a WebSocket.
async fn upgrade(server: &Server, token: &str, query: &str) -> reqwest::Response {
    crate::support::http()
        .get(format!("{}/hub{query}", server.base))
        .bearer_auth(token)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send()
        .await
        .unwrap()
}

/// What two gateways let through is counted once.
#[tokio::test]
async fn gateways_count_connections_and_conversations_together() {
    let limits = [
        ("ESH3AR__LIMITS__CONNECTS_PER_USER_PER_MINUTE", "4"),
        ("ESH3AR__LIMITS__CONVERSATIONS_PER_BUSINESS_USER_PER_HOUR", "4"),
        ("ESH3AR__LIMITS__ADMIN_REQUESTS_PER_MINUTE", "4"),
    ];
    let Some(cluster) = Cluster::start_with(2, 1, &limits).await else { return };
    cluster.settled().await;
    let gateways = &cluster.gateways;
    let phone = gateways[0].phone(PHONE);
    let (shop, admin) = (gateways[0].user("shop", "Chat"), gateways[0].user("admin", "Admin"));
    let numbers: Vec<String> = (0..8).map(number).collect();
    gateways[0].phones(&numbers.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut connected, mut opened, mut asked) = (0, 0, 0);
    for (n, to) in numbers.iter().enumerate() {
        let gateway = &gateways[n % 2];
        match HubClient::connect(&gateway.base, &phone).await {
            Ok(hub) => {
                connected += 1;
                hub.close().await;
            }
            refused => assert!(refused_by_rate(refused)),
        }
        let body = json!({ "phone": to }).to_string();
        let (status, answer) =
            gateway.request("POST", "/api/v1/conversations", Some(&shop), Some(&body)).await;
        assert!(matches!(status, 201 | 429), "{answer}");
        opened += usize::from(status == 201);
        let (status, _) = gateway.request("GET", "/api/v1/admin/users", Some(&admin), None).await;
        asked += usize::from(status == 200);
    }
    assert_eq!((connected, opened, asked), (4, 4, 4));
}

/// 2,484 were opened in five seconds.
#[tokio::test]
async fn a_party_begins_so_many_conversations_and_those_that_exist_stay_open() {
    let server =
        Server::start_with(&[("ESH3AR__LIMITS__CONVERSATIONS_PER_BUSINESS_USER_PER_HOUR", "5")])
            .await;
    let (shop, other) = (server.user("shop", "Chat"), server.user("other", "Chat"));
    let numbers: Vec<String> = (0..8).map(number).collect();
    server.phones(&numbers.iter().map(String::as_str).collect::<Vec<_>>());
    let open = async |token: &str, to: &str| {
        let request = server.http().post(format!("{}/api/v1/conversations", server.base));
        told(request.bearer_auth(token).json(&json!({ "phone": to })).send().await.unwrap()).await
    };
    for (n, to) in numbers.iter().enumerate() {
        let (status, wait, answer) = open(&shop, to).await;
        assert_eq!(status, if n < 5 { 201 } else { 429 }, "{answer}");
        assert_eq!(wait.is_some(), n >= 5);
        if n >= 5 {
            assert_eq!(answer["code"], "rate_limited");
            let detail = answer["detail"].as_str().unwrap();
            assert!(detail.contains("at most 5 new conversations per hour"), "{detail}");
        }
    }
    // Those that are there are found, and talked in.
    assert_eq!(open(&shop, &numbers[0]).await.0, 200);
    let mut hub = server.hub(&shop).await;
    let say = |to: &str| vec![json!({ "to": to, "content": "x" })];
    hub.call("SendMessage", say(&numbers[4]), DEADLINE).await.unwrap();
    let refused =
        hub.call("SendMessage", say(&numbers[5]), DEADLINE).await.unwrap_err().to_string();
    assert!(
        refused.contains("HubException: rate_limited: at most 5 new conversations"),
        "{refused}"
    );
    assert_eq!(open(&other, &numbers[5]).await.0, 201);
    let sql = "SELECT count(*) FROM conversations";
    let count: i64 = server.database().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(count, 6);
}

/// There are as many receipts that change something as messages; only those that do not are counted.
#[tokio::test]
async fn receipts_that_change_something_are_not_limited() {
    let server = Server::start_with(&[("ESH3AR__LIMITS__WRITES_PER_USER_PER_MINUTE", "3")]).await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(server.send(&shop, PHONE, "x").await);
    }
    let delivered = async |id: &str| {
        let path = format!("/api/v1/messages/{id}/delivered");
        server.request("POST", &path, Some(&phone), None).await.0
    };
    for id in &ids {
        assert_eq!(delivered(id).await, 200);
    }
    let mut statuses = Vec::new();
    for id in ids.iter().take(5) {
        statuses.push(delivered(id).await);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    // What a connection brings can be acknowledged on it, one by one.
    let mut hub = server.hub(&phone).await;
    for _ in 0..5 {
        let sent = server.send(&shop, PHONE, "more").await;
        let mut found = Vec::new();
        while found.is_empty() {
            found = next_messages(&mut hub).await.1;
        }
        assert_eq!(found.iter().map(id).collect::<Vec<_>>(), std::slice::from_ref(&sent));
        assert_eq!(acknowledge(&mut hub, &[sent]).await, 1);
    }
    let again = hub.call("Acknowledge", vec![json!([ids[0]])], DEADLINE).await.unwrap_err();
    assert!(again.to_string().contains("rate_limited: at most 3 receipts"), "{again}");
}
