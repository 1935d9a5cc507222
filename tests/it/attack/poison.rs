//! No message keeps a recipient from getting the others.

use serde_json::{Value, json};

use crate::{
    foreign_clients::node,
    hub::Raw,
    support::{
        DEADLINE, Server, acknowledge, guard::wait_until, id, next_messages, number, run_json,
    },
};

/// The most bytes of one page: 256 KiB and what frames it.
const PAGE_BYTES: usize = 257 * 1024;
/// The longest texts that are accepted, at their worst: escaped twice in the existing app's form, or of
/// characters of four bytes.
const WORST: [&str; 3] = ["\"", "\\", "🙂"];
const LENGTH: usize = 10_000;

/// Sends so many one-way messages of the worst content.
async fn send_worst(server: &Server, token: &str, to: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for begin in (0..count).step_by(5) {
        let messages: Vec<Value> = (begin..count.min(begin + 5))
            .map(|n| json!({ "to": to, "content": WORST[n % WORST.len()].repeat(LENGTH) }))
            .collect();
        let body = json!({ "messages": messages });
        let answer = server.api(token).post("/api/v1/messages/batch", &body).await.unwrap();
        ids.extend(answer.body["results"].as_array().unwrap().iter().map(id));
    }
    ids
}

/// Sends so many short messages.
async fn send_short(server: &Server, token: &str, to: &str, count: usize) -> Vec<String> {
    let messages = vec![json!({ "to": to, "content": "x" }); count];
    let body = json!({ "messages": messages });
    let answer = server.api(token).post("/api/v1/messages/batch", &body).await.unwrap();
    answer.body["results"].as_array().unwrap().iter().map(id).collect()
}

/// Makes these as long as they may be, of one character: also of one that only an earlier version accepted.
async fn fill(server: &Server, ids: &[String], unit: &str) {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.parse().unwrap()).collect();
    let fill = "UPDATE messages SET content = repeat($2, 10000) WHERE id = ANY ($1)";
    server.database().await.execute(fill, &[&ids, &unit]).await.unwrap();
}

/// Runs the clients of `poison.test.mjs`, which are told what each of them has to get, and in which order.
/// Whether they are there.
async fn run_clients(server: &Server, clients: &[Value]) -> bool {
    let Some(mut command) = node("poison.test.mjs") else { return false };
    let file = server.folder.path().join("clients.json");
    std::fs::write(&file, json!(clients).to_string()).unwrap();
    command.env("BASE", &server.base).env("CLIENTS", file);
    let all = format!("tests {}\n", clients.len());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&all), "{text}");
    true
}

