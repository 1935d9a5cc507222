//! Content policies of business users, by every way of sending.

use std::time::{Duration, Instant};

use esh3ar::client::HubClient;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, next_messages};

const PHONE: &str = "+967771234567";
/// A change acts within a second; the rest is for a slow machine.
const SOON: Duration = Duration::from_secs(5);

fn policy() -> Value {
    json!({
        "links": { "allow": ["example.com"], "action": "refuse" },
        "patterns": [
            { "name": "prize", "regex": "(?i)prize", "action": "flag" },
            { "name": "pin", "regex": "(?i)send your pin", "action": "refuse" },
        ],
    })
}

/// Writes a policy into the data folder and gives its path.
fn file(server: &Server, name: &str, policy: &Value) -> String {
    let path = server.data().join(name);
    std::fs::write(&path, policy.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn set(server: &Server, policy: &str) -> Value {
    server.run_json(&["user", "set", "shop", "--content-policy", policy])
}

async fn post(server: &Server, token: &str, path: &str, body: &Value) -> (u16, Value) {
    server.request("POST", path, Some(token), Some(&body.to_string())).await
}

async fn until(server: &Server, token: &str, content: &str, wanted: u16) {
    let begun = Instant::now();
    loop {
        let body = json!({ "to": PHONE, "content": content });
        let (status, answer) = post(server, token, "/api/v1/messages", &body).await;
        if status == wanted {
            return;
        }
        assert!(begun.elapsed() < SOON, "{status}: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_way_messages_are_refused_or_flagged() {
    let server = Server::start().await;
    let (shop, phone) = (server.user("shop", "SendMessages"), server.phone(PHONE));
    let admin = server.user("root", "Admin");
    let evil = json!({ "to": PHONE, "content": "see https://evil.net" });
    assert_eq!(post(&server, &shop, "/api/v1/messages", &evil).await.0, 202, "no policy");
    // The change acts within a second.
    let path = file(&server, "policy.json", &policy());
    set(&server, &path);
    until(&server, &shop, "see https://evil.net", 422).await;

    let (status, answer) = post(&server, &shop, "/api/v1/messages", &evil).await;
    assert_eq!((status, &answer["code"]), (422, &json!("content_refused")), "{answer}");
    assert_eq!(answer["errors"]["content"][0]["message"], "links.allow", "{answer}");
    let subject = json!({ "to": PHONE, "subject": "send your PIN", "content": "now" });
    let (status, answer) = post(&server, &shop, "/api/v1/messages", &subject).await;
    assert_eq!((status, &answer["errors"]["subject"][0]["message"]), (422, &json!("pin")));
    let good = json!({ "to": PHONE, "content": "https://example.com/x" });
    let (status, answer) = post(&server, &shop, "/api/v1/messages", &good).await;
    assert_eq!((status, &answer["flags"]), (202, &Value::Null), "{answer}");

    let mut hub = server.hub(&phone).await;
    let flagged = json!({ "to": PHONE, "content": "a Prize" });
    let (status, answer) = post(&server, &shop, "/api/v1/messages", &flagged).await;
    assert_eq!((status, &answer["flags"]), (202, &json!(["prize"])), "{answer}");
    let id = answer["id"].as_str().unwrap().to_owned();
    // Its sender and administrators see the flag, the recipient does not.
    let own = format!("/api/v1/messages/{id}");
    let (_, seen) = server.request("GET", &own, Some(&shop), None).await;
    assert_eq!(seen["flags"], json!(["prize"]));
    let (_, list) = server.request("GET", "/api/v1/messages?limit=1", Some(&shop), None).await;
    assert_eq!(list["items"][0]["flags"], json!(["prize"]), "{list}");
    let path = format!("/api/v1/admin/messages/{id}");
    let (_, seen) = server.request("GET", &path, Some(&admin), None).await;
    assert_eq!(seen["flags"], json!(["prize"]), "{seen}");
    let (_, seen) = server.request("GET", &own, Some(&phone), None).await;
    assert_eq!((&seen["content"], &seen["flags"]), (&json!("a Prize"), &Value::Null));
    let received = async {
        loop {
            let (_, found) = next_messages(&mut hub).await;
            if let Some(found) = found.into_iter().find(|found| found["id"] == id.as_str()) {
                return found;
            }
        }
    };
    let received = tokio::time::timeout(DEADLINE, received).await.unwrap();
    assert_eq!(received["flags"], Value::Null, "{received}");

    let items = json!({ "messages": [
        { "to": PHONE, "content": "https://example.com" },
        { "to": PHONE, "content": "https://evil.net" },
        { "to": PHONE, "content": "prize" },
    ] });
    let (status, answer) = post(&server, &shop, "/api/v1/messages/batch", &items).await;
    assert_eq!(status, 200, "{answer}");
    let results = &answer["results"];
    assert!(results[0]["id"].is_string() && results[0]["flags"].is_null(), "{answer}");
    assert_eq!(results[1]["error"]["code"], "content_refused", "{answer}");
    assert_eq!(results[2]["flags"], json!(["prize"]), "{answer}");

    // An administrator sends under the policy of the user.
    let body = json!({ "from": "shop", "to": PHONE, "content": "https://evil.net" });
    let (status, answer) = post(&server, &admin, "/api/v1/admin/messages", &body).await;
    assert_eq!((status, &answer["code"]), (422, &json!("content_refused")), "{answer}");

    // The existing routes.
    let of = |content: &str| json!({ "recipientPhoneNumber": PHONE, "messageContent": content });
    let route = "/api/app/message/send-one-way-message";
    let (status, answer) = post(&server, &shop, route, &of("https://evil.net")).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("content_refused")), "{answer}");
    assert_eq!(post(&server, &shop, route, &of("prize")).await.0, 200);
    let batch = json!({ "batchMessages": [of("good"), of("https://evil.net")] });
    let route = "/api/app/message/ingestion-batch-message";
    let (_, before) = server.request("GET", "/api/v1/messages?limit=1", Some(&shop), None).await;
    assert_eq!(post(&server, &shop, route, &batch).await.0, 400, "none of them is sent");
    let (_, after) = server.request("GET", "/api/v1/messages?limit=1", Some(&shop), None).await;
    assert_eq!(before["items"][0]["id"], after["items"][0]["id"]);

    // The audit log has flags with rules and without texts, and one refusal.
    let entries = server.run_json(&["audit", "access", "--action", "message.flag"]);
    let text = entries.to_string();
    assert!(text.contains(&id) && text.contains("prize") && !text.contains("a Prize"), "{text}");
    let entries = server.run_json(&["audit", "access", "--action", "message.refuse"]);
    assert_eq!(entries.to_string().matches("\"message.refuse\"").count(), 1, "{entries}");

    set(&server, "none");
    until(&server, &shop, "see https://evil.net", 202).await;
}

#[tokio::test]
async fn chat_messages_are_refused_or_flagged_over_http_and_open_connections() {
    let server = Server::start().await;
    let (shop, phone) = (server.user("shop", "Chat"), server.phone(PHONE));
    let mut business = server.hub(&shop).await;
    let mut existing = HubClient::connect_to(&server.base, "/business-user", &shop).await.unwrap();
    let say = |content: &str| vec![json!({ "to": PHONE, "content": content })];
    let sent = business.call("SendMessage", say("https://evil.net"), DEADLINE).await.unwrap();
    let id = sent["conversationId"].as_str().unwrap().to_owned();
    set(&server, &file(&server, "policy.json", &policy()));
    // Connections that were open before follow within a second.
    let begun = Instant::now();
    let error = loop {
        match business.call("SendMessage", say("https://evil.net"), DEADLINE).await {
            Err(error) => break error.to_string(),
            Ok(_) => assert!(begun.elapsed() < SOON, "the policy does not act"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(error.contains("content_refused: ") && error.contains("links.allow"), "{error}");
    let flagged = business.call("SendMessage", say("prize"), DEADLINE).await.unwrap();
    assert_eq!(flagged["flags"], json!(["prize"]), "{flagged}");
    let text = |content: &str| vec![json!({ "receipientMobileNumber": PHONE, "content": content })];
    let error = existing.call("SendMessage", text("https://evil.net"), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("content_refused: "), "{error}");

    let path = format!("/api/v1/conversations/{id}/messages");
    let (status, answer) =
        post(&server, &shop, &path, &json!({ "content": "send your pin" })).await;
    assert_eq!((status, &answer["code"]), (422, &json!("content_refused")), "{answer}");
    let (status, answer) = post(&server, &shop, &path, &json!({ "content": "a prize" })).await;
    assert_eq!((status, &answer["flags"]), (201, &json!(["prize"])), "{answer}");
    let after = format!("{path}?after=0");
    let flags_of = |page: &Value| {
        let items = page["items"].as_array().unwrap();
        items.iter().filter(|item| !item["flags"].is_null()).count()
    };
    let (_, page) = server.request("GET", &after, Some(&shop), None).await;
    assert_eq!(flags_of(&page), 2, "{page}");
    let (_, page) = server.request("GET", &after, Some(&phone), None).await;
    assert_eq!(flags_of(&page), 0, "{page}");
    // What the phone says is under no policy.
    let (status, answer) =
        post(&server, &phone, &path, &json!({ "content": "https://evil.net" })).await;
    assert_eq!((status, &answer["flags"]), (201, &Value::Null), "{answer}");
    // What is refused begins no conversation.
    let new = vec![json!({ "to": "+967771234568", "content": "https://evil.net" })];
    business.call("SendMessage", new, DEADLINE).await.unwrap_err();
    let (_, list) = server.request("GET", "/api/v1/conversations", Some(&shop), None).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
}

#[tokio::test]
async fn policies_are_tried_set_and_shown() {
    let server = Server::start().await;
    let admin = server.user("root", "Admin");
    server.user("shop", "SendMessages");
    let path = file(&server, "policy.json", &policy());
    let test = |text: &str| server.run_json(&["policy", "test", &path, "--text", text]);
    assert_eq!(test("hello"), json!({ "verdict": "pass", "rules": [] }));
    assert_eq!(test("a prize"), json!({ "verdict": "flag", "rules": ["prize"] }));
    let refused = json!({ "verdict": "refuse", "rules": ["links.allow"] });
    assert_eq!(test("prize at https://example.com@evil.net"), refused);
    let wrong = file(&server, "wrong.json", &json!({ "patterns": [{ "name": "x" }] }));
    for arguments in [
        ["policy", "test", wrong.as_str(), "--text", "x"].as_slice(),
        ["user", "set", "shop", "--content-policy", wrong.as_str()].as_slice(),
    ] {
        let output = server.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }

    let shown = set(&server, &path);
    assert_eq!(shown["contentPolicy"], policy(), "{shown}");
    let output = server.run(&["user", "show", "shop"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("3 rules, 1 hosts"), "{text}");
    let user = "/api/v1/admin/users/shop";
    let patch = |body: Value| {
        let (server, admin) = (&server, &admin);
        async move { server.request("PATCH", user, Some(admin), Some(&body.to_string())).await }
    };
    let (status, kept) = patch(json!({ "permissions": ["SendMessages"] })).await;
    assert_eq!((status, &kept["contentPolicy"]), (200, &policy()), "{kept}");
    let (status, answer) = patch(json!({ "contentPolicy": { "links": {} } })).await;
    assert_eq!(status, 400, "{answer}");
    assert_eq!(answer["errors"]["contentPolicy"][0]["code"], "invalid_policy", "{answer}");
    let (status, answer) = patch(json!({ "contentPolicy": null })).await;
    assert_eq!((status, &answer["contentPolicy"]), (200, &Value::Null), "{answer}");
    let entries = server.run_json(&["audit", "access", "--action", "user.set"]).to_string();
    assert!(entries.contains("contentPolicy") && !entries.contains("example.com"), "{entries}");
}
