//! The admin API: what the commands do, over HTTP, with the same checks.

use serde_json::{Value, json};

use crate::support::{DEADLINE, Server};

const PHONE: &str = "+967771234567";
const BASE: &str = "/api/v1/admin";

/// Asks as an administrator.
async fn ask(
    server: &Server,
    token: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let body = body.map(|body| body.to_string());
    server.request(method, &format!("{BASE}{path}"), Some(token), body.as_deref()).await
}

#[tokio::test]
async fn people_and_tokens_are_made_shown_changed_and_shut_out() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let admin = |method: &'static str, path: String, body: Option<Value>| {
        let (server, root) = (&server, &root);
        async move { ask(server, root, method, &path, body).await }
    };
    let new = json!({ "name": "Café / Nord", "permissions": ["SendMessages", "chat"],
                      "phone": "+967770000001", "reason": "opened" });
    let (status, made) = admin("POST", "/users".into(), Some(new.clone())).await;
    assert_eq!((status, &made["permissions"]), (201, &json!(["SendMessages", "Chat"])), "{made}");
    assert_eq!(admin("POST", "/users".into(), Some(new)).await.0, 409, "the name is taken");
    let wrong = json!({ "name": "x", "permissions": ["Fly"] });
    let (status, problem) = admin("POST", "/users".into(), Some(wrong)).await;
    assert_eq!((status, &problem["errors"]["permissions"][0]["code"]), (400, &json!("unknown")));
    // By name, however it is written, and by id.
    let place = "/users/CAF%C3%89%20%2F%20nord";
    assert_eq!(admin("GET", place.into(), None).await, (200, made.clone()));
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(admin("GET", format!("/users/{id}"), None).await, (200, made.clone()));
    let change = json!({ "permissions": ["Chat"], "reason": "talks only" });
    let (status, changed) = admin("PATCH", place.into(), Some(change)).await;
    assert_eq!((status, &changed["permissions"]), (200, &json!(["Chat"])));
    assert_eq!(changed["phone"], "+967770000001", "what is not named stays");

    // Lists, page by page.
    for n in 0..5 {
        let body = json!({ "phones": [crate::support::number(n)], "verified": n != 4 });
        assert_eq!(admin("POST", "/mobile-users".into(), Some(body)).await.0, 200);
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let (status, page) = admin("GET", format!("/mobile-users?limit=2{after}"), None).await;
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|user| user["phone"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let all: Vec<String> = (0..5).map(crate::support::number).collect();
    assert_eq!(seen, all);
    assert_eq!(admin("GET", "/mobile-users?after=%21".into(), None).await.0, 400);
    let (_, users) = admin("GET", "/users?limit=1".into(), None).await;
    assert_eq!(users["items"][0]["name"], "Café / Nord");
    assert!(users["next"].is_string());
    let (status, one) = admin("GET", format!("/mobile-users/{}", all[4]), None).await;
    assert_eq!((status, &one["status"]), (200, &json!("pending")));

    // Tokens.
    let body = json!({ "user": id, "expiresIn": 3600 });
    let (status, token) = admin("POST", "/tokens".into(), Some(body)).await;
    assert_eq!(status, 201, "{token}");
    assert!(token["expiresAt"].is_string());
    let secret = token["token"].as_str().unwrap();
    let path = "/api/v1/conversations";
    assert_eq!(server.request("GET", path, Some(secret), None).await.0, 200);
    for (body, status) in [
        (json!({}), 400),
        (json!({ "user": "nobody" }), 404),
        (json!({ "user": id, "mobile": PHONE }), 400),
        (json!({ "user": id, "expiresIn": -1 }), 400),
        (json!({ "user": id, "expiresIn": "soon" }), 400),
        (json!({ "mobile": all[4] }), 409),
    ] {
        let (found, problem) = admin("POST", "/tokens".into(), Some(body.clone())).await;
        assert_eq!(found, status, "{body}: {problem}");
    }
    let (_, listed) = admin("GET", format!("/tokens?user={id}"), None).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert!(!listed.to_string().contains(secret));
    let place = format!("/tokens/{}", token["id"].as_str().unwrap());
    assert_eq!(admin("DELETE", place.clone(), None).await.0, 204);
    assert_eq!(admin("POST", format!("{place}/rotate"), None).await.0, 409, "opens nothing");
    assert_eq!(admin("DELETE", "/tokens/nonsense".into(), None).await.0, 404);

    // All of it is in the log, with the request, the token that was shown and why.
    let (_, log) = admin("GET", "/audit?action=user.set".into(), None).await;
    let entry = &log["items"][0];
    assert_eq!(entry["actor"], "root");
    assert_eq!(entry["actorKind"], "user");
    assert_eq!((&entry["reason"], &entry["subject"]), (&json!("talks only"), &json!(id)));
    assert!(entry["tokenId"].is_string() && entry["requestId"].is_string());
    assert_eq!(entry["peer"], "127.0.0.1");
    let request = server.http().get(format!("{}{BASE}/users", server.base)).bearer_auth(&root);
    let request = request.header("x-reason", "سبب".as_bytes()).header("x-request-id", "r-1");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let (_, log) = admin("GET", "/audit?action=user.list&limit=1".into(), None).await;
    let entry = &log["items"][0];
    assert_eq!((&entry["reason"], &entry["requestId"]), (&json!("سبب"), &json!("r-1")));
    let (status, problem) = admin("GET", "/audit?action=user.fly".into(), None).await;
    assert_eq!(status, 400, "{problem}");
}

#[tokio::test]
async fn a_token_is_replaced_at_once_or_with_an_overlap() {
    let server = Server::start().await;
    let old = server.phone(PHONE);
    let id = |token: &Value| token["id"].as_str().unwrap().to_owned();
    let first = id(&server.run_json(&["token", "list", "--mobile", PHONE])[0]);
    let opens = |token: String| {
        let server = &server;
        async move { server.request("GET", "/api/v1/messages", Some(&token), None).await.0 == 200 }
    };
    // The old one goes on, for a while.
    let next = server.run_json(&["token", "rotate", &first, "--overlap", "1h", "--reason", "due"]);
    let second = next["token"].as_str().unwrap().to_owned();
    assert!(opens(old.clone()).await && opens(second.clone()).await);
    assert_eq!(next["replaces"], json!(first));
    assert!(next["expiresAt"].is_string(), "it lives as long as the old one was to");
    assert_eq!(server.run(&["token", "rotate", &first]).status.code(), Some(5), "once");
    // At once, a connection that is open included.
    let mut hub = server.hub(&second).await;
    let next = server.run_json(&["token", "rotate", &id(&next)]);
    let third = next["token"].as_str().unwrap().to_owned();
    assert!(opens(third.clone()).await);
    gone(&server, &second).await;
    let ended = async { while hub.next().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("the connection ends");
    // After the overlap, too.
    let mut hub = server.hub(&third).await;
    let next = server.run_json(&["token", "rotate", &id(&next), "--overlap", "1s"]);
    gone(&server, &third).await;
    let ended = async { while hub.next().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("the connection ends");
    assert!(opens(next["token"].as_str().unwrap().to_owned()).await);
    assert!(opens(old).await, "its own overlap is not over");
    let log = server.run_json(&["audit", "access", "--phone", PHONE, "--action", "token.rotate"]);
    let outcomes: Vec<&str> =
        log.as_array().unwrap().iter().map(|entry| entry["outcome"].as_str().unwrap()).collect();
    // The one that was refused named no phone.
    assert_eq!(outcomes, ["done", "done", "done"]);
    assert_eq!(server.run(&["token", "rotate", "nonsense"]).status.code(), Some(4));
}

/// Waits until a token opens nothing.
async fn gone(server: &Server, token: &str) {
    let waited = async {
        while server.request("GET", "/api/v1/messages", Some(token), None).await.0 != 401 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.expect("the token ends");
}

#[tokio::test]
async fn the_last_administrator_is_not_shut_out_by_mistake() {
    let server = Server::start().await;
    let root = server.user("root", "Admin,SendMessages");
    let refused = [json!({ "enabled": false }), json!({ "permissions": ["SendMessages"] })];
    for body in &refused {
        let (status, problem) =
            ask(&server, &root, "PATCH", "/users/root", Some(body.clone())).await;
        assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    }
    let (_, tokens) = ask(&server, &root, "GET", "/tokens?user=root", None).await;
    let place = format!("/tokens/{}", tokens["items"][0]["id"].as_str().unwrap());
    assert_eq!(ask(&server, &root, "DELETE", &place, None).await.0, 409);
    assert_eq!(server.run(&["user", "disable", "root", "--yes"]).status.code(), Some(5));
    let (_, log) = ask(&server, &root, "GET", "/audit?action=user.disable", None).await;
    assert_eq!(log["items"][0]["outcome"], "refused");
    assert_eq!(log["items"].as_array().unwrap().len(), 2, "{log}");
    // Who may and has no token that opens anything, or had one, cannot: that is no other.
    let made = server.run_json(&["user", "add", "idle", "--permission", "Admin"]);
    assert!(made["id"].is_string());
    let short = server.run_json(&["token", "create", "--user", "idle", "--expires", "1s"]);
    let long = server.run_json(&["token", "create", "--user", "idle"]);
    let gone = format!("/tokens/{}", long["id"].as_str().unwrap());
    assert_eq!(ask(&server, &root, "DELETE", &gone, None).await.0, 204);
    let short = short["token"].as_str().unwrap();
    let deadline = std::time::Instant::now() + DEADLINE;
    while ask(&server, short, "GET", "/users", None).await.0 != 401 {
        assert!(std::time::Instant::now() < deadline, "the token did not expire");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for body in &refused {
        let (status, problem) =
            ask(&server, &root, "PATCH", "/users/root", Some(body.clone())).await;
        assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    }
    assert_eq!(ask(&server, &root, "DELETE", &place, None).await.0, 409);
    // With another one it may, and two who shut each other out at once do not both.
    let other = server.user("other", "Admin");
    let (one, two) = tokio::join!(
        ask(&server, &root, "PATCH", "/users/other", Some(refused[0].clone())),
        ask(&server, &other, "PATCH", "/users/root", Some(refused[0].clone())),
    );
    let mut both = [one.0, two.0];
    both.sort_unstable();
    // Whose request is looked at when the other has been carried out has no token any more.
    assert!(matches!(both, [200, 401 | 409]), "{both:?}");
    // Not silently, but if it is meant.
    let left = if one.0 == 200 { "root" } else { "other" };
    let disabled = server.run_json(&["user", "disable", left, "--yes", "--even-last-admin"]);
    assert!(disabled["disabledAt"].is_string());
}

#[tokio::test]
async fn anybodys_messages_and_conversations_are_shown_and_put_away() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages,Chat");
    let phone = server.phone(PHONE);
    let admin = |method: &'static str, path: String, body: Option<Value>| {
        let (server, root) = (&server, &root);
        async move { ask(server, root, method, &path, body).await }
    };
    let sent: Vec<String> = {
        let mut sent = Vec::new();
        for n in 0..5 {
            sent.push(server.send(&shop, PHONE, &format!("text {n}")).await);
        }
        sent
    };
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/messages?from=shop&to=%2B967771234567&limit=2{after}");
        let (status, page) = admin("GET", path, None).await;
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|message| message["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let newest: Vec<String> = sent.iter().rev().cloned().collect();
    assert_eq!(seen, newest);
    let (_, story) = admin("GET", format!("/messages/{}", sent[0]), None).await;
    assert_eq!(
        (&story["content"], &story["timeline"][0]["step"]),
        (&json!("text 0"), &json!("pending"))
    );
    let (_, story) = admin("GET", format!("/messages/{}/explain", sent[0]), None).await;
    assert_eq!(story["verdict"]["code"], "recipient_never_connected", "{story}");
    for path in ["/messages/nonsense", "/messages/01a20a1b-7317-71ae-8f98-eacc86509605"] {
        assert_eq!(admin("GET", path.into(), None).await.0, 404);
    }
    // In a user's name, with that user's permissions, once a key.
    let body = json!({ "from": "Shop", "to": PHONE, "content": "for you" });
    let request = || {
        let request = server.http().post(format!("{}{BASE}/messages", server.base));
        request.bearer_auth(&root).header("idempotency-key", "k").json(&body).send()
    };
    let first: Value = request().await.unwrap().json().await.unwrap();
    let again = request().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(first, again.json::<Value>().await.unwrap());
    assert_eq!(first["from"], "Shop");
    let body = json!({ "from": "root", "to": PHONE, "content": "x" });
    assert_eq!(admin("POST", "/messages".into(), Some(body)).await.0, 403);

    // Conversations.
    let opened = json!({ "phone": PHONE });
    let talk = server.api(&shop).post("/api/v1/conversations", &opened).await.unwrap().body;
    let id = talk["id"].as_str().unwrap().to_owned();
    for n in 0..3 {
        let said = json!({ "content": format!("line {n}") });
        let path = format!("/api/v1/conversations/{id}/messages");
        server.api(if n == 1 { &phone } else { &shop }).post(&path, &said).await.unwrap();
    }
    let (_, listed) = admin("GET", "/conversations?user=Shop&status=active".into(), None).await;
    assert_eq!(listed["items"][0]["id"], json!(id));
    assert_eq!(listed["items"][0]["unreadBusiness"], 1);
    let (_, shown) = admin("GET", format!("/conversations/{id}?messages=2"), None).await;
    assert_eq!(shown["messages"]["pending"], 3);
    assert_eq!(shown["lastMessages"][1]["content"], "line 2");
    let place = format!("/conversations/{id}/messages?limit=2");
    let (_, page) = admin("GET", place.clone(), None).await;
    assert_eq!((&page["items"][0]["seq"], &page["next"]), (&json!(1), &json!(2)));
    let (_, page) = admin("GET", format!("{place}&after=2"), None).await;
    assert_eq!((&page["items"][0]["seq"], &page["next"]), (&json!(3), &Value::Null));
    let (status, closed) = admin("POST", format!("/conversations/{id}/close"), None).await;
    assert_eq!((status, &closed["status"]), (200, &json!("closed")));
    let absent = "/conversations/01a20a1b-7317-71ae-8f98-eacc86509605";
    for (method, path) in [("GET", ""), ("GET", "/messages"), ("POST", "/archive")] {
        assert_eq!(admin(method, format!("{absent}{path}"), None).await.0, 404, "{path}");
    }
    let (_, log) = admin("GET", "/audit?action=conversation&limit=200".into(), None).await;
    let ends: Vec<(&str, &str)> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        ends,
        [
            ("conversation.archive", "not_found"),
            ("conversation.history", "not_found"),
            ("conversation.show", "not_found"),
            ("conversation.close", "done"),
            ("conversation.history", "done"),
            ("conversation.history", "done"),
            ("conversation.show", "done"),
            ("conversation.list", "done"),
        ]
    );
    let (status, books) = admin("GET", "/books".into(), None).await;
    assert_eq!((status, &books["balanced"]), (200, &json!(true)));
}

#[tokio::test]
async fn a_list_of_a_period_goes_on_when_where_it_stood_was_removed() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let _shop = server.user("Shop", "SendMessages");
    let database = server.database().await;
    // Ids as an import keeps them, which tell no time.
    let rows =
        "INSERT INTO messages (id, sender_user_id, recipient_phone, content, status, created_at)
                SELECT gen_random_uuid(), u.id, '+967770000001', n::text, 2,
                       timestamptz '2024-05-01 10:00:00.123456Z' - n * interval '1 minute'
                FROM generate_series(1, 3) n, business_users u WHERE u.name = 'Shop'";
    database.batch_execute(rows).await.unwrap();
    let path = "/api/v1/admin/messages?since=2024-01-01T00:00:00Z&limit=1";
    let (_, first) = server.request("GET", path, Some(&root), None).await;
    assert_eq!(first["items"][0]["content"], "1", "{first}");
    server.expect_unbalanced("it deletes a row that the list stands at");
    database.batch_execute("DELETE FROM messages WHERE content = '1'").await.unwrap();
    let next = format!("{path}&after={}", first["next"].as_str().unwrap());
    let (_, second) = server.request("GET", &next, Some(&root), None).await;
    assert_eq!(second["items"][0]["content"], "2", "{second}");
    let next = format!("{path}&after={}", second["next"].as_str().unwrap());
    let (_, third) = server.request("GET", &next, Some(&root), None).await;
    assert_eq!((&third["items"][0]["content"], &third["next"]), (&json!("3"), &json!(null)));
    // By the id alone it is told, not passed over.
    let removed = first["items"][0]["id"].as_str().unwrap();
    let before = format!("{path}&before={removed}");
    let (status, problem) = server.request("GET", &before, Some(&root), None).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    let there = second["items"][0]["id"].as_str().unwrap();
    let (_, after) =
        server.request("GET", &format!("{path}&before={there}"), Some(&root), None).await;
    assert_eq!(after["items"][0]["content"], "3");
    let wrong = format!("{path}&after=nonsense");
    assert_eq!(server.request("GET", &wrong, Some(&root), None).await.0, 400);
}
