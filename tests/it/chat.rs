//! Chat: both ways, in order, with exact counts.

use std::collections::HashMap;

use esh3ar::client::{HubClient, HubEvent};
use futures_util::SinkExt as _;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, run_json};

pub const PHONE: &str = "+967771234567";

pub struct Talk {
    pub server: Server,
    pub shop: String,
    pub phone: String,
    pub id: String,
}

impl Talk {
    pub async fn new() -> Talk {
        let server = Server::start().await;
        let (shop, phone) = (server.user("shop", "Chat"), server.phone(PHONE));
        let body = json!({ "phone": PHONE }).to_string();
        let (status, made) =
            server.request("POST", "/api/v1/conversations", Some(&shop), Some(&body)).await;
        assert_eq!(status, 201, "{made}");
        let id = made["id"].as_str().unwrap().to_owned();
        Talk { server, shop, phone, id }
    }

    pub async fn ask(
        &self,
        method: &str,
        tail: &str,
        token: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let path = format!("/api/v1/conversations/{}{tail}", self.id);
        let body = body.map(|body| body.to_string());
        self.server.request(method, &path, Some(token), body.as_deref()).await
    }

    pub async fn say(&self, token: &str, content: &str) -> Value {
        let (status, message) =
            self.ask("POST", "/messages", token, Some(json!({ "content": content }))).await;
        assert_eq!(status, 201, "{message}");
        message
    }

    async fn unread(&self, token: &str) -> i64 {
        self.ask("GET", "", token, None).await.1["unreadCount"].as_i64().unwrap()
    }
}

/// A connection that remembers what it was called with: different calls come in any order.
struct Ear {
    hub: HubClient,
    heard: Vec<(String, Value)>,
}

impl Ear {
    async fn new(server: &Server, token: &str) -> Ear {
        Ear { hub: server.hub(token).await, heard: Vec::new() }
    }

    /// The next call of this method.
    async fn called(&mut self, method: &str) -> Value {
        loop {
            if let Some(at) = self.heard.iter().position(|(target, _)| target == method) {
                return self.heard.remove(at).1;
            }
            let event = tokio::time::timeout(DEADLINE, self.hub.next()).await.unwrap().unwrap();
            if let HubEvent::Invocation { target, mut arguments } = event {
                self.heard.push((target, arguments.remove(0)));
            }
        }
    }

    async fn call(&mut self, method: &str, arguments: Vec<Value>) -> Value {
        self.hub.call(method, arguments, DEADLINE).await.unwrap()
    }
}

