//! Chat: both ways, in order, with exact counts.

use std::{collections::HashMap, time::Duration};

use esh3ar::client::{Event, HubClient};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, run_json};

const PHONE: &str = "+967771234567";

struct Talk {
    server: Server,
    shop: String,
    phone: String,
    id: String,
}

impl Talk {
    async fn new() -> Talk {
        let server = Server::start().await;
        let (shop, phone) = (server.user("shop", "Chat"), server.phone(PHONE));
        let body = json!({ "phone": PHONE }).to_string();
        let (status, made) =
            server.request("POST", "/api/v1/conversations", Some(&shop), Some(&body)).await;
        assert_eq!(status, 201, "{made}");
        let id = made["id"].as_str().unwrap().to_owned();
        Talk { server, shop, phone, id }
    }

    async fn ask(
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

    async fn say(&self, token: &str, content: &str) -> Value {
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
            if let Event::Invocation { target, mut arguments } = event {
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
        let explained = run_json(&talk.server.data(), &["message", "explain", waiting]);
        let code = explained["verdict"]["code"].as_str().unwrap();
        let business = *token == talk.shop;
        let wanted = if business { "recipient_offline" } else { "recipient_never_connected" };
        assert_eq!(code, wanted, "{explained}");
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
    for (method, tail) in [
        ("GET", ""),
        ("GET", "/messages"),
        ("POST", "/messages"),
        ("POST", "/read"),
        ("POST", "/archive"),
        ("POST", "/close"),
    ] {
        let body = (method == "POST" && tail == "/messages").then(|| json!({ "content": "x" }));
        assert_eq!(talk.ask(method, tail, &rival, body.clone()).await.0, 404, "{tail}");
        assert_eq!(talk.ask(method, tail, &silent, body.clone()).await.0, 403, "{tail}");
        let wanted = if matches!(tail, "/archive" | "/close") { 403 } else { 404 };
        assert_eq!(talk.ask(method, tail, &stranger, body).await.0, wanted, "{tail}");
    }
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
    let _ = Duration::ZERO;
}
