//! What changes about a user acts on its open connections within a second.

use std::time::{Duration, Instant};

use esh3ar::{
    client::{HubClient, HubEvent},
    domain::Permission,
    server::{
        hub::hubs::{method::Method, service::Service},
        route::Who,
    },
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::{
    support::{DEADLINE, Server, cluster::Cluster, messages, next_messages},
    transports::{HELLO, Plain, said},
};

const PHONE: &str = "+967771234567";
/// A change acts within a second; the rest is for a slow machine.
const SOON: Duration = Duration::from_secs(5);

fn set(server: &Server, arguments: &[&str]) {
    server.run_json(&[&["user", "set", "shop"], arguments].concat());
}

/// Calls until the answer is, or is no longer, a refusal for want of a permission.
async fn until_refused(client: &mut HubClient, method: &str, wanted: bool) {
    let begun = Instant::now();
    loop {
        let answer = client.call(method, vec![], DEADLINE).await;
        let text = answer.err().map(|error| error.to_string()).unwrap_or_default();
        if text.contains("permission_denied: ") == wanted {
            return;
        }
        assert!(begun.elapsed() < SOON, "{method} refused: {wanted}: {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the server closes the connection for good.
async fn is_closed(client: &mut HubClient) -> bool {
    let closing = async {
        loop {
            match client.next().await {
                Ok(HubEvent::Close { allow_reconnect, .. }) => return !allow_reconnect,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(SOON, closing).await.unwrap_or(false)
}

fn needed(method: &Method) -> Option<Permission> {
    match method.who {
        Who::Business(needed) | Who::Either(needed) => needed,
        Who::Admin => Some(Permission::Admin),
        Who::Anyone | Who::Mobile => None,
    }
}

/// Over each hub for business users: a method that needs a permission is refused when it is withdrawn, and works
/// when it is there again, on the same connection; the others are never refused.
#[tokio::test]
async fn every_method_follows_the_permissions_of_an_open_connection() {
    let server = Server::start_with(&[("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true")]).await;
    // Somebody else stays administrator.
    server.user("root", "Admin");
    let all = "SendMessages,Chat,Broadcast,Admin";
    let token = server.user("shop", all);
    let mut tried = 0;
    for (path, hub, _) in Service::ALL.iter().filter(|(_, _, who)| *who != Who::Mobile) {
        let mut client = HubClient::connect_to(&server.base, path, &token).await.unwrap();
        let methods = || hub.methods().iter().filter(|method| method.who != Who::Mobile);
        let Some(first) = methods().find(|method| needed(method).is_some()) else { continue };
        until_refused(&mut client, first.name, false).await;
        set(&server, &["--permission", ""]);
        until_refused(&mut client, first.name, true).await;
        for wanted in [true, false] {
            for method in methods() {
                let answer = client.call(method.name, vec![], DEADLINE).await;
                let text = answer.err().map(|error| error.to_string()).unwrap_or_default();
                let refused = text.contains("permission_denied: ");
                assert_eq!(
                    refused,
                    wanted && needed(method).is_some(),
                    "{path} {}: {text}",
                    method.name
                );
                tried += 1;
            }
            set(&server, &["--permission", all]);
            until_refused(&mut client, first.name, false).await;
        }
        client.close().await;
    }
    assert!(tried >= 16, "{tried}");
}

/// Whether an event tells of the second message of a conversation, or of typing.
fn of_the_other(target: &str, arguments: &[Value]) -> bool {
    match target {
        "MessageStatusChanged" => false,
        "ConversationChanged" => arguments[0]["lastSeq"].as_i64() > Some(1),
        _ => true,
    }
}

/// What a phone writes meanwhile waits, and comes when the permission is there again.
#[tokio::test]
async fn chat_stops_without_the_permission_and_goes_on_with_it() {
    let server = Server::start().await;
    let token = server.user("shop", "Chat,SendMessages");
    let phone = server.phone(PHONE);
    let mut shop = server.hub(&token).await;
    let mut mobile = server.hub(&phone).await;
    let say = json!({ "to": PHONE, "content": "first" });
    let first = shop.call("SendMessage", vec![say], DEADLINE).await.unwrap();
    let conversation = first["conversationId"].clone();
    let write = |content: &str| vec![json!({ "conversationId": conversation, "content": content })];

    set(&server, &["--permission", "SendMessages"]);
    until_refused(&mut shop, "GetConversations", true).await;
    mobile.call("SendMessage", write("unheard"), DEADLINE).await.unwrap();
    // Whatever was sent before the answer would be seen now.
    let seen = tokio::time::timeout(Duration::from_millis(300), async {
        loop {
            // News of its own message are from before.
            match shop.next().await.unwrap() {
                HubEvent::Invocation { target, arguments } if of_the_other(&target, &arguments) => {
                    return target;
                }
                _ => {}
            }
        }
    });
    if let Ok(target) = seen.await {
        panic!("{target} came without the permission");
    }
    // Nor can it be read in any other way.
    let pending = shop.call("GetPendingMessages", vec![], DEADLINE).await.unwrap();
    assert_eq!(pending, json!([]));
    for (path, wanted) in [
        (format!("/api/v1/messages/{}", first["id"].as_str().unwrap()), 404),
        (format!("/api/v1/messages/{}/timeline", first["id"].as_str().unwrap()), 404),
        ("/api/v1/messages?type=chat".to_owned(), 403),
        ("/api/v1/messages".to_owned(), 200),
    ] {
        let (status, answer) = server.request("GET", &path, Some(&token), None).await;
        assert_eq!(status, wanted, "{path}: {answer}");
        assert!(!answer.to_string().contains("unheard"), "{path}: {answer}");
    }
    set(&server, &["--permission", "Chat,SendMessages"]);
    // The message comes, and the change of the conversation, which cannot be read again, is told to be missed.
    let (mut content, mut missed) = (None, false);
    let both = async {
        while content.is_none() || !missed {
            let event = shop.next().await.unwrap();
            if let Some((_, came)) = messages(&event) {
                content = Some(came[0]["content"].clone());
            }
            missed |= matches!(event, HubEvent::Invocation { target, .. } if target == "Missed");
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, both).await.is_ok();
    assert!(in_time, "message: {content:?}, missed: {missed}");
    assert_eq!(content, Some(json!("unheard")));
}

/// Requests, and calls on connections that were open before.
#[tokio::test]
async fn http_long_polling_and_event_streams_follow_too() {
    let server = Server::start().await;
    let token = server.user("shop", "Chat");
    let plain = Plain::new(&server, "/hub", &token);
    let polls = plain.polling().await;
    let events = plain.negotiate("").await;
    let mut stream = plain.events(&events).await.bytes_stream();
    assert_eq!(plain.post(&events, HELLO).await.status(), 200);
    let mut calls = 0;
    for (permissions, refused) in [("Chat", false), ("", true), ("Chat", false)] {
        set(&server, &["--permission", permissions]);
        let begun = Instant::now();
        let path = "/api/v1/conversations";
        while (server.request("GET", path, Some(&token), None).await.0 == 403) != refused {
            assert!(begun.elapsed() < SOON, "over HTTP, refused: {refused}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (id, polled) in [(&polls, true), (&events, false)] {
            loop {
                calls += 1;
                let call = json!({ "type": 1, "invocationId": calls.to_string(),
                                   "target": "GetConversations", "arguments": [] });
                assert_eq!(plain.post(id, &format!("{call}\u{1e}")).await.status(), 200);
                let answered = format!("\"invocationId\":\"{calls}\"");
                let mut heard = String::new();
                // Up to the end of the answer.
                while !heard.split_once(&answered).is_some_and(|(_, rest)| rest.contains('\u{1e}'))
                {
                    if polled {
                        heard.push_str(&said(plain.get(id).await).await.1);
                    } else {
                        let more = stream.next().await.unwrap().unwrap();
                        heard.push_str(&String::from_utf8_lossy(&more));
                    }
                }
                if heard.contains("permission_denied: ") == refused {
                    break;
                }
                assert!(begun.elapsed() < SOON, "polled: {polled}, refused: {refused}: {heard}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Processes learn of changes from Postgres: which of them made a change does not matter.
#[tokio::test]
async fn a_change_at_one_gateway_acts_at_the_other() {
    let Some(cluster) = Cluster::start(2, 1).await else { return };
    let [here, there] = &cluster.gateways[..] else { panic!("two gateways") };
    let root = here.user("root", "Admin");
    let mut shop = there.hub(&here.user("shop", "Chat")).await;
    let change = async |body: Value| {
        let body = Some(body.to_string());
        let path = "/api/v1/admin/users/shop";
        let (status, answer) = here.request("PATCH", path, Some(&root), body.as_deref()).await;
        assert_eq!(status, 200, "{answer}");
    };
    until_refused(&mut shop, "GetConversations", false).await;
    change(json!({ "permissions": ["SendMessages"], "reason": "test" })).await;
    until_refused(&mut shop, "GetConversations", true).await;
    change(json!({ "permissions": ["Chat"], "reason": "test" })).await;
    until_refused(&mut shop, "GetConversations", false).await;
    change(json!({ "enabled": false, "reason": "test" })).await;
    assert!(is_closed(&mut shop).await, "a disabled user's connection");
}

#[tokio::test]
async fn a_disabled_user_and_a_rejected_phone_are_disconnected() {
    let server = Server::start().await;
    let token = server.user("shop", "Chat");
    let phone = server.phone(PHONE);
    let mut shop = server.hub(&token).await;
    let mut mobile = server.hub(&phone).await;
    server.run_json(&["user", "disable", "shop", "--yes"]);
    assert!(is_closed(&mut shop).await, "a disabled user's connection");
    let database = server.database().await;
    database
        .execute("UPDATE mobile_users SET status = 2 WHERE phone = $1", &[&PHONE])
        .await
        .unwrap();
    assert!(is_closed(&mut mobile).await, "a rejected phone's connection");
    let begun = Instant::now();
    while server.request("GET", "/api/v1/messages", Some(&phone), None).await.0 != 401 {
        assert!(begun.elapsed() < SOON, "its token still works");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A sender gets the same timeline for a number that is registered, one that was connected, and one that is unknown.
#[tokio::test]
async fn a_sender_is_not_told_whether_or_when_a_phone_was_there() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    server.phone("+967771234568");
    // Connected, and gone again with a message that it did not acknowledge.
    let mut hub = server.hub(&phone).await;
    let met = server.send(&shop, PHONE, "met").await;
    next_messages(&mut hub).await;
    server.wait_status(&shop, &met, "sent").await;
    drop(hub);
    let database = server.database().await;
    let lost = "SELECT count(*) FROM delivery_events WHERE kind = 'connection_lost'";
    let begun = Instant::now();
    while database.query_one(lost, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(begun.elapsed() < DEADLINE, "no lost connection was noted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    database
        .execute("INSERT INTO outages (id, part, reason, began_at, ended_at) VALUES (gen_random_uuid(), 'database', 'x', now(), now())", &[])
        .await
        .unwrap();
    let timeline = async |id: &str| {
        let path = format!("/api/v1/messages/{id}/timeline");
        server.request("GET", &path, Some(&shop), None).await.1
    };
    let told = timeline(&met).await;
    let steps: Vec<&str> = told["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(
        (steps, &told["verdict"]["code"]),
        (vec!["pending", "sent"], &json!("sent")),
        "{told}"
    );
    let mut answers = Vec::new();
    for to in [PHONE, "+967771234568", "+967770000077"] {
        let body = json!({ "to": to, "content": "the same" }).to_string();
        let (status, mut sent) =
            server.request("POST", "/api/v1/messages", Some(&shop), Some(&body)).await;
        let id = sent["id"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/messages/{id}");
        let (_, mut shown) = server.request("GET", &path, Some(&shop), None).await;
        let mut told = timeline(&id).await;
        told["steps"][0]["at"].take();
        for own in ["id", "to", "createdAt"] {
            for answer in [&mut sent, &mut shown, &mut told] {
                answer.as_object_mut().unwrap().remove(own);
            }
        }
        answers.push((status, sent, shown, told));
    }
    assert_eq!((answers[0].0, &answers[0].3["verdict"]["code"]), (202, &json!("pending")));
    assert!(answers.iter().all(|told| *told == answers[0]), "{answers:?}");
    // An administrator sees all of it.
    let explained = server.run_json(&["message", "explain", &met]);
    let has = |step: &str| explained["steps"].as_array().unwrap().iter().any(|s| s["step"] == step);
    assert!(has("connection_lost"), "{explained}");
}