#[tokio::test]
async fn both_sides_write_read_and_are_told() {
    let talk = Talk::new().await;
    let mut shop = Ear::new(&talk.server, &talk.shop).await;
    let mut desk = Ear::new(&talk.server, &talk.shop).await;
    let mut phone = Ear::new(&talk.server, &talk.phone).await;
    // From the phone by hub: to both connections of the business user.
    let sent = json!({ "conversationId": talk.id, "content": "hello?", "clientMessageId": "c1" });
    let message = phone.call("SendMessage", vec![sent.clone()]).await;
    assert_eq!((&message["seq"], &message["type"]), (&json!(1), &json!("chat")));
    for hub in [&mut shop, &mut desk] {
        let got = hub.called("ReceiveMessage").await;
        assert_eq!((&got["id"], &got["from"]), (&message["id"], &json!(PHONE)));
        let changed = hub.called("ConversationChanged").await;
        assert_eq!((&changed["unreadCount"], &changed["lastSeq"]), (&json!(1), &json!(1)));
    }
    // A repeat changes nothing.
    let again = phone.call("SendMessage", vec![sent]).await;
    assert_eq!(again["id"], message["id"]);
    assert_eq!(talk.unread(&talk.shop).await, 1);
    // The answer from one agent is seen by the other, and by the phone.
    let answer = json!({ "to": PHONE, "content": "hello!" });
    let answer = shop.call("SendMessage", vec![answer]).await;
    assert_eq!(answer["seq"], 2);
    assert_eq!(desk.called("ReceiveMessage").await["id"], answer["id"]);
    assert_eq!(phone.called("ReceiveMessage").await["id"], answer["id"]);
    // Receipts go to whoever wrote.
    let read = json!({ "conversationId": talk.id, "upToSeq": 1 });
    assert_eq!(shop.call("MarkRead", vec![read]).await, json!(1));
    let changed = phone.called("MessageStatusChanged").await;
    assert_eq!((&changed["id"], &changed["status"]), (&message["id"], &json!("read")));
    assert_eq!(phone.call("Acknowledge", vec![json!([answer["id"]])]).await, 1);
    let read = json!({ "messageIds": [answer["id"]] });
    assert_eq!(phone.call("MarkRead", vec![read]).await, json!(1));
    assert_eq!((talk.unread(&talk.shop).await, talk.unread(&talk.phone).await), (0, 0));
    // Writing is told and not stored.
    phone.call("Typing", vec![json!({ "conversationId": talk.id })]).await;
    let typing = desk.called("Typing").await;
    assert_eq!(typing, json!({ "conversationId": talk.id, "from": PHONE }));
    let history = json!({ "conversationId": talk.id, "after": 0 });
    let history = shop.call("GetHistory", vec![history]).await;
    let ids: Vec<&Value> = history.as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, [&message["id"], &answer["id"]]);
    let listed = phone.call("GetConversations", vec![]).await;
    assert_eq!(listed[0]["id"], json!(talk.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_gets_it_on_connect_on_either_side() {
    let talk = Talk::new().await;
    let mut said = HashMap::new();
    for (token, other) in [(&talk.phone, &talk.shop), (&talk.shop, &talk.phone)] {
        let ids: Vec<Value> = [
            talk.say(token, "one").await["id"].clone(),
            talk.say(token, "two").await["id"].clone(),
        ]
        .into();
        said.insert(other, ids);
    }
    for (token, ids) in said {
        let waiting = ids[0].as_str().unwrap();
        let business = *token == talk.shop;
        let wanted = if business { "recipient_offline" } else { "recipient_never_connected" };
        // On a busy machine a worker is seen alive a moment after it is ready.
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            let explained = run_json(&talk.server.data(), &["message", "explain", waiting]);
            if explained["verdict"]["code"] == wanted {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{explained}");
        }
        let mut hub = Ear::new(&talk.server, token).await;
        let page = hub.called("ReceivePendingMessages").await;
        let got: Vec<Value> = page.as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
        assert_eq!(got, ids);
        let done = hub.call("Acknowledge", vec![json!(ids)]).await;
        assert_eq!(done, json!(2));
        hub.hub.close().await;
        let mut again = Ear::new(&talk.server, token).await;
        let pending = again.call("GetPendingMessages", vec![]).await;
        assert_eq!(pending, json!([]));
    }
}

#[tokio::test]
async fn a_closed_conversation_refuses_an_archived_one_wakes_and_strangers_see_nothing() {
    let talk = Talk::new().await;
    let rival = talk.server.user("rival", "Chat");
    let silent = talk.server.user("silent", "SendMessages");
    let stranger = talk.server.phone("+967770000009");
    // Every route there is, those that are added later included.
    let of_one = esh3ar::server::routes::all().iter().filter_map(|route| {
        Some((route.method.as_str(), route.path.strip_prefix("/api/v1/conversations/{id}")?))
    });
    let mut routes = 0;
    for (method, tail) in of_one {
        routes += 1;
        let body = (method == "POST" && tail == "/messages").then(|| json!({ "content": "x" }));
        assert_eq!(talk.ask(method, tail, &rival, body.clone()).await.0, 404, "{tail}");
        assert_eq!(talk.ask(method, tail, &silent, body.clone()).await.0, 403, "{tail}");
        let wanted = if matches!(tail, "/archive" | "/close") { 403 } else { 404 };
        assert_eq!(talk.ask(method, tail, &stranger, body).await.0, wanted, "{tail}");
    }
    assert!(routes >= 6, "only {routes} routes");
    assert_eq!(talk.ask("POST", "/close", &talk.phone, None).await.0, 403, "the business user's");
    let (status, archived) = talk.ask("POST", "/archive", &talk.shop, None).await;
    assert_eq!((status, &archived["status"]), (200, &json!("archived")));
    talk.say(&talk.phone, "are you there?").await;
    assert_eq!(talk.ask("GET", "", &talk.shop, None).await.1["status"], "active");
    assert_eq!(talk.ask("POST", "/close", &talk.shop, None).await.0, 200);
    for token in [&talk.shop, &talk.phone] {
        let said = talk.ask("POST", "/messages", token, Some(json!({ "content": "x" }))).await;
        assert_eq!((said.0, &said.1["code"]), (409, &json!("conflict")));
        assert!(said.1["detail"].as_str().unwrap().contains("closed"));
    }
    // What is there can still be read.
    assert_eq!(talk.ask("POST", "/read", &talk.shop, None).await.1["read"], 1);
    // The same pair again is the same conversation.
    let body = json!({ "phone": PHONE }).to_string();
    let (status, same) =
        talk.server.request("POST", "/api/v1/conversations", Some(&talk.shop), Some(&body)).await;
    assert_eq!((status, &same["id"]), (200, &json!(talk.id)));
}

/// **Feature: enhanced-messaging-system, Property 13: Chat Message Bidirectionality**
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_numbered_without_gaps_and_counted_exactly() {
    const EACH: usize = 60;
    let talk = std::sync::Arc::new(Talk::new().await);
    let mut tasks = Vec::new();
    for n in 0..8 {
        let talk = std::sync::Arc::clone(&talk);
        tasks.push(tokio::spawn(async move {
            let token = if n % 2 == 0 { &talk.shop } else { &talk.phone };
            for m in 0..EACH {
                talk.say(token, &format!("{n}/{m}")).await;
                if m % 10 == n {
                    // Somebody reads meanwhile.
                    talk.ask("POST", "/read", token, Some(json!({ "upToSeq": m }))).await;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let database = talk.server.database().await;
    let row = database
        .query_one(
            "SELECT count(*), min(seq), max(seq), count(*) FILTER (WHERE id < earlier) FROM
             (SELECT seq, id, lag(id) OVER (ORDER BY seq) AS earlier FROM messages) m",
            &[],
        )
        .await
        .unwrap();
    let all = 8 * EACH as i64;
    assert_eq!((row.get(0), row.get(1), row.get(2), row.get(3)), (all, 1i64, all, 0i64));
    assert_exact(&database).await;
    let books = run_json(&talk.server.data(), &["audit", "delivery"]);
    assert_eq!(books["unaccounted"], 0, "{books}");
    let mut seen = Vec::new();
    let mut before = String::new();
    loop {
        let (_, page) =
            talk.ask("GET", &format!("/messages?limit=50{before}"), &talk.phone, None).await;
        let seqs: Vec<i64> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["seq"].as_i64().unwrap())
            .collect();
        let Some(last) = seqs.last() else { break };
        before = format!("&before={last}");
        seen.extend(seqs);
    }
    assert_eq!(seen, (1..=all).rev().collect::<Vec<_>>());
}

/// **Feature: enhanced-messaging-system, Property 6: Conversation Unread Count Accuracy**
async fn assert_exact(database: &tokio_postgres::Client) {
    let wrong: i64 = database
        .query_one(
            "SELECT count(*) FROM conversations c WHERE
               unread_business <> (SELECT count(*) FROM messages m WHERE m.conversation_id = c.id
                                   AND m.recipient_user_id IS NOT NULL AND m.status <> 3)
               OR unread_mobile <> (SELECT count(*) FROM messages m WHERE m.conversation_id = c.id
                                    AND m.recipient_phone IS NOT NULL AND m.status <> 3)",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(wrong, 0, "an unread count is wrong");
}

#[tokio::test]
async fn the_list_is_newest_first_and_counts_what_is_unread() {
    let server = Server::start().await;
    let shop = server.user("shop", "Chat");
    let mut ids = Vec::new();
    for n in 0..5 {
        let number = format!("+96777000000{n}");
        let phone = server.phone(&number);
        let body = json!({ "phone": number }).to_string();
        let path = "/api/v1/conversations";
        let (_, made) = server.request("POST", path, Some(&shop), Some(&body)).await;
        let id = made["id"].as_str().unwrap().to_owned();
        let body = json!({ "content": "hi" }).to_string();
        let path = format!("/api/v1/conversations/{id}/messages");
        let said = server.request("POST", &path, Some(&phone), Some(&body)).await;
        assert_eq!(said.0, 201, "{}", said.1);
        ids.insert(0, id);
    }
    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/v1/conversations?limit=2{after}");
        let (_, page) = server.request("GET", &path, Some(&shop), None).await;
        let items = page["items"].as_array().unwrap();
        listed.extend(items.iter().map(|c| c["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(listed, ids);
    let count = |token: String| {
        let server = &server;
        async move {
            let path = "/api/v1/conversations/unread-count";
            server.request("GET", path, Some(&token), None).await.1["count"].clone()
        }
    };
    assert_eq!(count(shop.clone()).await, 5);
    let path = format!("/api/v1/conversations/{}/read", ids[0]);
    assert_eq!(server.request("POST", &path, Some(&shop), None).await.0, 200);
    assert_eq!(count(shop).await, 4);
}

#[tokio::test]
async fn who_takes_no_part_finds_nothing_by_any_method() {
    let talk = Talk::new().await;
    talk.say(&talk.shop, "private").await;
    let rival = talk.server.user("rival", "Chat");
    let stranger = talk.server.phone("+967770000009");
    let absent = "01a20a1b-7317-71ae-8f98-eacc86509605";
    for token in [&rival, &stranger] {
        let mut hub = Ear::new(&talk.server, token).await;
        for (method, more) in [
            ("SendMessage", json!({ "content": "x" })),
            ("GetHistory", json!({})),
            ("GetHistory", json!({ "after": 0 })),
            ("GetHistory", json!({ "before": 9 })),
            ("MarkRead", json!({})),
            ("Typing", json!({})),
        ] {
            let mut answers = Vec::new();
            for id in [talk.id.as_str(), absent] {
                let mut argument = more.clone();
                argument["conversationId"] = json!(id);
                let refused = hub.hub.call(method, vec![argument], DEADLINE).await.unwrap_err();
                answers.push(refused.to_string());
            }
            assert!(answers[0].contains("not_found"), "{method}: {}", answers[0]);
            // What is not theirs and what is not there get the same answer.
            assert_eq!(answers[0], answers[1]);
        }
        assert_eq!(hub.call("GetConversations", vec![]).await, json!([]));
        let read = json!({ "messageIds": [talk.say(&talk.shop, "more").await["id"]] });
        assert_eq!(hub.call("MarkRead", vec![read]).await, json!(0));
    }
    assert_eq!(talk.unread(&talk.phone).await, 3);
}

#[tokio::test]
async fn writing_is_told_once_a_second_at_most() {
    let talk = Talk::new().await;
    let mut shop = Ear::new(&talk.server, &talk.shop).await;
    let mut phone = Ear::new(&talk.server, &talk.phone).await;
    let begun = std::time::Instant::now();
    for _ in 0..50 {
        let answer = phone.call("Typing", vec![json!({ "conversationId": talk.id })]).await;
        assert_eq!(answer, Value::Null);
    }
    let most = begun.elapsed().as_secs() + 1;
    // A message ends the signals: whatever was told came before it.
    phone.call("SendMessage", vec![json!({ "conversationId": talk.id, "content": "so" })]).await;
    shop.called("ReceiveMessage").await;
    let told = shop.heard.iter().filter(|(target, _)| target == "Typing").count() as u64;
    assert!((1..=most).contains(&told), "{told} signals in {most} s");
    let dropped = talk.server.metric("esh3ar_typing_dropped_total").await;
    assert_eq!(dropped, (50 - told) as f64);
    let database = talk.server.database().await;
    let rows: i64 = database.query_one("SELECT count(*) FROM messages", &[]).await.unwrap().get(0);
    assert_eq!(rows, 1);
}

/// **Feature: enhanced-messaging-system, Property 12: One-Way Message Read-Only**
#[tokio::test]
async fn a_one_way_message_cannot_be_answered_and_the_refusal_says_why() {
    let talk = Talk::new().await;
    let sender = talk.server.user("sender", "SendMessages,Chat");
    let notice = talk.server.send(&sender, PHONE, "read only").await;
    let body = json!({ "content": "but" }).to_string();
    let path = format!("/api/v1/conversations/{notice}/messages");
    let (status, problem) =
        talk.server.request("POST", &path, Some(&talk.phone), Some(&body)).await;
    assert_eq!((status, &problem["code"]), (403, &json!("one_way_read_only")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("cannot be replied to"));
    let back = json!({ "to": PHONE, "content": "but" }).to_string();
    let path = "/api/v1/messages";
    let (_, problem) = talk.server.request("POST", path, Some(&talk.phone), Some(&back)).await;
    assert_eq!(problem["code"], "one_way_read_only");
    let mut hub = Ear::new(&talk.server, &talk.phone).await;
    let argument = json!({ "conversationId": notice, "content": "but" });
    let refused = hub.hub.call("SendMessage", vec![argument], DEADLINE).await.unwrap_err();
    assert!(refused.to_string().contains("one_way_read_only"), "{refused}");
    // Others do not learn that there is such a message.
    let stranger = talk.server.phone("+967770000009");
    let path = format!("/api/v1/conversations/{notice}/messages");
    assert_eq!(talk.server.request("POST", &path, Some(&stranger), Some(&body)).await.0, 404);
}

#[tokio::test]
async fn pages_that_are_asked_for_again_are_kept_and_counted() {
    let talk = Talk::new().await;
    talk.say(&talk.phone, "hello").await;
    let counts = |name: &'static str| {
        let server = &talk.server;
        async move {
            let page = crate::support::get(format!("{}/metrics", server.metrics)).await.unwrap();
            let page = page.text().await.unwrap();
            let of = |kind: &str| {
                let wanted = format!("{name}{{kind=\"{kind}\"}} ");
                let line = page.lines().find_map(|line| line.strip_prefix(wanted.as_str()));
                line.map_or(0, |value| value.trim().parse::<u64>().unwrap())
            };
            ["history", "conversations", "unread"].map(of)
        }
    };
    let look = || async {
        let history = talk.ask("GET", "/messages", &talk.shop, None).await.1;
        let list =
            talk.server.request("GET", "/api/v1/conversations", Some(&talk.shop), None).await;
        let path = "/api/v1/conversations/unread-count";
        (history, list.1, talk.server.request("GET", path, Some(&talk.shop), None).await.1)
    };
    let first = look().await;
    let (hits, misses) =
        (counts("esh3ar_cache_hits_total").await, counts("esh3ar_cache_misses_total").await);
    assert_eq!((hits, misses), ([0, 0, 0], [1, 1, 1]));
    assert_eq!(look().await, first);
    assert_eq!(counts("esh3ar_cache_hits_total").await, [1, 1, 1]);
    // An acknowledgement changes the history and nothing that the list shows.
    let mut hub = Ear::new(&talk.server, &talk.shop).await;
    let ids = json!([first.0["items"][0]["id"]]);
    assert_eq!(hub.call("Acknowledge", vec![ids]).await, json!(1));
    let second = look().await;
    assert_eq!(second.0["items"][0]["status"], "delivered");
    assert_eq!((&second.1, &second.2), (&first.1, &first.2));
    assert_eq!(counts("esh3ar_cache_hits_total").await, [1, 2, 2]);
    // Reading changes all of it.
    assert_eq!(talk.ask("POST", "/read", &talk.shop, None).await.1["read"], 1);
    let third = look().await;
    assert_eq!(third.0["items"][0]["status"], "read");
    assert_eq!((&third.1["items"][0]["unreadCount"], &third.2["count"]), (&json!(0), &json!(0)));
}

/// Each of an agent's screens sees everything, and one that was away sees what it missed.
#[tokio::test]
async fn several_agents_of_one_business_user_see_the_same() {
    let talk = Talk::new().await;
    let mut desks = Vec::new();
    for _ in 0..3 {
        desks.push(Ear::new(&talk.server, &talk.shop).await);
    }
    let mut phone = Ear::new(&talk.server, &talk.phone).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let said = json!({ "conversationId": talk.id, "content": format!("{n}") });
        ids.push(phone.call("SendMessage", vec![said]).await["id"].clone());
    }
    for desk in &mut desks {
        for id in &ids {
            assert_eq!(desk.called("ReceiveMessage").await["id"], *id);
        }
    }
    // One takes them; the others need not, and a fourth finds nothing waiting.
    assert_eq!(desks[0].call("Acknowledge", vec![json!(ids)]).await, json!(20));
    assert_eq!(desks[1].call("Acknowledge", vec![json!(ids)]).await, json!(0));
    let mut fourth = Ear::new(&talk.server, &talk.shop).await;
    assert_eq!(fourth.call("GetPendingMessages", vec![]).await, json!([]));
    // What one of them reads is read for all of them.
    let read = json!({ "conversationId": talk.id });
    assert_eq!(desks[2].call("MarkRead", vec![read]).await, json!(20));
    for desk in desks.iter_mut().chain([&mut fourth]) {
        while desk.called("ConversationChanged").await["unreadCount"] != json!(0) {}
    }
}

/// Gives the text of a call's error.
async fn refused(ear: &mut Ear, method: &str, argument: Value) -> String {
    match ear.hub.call(method, vec![argument], DEADLINE).await {
        Err(esh3ar::client::Error::Call(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_message_id_stands_for_one_message_and_no_other() {
    let talk = Talk::new().await;
    let mut phone = Ear::new(&talk.server, &talk.phone).await;
    let first = json!({ "conversationId": talk.id, "content": "one", "clientMessageId": "c1" });
    let message = phone.call("SendMessage", vec![first.clone()]).await;
    // Another shop, and so another conversation.
    let other = talk.server.user("other", "SendMessages,Chat");
    let body = json!({ "phone": PHONE }).to_string();
    let open = talk.server.request("POST", "/api/v1/conversations", Some(&other), Some(&body));
    let elsewhere = open.await.1["id"].clone();
    let changed = [
        ("content", json!("two")),
        ("contentType", json!("json")),
        ("conversationId", elsewhere.clone()),
    ];
    for (field, value) in &changed {
        let mut argument = first.clone();
        argument[*field] = value.clone();
        if *field == "contentType" {
            // The same text, which is JSON too, as something else.
            let same =
                json!({ "conversationId": talk.id, "content": "1", "clientMessageId": "n1" });
            phone.call("SendMessage", vec![same.clone()]).await;
            argument = same;
            argument["contentType"] = value.clone();
        }
        let text = refused(&mut phone, "SendMessage", argument.clone()).await;
        assert!(text.contains("HubException: client_message_id_reused: "), "{field}: {text}");
        // Over HTTP the same, with its status.
        let conversation = argument["conversationId"].as_str().unwrap().to_owned();
        argument.as_object_mut().unwrap().remove("conversationId");
        let body = argument.to_string();
        let path = format!("/api/v1/conversations/{conversation}/messages");
        let said = talk.server.request("POST", &path, Some(&talk.phone), Some(&body));
        let (status, problem) = said.await;
        assert_eq!(
            (status, &problem["code"]),
            (409, &json!("client_message_id_reused")),
            "{field}"
        );
    }
    // By the header it is said as for every send.
    let path = format!("{}/api/v1/conversations/{}/messages", talk.server.base, talk.id);
    for (content, status, code) in [
        ("a", 201, Value::Null),
        ("a", 200, Value::Null),
        ("b", 422, json!("idempotency_key_reused")),
    ] {
        let request = talk.server.http().post(&path).bearer_auth(&talk.phone);
        let request = request.header("idempotency-key", "k1").json(&json!({ "content": content }));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{content}");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], code, "{content}");
    }
    // The first is what it was, and its repeat is answered with it.
    let again = phone.call("SendMessage", vec![first]).await;
    assert_eq!((&again["id"], &again["content"]), (&message["id"], &json!("one")));
}

/// However a client writes it: in the bytes of the characters, or each of them escaped.
#[tokio::test]
async fn the_longest_message_fits_however_it_is_written() {
    let talk = Talk::new().await;
    let mut shop = Ear::new(&talk.server, &talk.shop).await;
    let host = talk.server.base.strip_prefix("http://").unwrap();
    let url = format!("ws://{host}/hub?access_token={}", talk.phone);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let say = |text: String| tokio_tungstenite::tungstenite::Message::text(text);
    socket.send(say("{\"protocol\":\"json\",\"version\":1}\u{1e}".to_owned())).await.unwrap();
    let (emoji, arabic) = ("\u{1f600}", "\u{634}");
    let forms = [
        (emoji, emoji.to_owned()),
        (emoji, "\\ud83d\\ude00".to_owned()),
        (arabic, "\\u0634".to_owned()),
        ("\t", "\\u0009".to_owned()),
    ];
    for (n, (character, written)) in forms.iter().enumerate() {
        let call = format!(
            "{{\"type\":1,\"invocationId\":\"{n}\",\"target\":\"SendMessage\",\"arguments\":[{{\
             \"conversationId\":\"{}\",\"clientMessageId\":\"{}\",\"content\":\"{}\"}}]}}\u{1e}",
            talk.id,
            format!("\\u0063{n}").repeat(50),
            written.repeat(10_000),
        );
        socket.send(say(call)).await.unwrap();
        let got = shop.called("ReceiveMessage").await;
        assert_eq!(got["content"], json!(character.repeat(10_000)), "{n}");
    }
    // One more is one too many, and is answered as such on a connection that stays.
    let mut phone = Ear::new(&talk.server, &talk.phone).await;
    let long = json!({ "conversationId": talk.id, "content": emoji.repeat(10_001) });
    let text = refused(&mut phone, "SendMessage", long).await;
    assert!(text.contains("validation_failed"), "{text}");
    let longer = json!({ "conversationId": talk.id, "content": "x".repeat(300_000) });
    let text = refused(&mut phone, "SendMessage", longer).await;
    assert!(text.contains("message_too_large: esh3ar takes at most 262144 bytes"), "{text}");
    assert_eq!(phone.call("Echo", vec![json!(1)]).await, json!(1));
}

/// What is refused begins no conversation.
#[tokio::test]
async fn a_message_that_is_refused_leaves_no_conversation() {
    let server = Server::start().await;
    let shop = server.user("shop", "Chat");
    server.phone(PHONE);
    let mut hub = server.hub(&shop).await;
    let long = "x".repeat(10_001);
    for refused in [
        json!({ "to": PHONE, "content": "" }),
        json!({ "to": PHONE, "content": long }),
        json!({ "to": PHONE, "content": "a\0b" }),
        json!({ "to": PHONE, "content": "x", "clientMessageId": "i".repeat(101) }),
    ] {
        assert!(hub.call("SendMessage", vec![refused], DEADLINE).await.is_err());
    }
    let (_, list) = server.request("GET", "/api/v1/conversations", Some(&shop), None).await;
    assert_eq!(list["items"], json!([]), "{list}");
    let said = json!({ "to": PHONE, "content": "x" });
    hub.call("SendMessage", vec![said], DEADLINE).await.unwrap();
    let (_, list) = server.request("GET", "/api/v1/conversations", Some(&shop), None).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
}