async fn wait_until_all_is_acknowledged(server: &Server) {
    let database = server.database().await;
    let waiting = "SELECT count(*) FROM messages WHERE status < 2";
    let deadline = std::time::Instant::now() + DEADLINE;
    while database.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(std::time::Instant::now() < deadline, "messages still wait");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_gets_a_code_behind_a_hundred_of_the_worst_messages() {
    let server = Server::start().await;
    let (shop, bank) = (server.user("shop", "SendMessages"), server.user("bank", "SendMessages"));
    let mut clients = Vec::new();
    for (n, (path, protocol, stateful)) in [
        ("/hub", "json", false),
        ("/hub", "messagepack", false),
        ("/hub", "json", true),
        ("/hub", "messagepack", true),
        ("/online-mobile-user", "json", false),
        ("/online-mobile-user", "json", true),
    ]
    .into_iter()
    .enumerate()
    {
        let to = number(n);
        let token = server.phone(&to);
        // A page of these took more than 4 MiB as JSON. A connection that may come back says once a second
        // what has come, and is sent two pages a second: there it is no more than that.
        let count = match (path, stateful) {
            (_, false) => 100,
            ("/hub", true) => 72,
            _ => 61,
        };
        let mut ids = send_short(&server, &shop, &to, count).await;
        fill(&server, &ids, "\u{1}").await;
        if n == 0 {
            ids.extend(send_worst(&server, &shop, &to, 100).await);
        } else if !stateful {
            let more = send_short(&server, &shop, &to, 99).await;
            for (part, unit) in more.chunks(33).zip(WORST) {
                fill(&server, part, unit).await;
            }
            ids.extend(more);
        }
        ids.push(server.send(&bank, &to, "your code is 4711").await);
        clients.push(json!({
            "path": path, "protocol": protocol, "stateful": stateful, "token": token, "ids": ids,
        }));
    }
    if run_clients(&server, &clients).await {
        wait_until_all_is_acknowledged(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_business_gets_a_question_behind_a_hundred_of_the_worst_messages() {
    let server = Server::start().await;
    let (noisy, quiet) = (server.phone(&number(1)), server.phone(&number(2)));
    let mut clients = Vec::new();
    for (name, path, protocol, stateful) in [
        ("one", "/hub", "json", true),
        ("two", "/hub", "messagepack", false),
        ("three", "/business-user", "json", false),
    ] {
        let many = if stateful { 72 } else { 40 };
        let token = server.user(name, "Chat");
        let mut ids = Vec::new();
        let mut said = Vec::new();
        let mut conversation = Value::Null;
        for (phone, of, count) in [(&noisy, number(1), many), (&quiet, number(2), 1)] {
            let body = json!({ "phone": of });
            let opened = server.api(&token).post("/api/v1/conversations", &body).await.unwrap();
            let place = format!("/api/v1/conversations/{}/messages", id(&opened.body));
            for _ in 0..count {
                let body = json!({ "content": "x" });
                let message = server.api(phone).post(&place, &body).await.unwrap();
                ids.push(id(&message.body));
            }
            if count > 1 {
                said.clone_from(&ids);
                conversation = opened.body["id"].clone();
            }
        }
        // The phone of an earlier version may have said the first, and says the others today.
        let unit = if stateful { "\u{1}" } else { WORST[1] };
        fill(&server, &said, unit).await;
        clients.push(json!({
            "path": path, "protocol": protocol, "stateful": stateful, "token": token, "ids": ids,
            "history": if path == "/hub" { json!({ "conversation": conversation, "ids": said }) }
                       else { Value::Null },
        }));
    }
    if run_clients(&server, &clients).await {
        wait_until_all_is_acknowledged(&server).await;
    }
}

/// Six megabytes of history, read as fast as the client can: a connection that may come back is not closed
/// for what it has not acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_read_in_short_answers_and_closes_no_connection() {
    let server = Server::start().await;
    let (shop, phone) = (server.user("shop", "Chat"), server.phone(&number(1)));
    let body = json!({ "phone": number(1) });
    let opened = server.api(&shop).post("/api/v1/conversations", &body).await.unwrap();
    let place = format!("/api/v1/conversations/{}/messages", id(&opened.body));
    let mut ids = Vec::new();
    for _ in 0..100 {
        let body = json!({ "content": "x" });
        ids.push(id(&server.api(&shop).post(&place, &body).await.unwrap().body));
    }
    fill(&server, &ids, "\u{1}").await;
    server.api(&phone).post("/api/v1/messages/acknowledge", &json!({ "ids": ids })).await.unwrap();
    let clients = [true, false].map(|stateful| {
        json!({
            "path": "/hub", "protocol": "json", "stateful": stateful, "token": phone, "ids": [],
            "history": { "conversation": opened.body["id"], "ids": ids },
        })
    });
    run_clients(&server, &clients).await;
    // Each answer by itself, and over HTTP the same.
    let mut hub = server.hub(&phone).await;
    let argument = json!({ "conversationId": opened.body["id"], "limit": 200 });
    let page = hub.call("GetHistory", vec![argument], DEADLINE).await.unwrap();
    assert!(page.to_string().len() <= PAGE_BYTES, "{}", page.to_string().len());
    assert_eq!(page.as_array().unwrap().len(), 4);
}

/// An app that fails on one message gets the others all the same; the message's sender is told why not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_on_which_the_app_fails_is_given_up_and_the_others_get_through() {
    let server = Server::start().await;
    server.expect_error("message given up");
    let shop = server.user("shop", "SendMessages");
    let (to, token) = (number(1), server.phone(&number(1)));
    let bad = server.send(&shop, &to, "bad").await;
    let good = [server.send(&shop, &to, "one").await, server.send(&shop, &to, "two").await];
    // Lost connections and those that end in order say nothing about what was on them.
    for _ in 0..7 {
        let mut app = Raw::open(&server, &token).await;
        assert_eq!(page(&mut app).await.len(), 3);
        app.say("{\"type\":7}\u{1e}").await;
        app.ended().await;
    }
    // The first failure makes it a suspect: from then on it comes alone, and five of those are enough.
    for n in 0..5 {
        let mut app = Raw::open(&server, &token).await;
        let ids = page(&mut app).await;
        assert_eq!(ids[0], bad);
        assert_eq!(ids.len(), if n == 0 { 3 } else { 1 }, "failure {n}");
        app.say("{\"type\":7,\"error\":\"Unexpected token\"}\u{1e}").await;
        app.ended().await;
    }
    server.wait_status(&shop, &bad, "failed").await;
    let mut hub = server.hub(&token).await;
    let (_, found) = next_messages(&mut hub).await;
    let ids: Vec<String> = found.iter().map(id).collect();
    assert_eq!(ids, good);
    assert_eq!(acknowledge(&mut hub, &ids).await, 2);
    let letters = wait_until("a dead letter", || {
        let letters = run_json(&server.data(), &["dlq", "list", "--class", "content"]);
        letters.get(0).is_some().then_some(letters)
    });
    assert_eq!(
        (&letters[0]["messageId"], letters[0]["kind"].as_str()),
        (&json!(bad), Some("delivery"))
    );
    let explained = server.run(&["message", "explain", &bad]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(text.contains("the recipient's app ended 5 connections with an error"), "{text}");
    let shown = server.api(&shop).get(&format!("/api/v1/messages/{bad}")).await.unwrap().body;
    assert!(shown["failureReason"].as_str().unwrap().contains("ended 5 connections"), "{shown}");
}

/// The ids of the page with which a connection begins.
async fn page(app: &mut Raw) -> Vec<String> {
    loop {
        let record = app.record().await.expect("a page");
        if record["target"] == "ReceivePendingMessages" {
            return record["arguments"][0].as_array().unwrap().iter().map(id).collect();
        }
    }
}

/// Every way in refuses them alike: the field, a stable code, and which character it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_characters_are_refused_wherever_messages_come_in() {
    let server = Server::start().await;
    let (shop, admin) = (server.user("shop", "SendMessages,Chat"), server.user("root", "Admin"));
    let (to, phone) = (number(1), server.phone(&number(1)));
    let body = json!({ "phone": to });
    let opened = server.api(&shop).post("/api/v1/conversations", &body).await.unwrap();
    let said = format!("/api/v1/conversations/{}/messages", id(&opened.body));
    let (bad, fine) = ("a\u{1b}[2J", "a\tb\r\nc \u{7f}\u{85}");
    let field = |answer: &Value, name: &str| answer["errors"][name][0]["code"].clone();
    for (path, token, body, name) in [
        ("/api/v1/messages", &shop, json!({ "to": to, "content": bad }), "content"),
        ("/api/v1/messages", &shop, json!({ "to": to, "content": "x", "subject": bad }), "subject"),
        (&*said, &shop, json!({ "content": bad }), "content"),
        (&*said, &phone, json!({ "content": bad }), "content"),
        (
            "/api/v1/admin/messages",
            &admin,
            json!({ "from": "shop", "to": to, "content": bad }),
            "content",
        ),
    ] {
        let body = body.to_string();
        let (status, answer) = server.request("POST", path, Some(token), Some(&body)).await;
        assert_eq!(
            (status, field(&answer, name)),
            (400, json!("invalid_character")),
            "{path}: {answer}"
        );
        assert!(
            answer["errors"][name][0]["message"].as_str().unwrap().contains("U+001B"),
            "{answer}"
        );
    }
    let items =
        json!({ "messages": [{ "to": to, "content": bad }, { "to": to, "content": fine }] });
    let answer = server.api(&shop).post("/api/v1/messages/batch", &items).await.unwrap().body;
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[0]["error"]["code"], "validation_failed");
    let old = json!({ "recipientPhoneNumber": to, "messageContent": bad }).to_string();
    let path = "/api/app/message/ingestion-send-one-way-message";
    assert_eq!(server.request("POST", path, Some(&shop), Some(&old)).await.0, 400);
    let mut hub = server.hub(&phone).await;
    let argument = json!({ "conversationId": opened.body["id"], "content": bad });
    let refused = hub.call("SendMessage", vec![argument], DEADLINE).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("validation_failed") && text.contains("U+001B"), "{text}");
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!((found.len(), &found[0]["content"]), (1, &json!(fine)));
    acknowledge(&mut hub, &[id(&found[0])]).await;
}
