//! Who may administer, from where, and what is left of an attempt; tokens that end, are used, and are guessed.

use std::time::{Duration, Instant};

use esh3ar::client::HubEvent;
use serde_json::{Value, json};

use crate::{
    remote::{Elsewhere, said},
    support::{DEADLINE, Server, acknowledge, id, next_messages},
};

const PHONE: &str = "+967771234567";
const USERS: &str = "/api/v1/admin/users";

/// An answer to a request at another address than the server's usual one.
async fn at(base: &str, path: &str, token: Option<&str>) -> (u16, Value) {
    let mut request = crate::support::http().get(format!("{base}{path}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn refusals(server: &Server) -> Vec<Value> {
    let arguments = ["audit", "access", "--action", "admin.refused", "--limit", "200"];
    server.run_json(&arguments).as_array().unwrap().clone()
}

/// The text of a token that nobody has, without a checksum.
fn nobodys(n: usize) -> String {
    format!("esh_{n:043}")
}

#[tokio::test]
async fn the_admin_api_has_a_listener_of_its_own_and_is_nowhere_else() {
    let server = Server::start_with(&[("ESH3AR__ADMIN__LISTEN", "127.0.0.1:0")]).await;
    let root = server.user("root", "Admin,SendMessages");
    let found = std::fs::read_to_string(server.data().join("serve.json")).unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    let admin = format!("http://{}", found["admin"].as_str().unwrap());

    let (status, problem) = server.request("GET", USERS, Some(&root), None).await;
    assert_eq!((status, &problem["code"]), (404, &json!("route_not_found")));
    let (_, unknown) = server.request("GET", "/api/v1/nothing", Some(&root), None).await;
    assert_eq!(problem["detail"], unknown["detail"], "as if it were not there");
    assert_eq!(server.request("PUT", USERS, Some(&root), None).await.0, 404);
    assert_eq!(server.request("GET", USERS, None, None).await.0, 401);
    assert_eq!(server.request("GET", "/api/v1/messages", Some(&root), None).await.0, 200);

    assert_eq!(at(&admin, USERS, Some(&root)).await.0, 200);
    assert_eq!(at(&admin, USERS, None).await.0, 401);
    assert_eq!(at(&admin, "/api/v1/messages", Some(&root)).await.0, 404);
    assert_eq!(at(&admin, "/hub/negotiate", Some(&root)).await.0, 404);
    for path in ["/health", "/health/live", "/health/ready", "/openapi.json"] {
        assert_eq!(at(&admin, path, None).await.0, 200, "{path}");
    }

    let there = Elsewhere { url: admin, ..Elsewhere::new(&server, &root) };
    assert_eq!(there.json(&["user", "list"])[0]["name"], "root");
    let wrong = Elsewhere::new(&server, &root);
    assert!(!wrong.run(&["user", "list"]).status.success());
}

#[tokio::test]
async fn only_the_named_networks_may_administer() {
    let server = Server::start_with(&[
        ("ESH3AR__ADMIN__NETWORKS", "10.0.0.0/8"),
        ("ESH3AR__HTTP__TRUSTED_PROXIES", "127.0.0.0/8"),
    ])
    .await;
    let root = server.user("root", "Admin,SendMessages");
    let from = |address: &'static str, path: &'static str| {
        let request = server.http().get(format!("{}{path}", server.base)).bearer_auth(&root);
        async move {
            let answer = request.header("x-forwarded-for", address).send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        }
    };
    assert_eq!(from("10.1.2.3", USERS).await.0, 200);
    let (status, problem) = from("203.0.113.9", USERS).await;
    assert_eq!((status, &problem["code"]), (403, &json!("network_not_allowed")));
    assert_eq!(from("203.0.113.9", "/api/v1/messages").await.0, 200, "that is no administration");
    // Commands on the server come from no network.
    let refused = refusals(&server);
    assert_eq!(refused.len(), 1, "{refused:?}");
    let entry = &refused[0];
    assert_eq!((&entry["peer"], &entry["actor"]), (&json!("203.0.113.9"), &json!("root")));
    assert_eq!(entry["details"]["code"], "network_not_allowed");
    assert_eq!(entry["details"]["route"], USERS);
    assert_eq!(entry["outcome"], "refused");
}

#[tokio::test]
async fn refused_administration_is_recorded_within_bounds_and_strangers_are_counted() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages,Chat");
    let phone = server.phone(PHONE);
    server.user("root", "Admin");
    let ended = server.token(&["--user", "root"]);
    let listed = server.run_json(&["token", "list", "--user", "root"]);
    let newest = listed[0]["id"].as_str().unwrap();
    assert!(server.run(&["token", "revoke", newest]).status.success());

    for (token, status) in [(&shop, 403), (&phone, 403), (&ended, 401)] {
        for _ in 0..20 {
            assert_eq!(server.request("GET", USERS, Some(token), None).await.0, status);
        }
    }
    let unknown = nobodys(1);
    assert_eq!(server.request("GET", USERS, Some(&unknown), None).await.0, 401);
    assert_eq!(server.request("GET", USERS, None, None).await.0, 401);
    // What a token may not do elsewhere is no administration.
    assert_eq!(server.request("GET", "/api/v1/messages/pending", Some(&shop), None).await.0, 403);

    let refused = refusals(&server);
    for (actor, code) in [("shop", "forbidden"), (PHONE, "forbidden"), ("root", "token_ended")] {
        let of_it: Vec<&Value> = refused.iter().filter(|entry| entry["actor"] == actor).collect();
        assert!((1..=10).contains(&of_it.len()), "{actor}: {}", of_it.len());
        assert!(of_it.iter().all(|entry| entry["details"]["code"] == code), "{of_it:?}");
        assert!(of_it.iter().all(|entry| entry["peer"] == "127.0.0.1"), "{of_it:?}");
    }
    let counted = async |name: &str| server.metric(name).await;
    let calls = "esh3ar_refused_admin_calls_total";
    assert_eq!(counted(&format!("{calls}{{reason=\"forbidden\"}}")).await, 40.0);
    assert_eq!(counted(&format!("{calls}{{reason=\"token_ended\"}}")).await, 20.0);
    let tokens = "esh3ar_refused_tokens_total";
    assert_eq!(counted(&format!("{tokens}{{reason=\"missing\"}}")).await, 1.0);
    assert_eq!(counted(&format!("{tokens}{{reason=\"unknown\"}}")).await, 1.0);

    // The log warns a few times, and tells no secret and no number.
    let log = server.log();
    assert_eq!(log.matches("request refused").count(), 5, "{log}");
    for secret in [&shop, &phone, &ended, &unknown, PHONE] {
        assert!(!log.contains(secret));
    }
}

#[tokio::test]
async fn tokens_of_administrators_expire_by_default() {
    let server = Server::start().await;
    server.user("root", "Admin");
    server.user("shop", "SendMessages");
    let made = server.run_json(&["token", "create", "--user", "root"]);
    assert!(made["expiresAt"].is_string(), "{made}");
    let output = server.run(&["token", "create", "--user", "root", "--expires", "2d"]);
    assert!(said(&output).contains("it expires at"), "{}", said(&output));
    let output = server.run(&["token", "list", "--user", "root"]);
    assert!(said(&output).contains("expire within 14 days: 1;"), "{}", said(&output));
    for (owner, expires) in [("shop", None), ("root", Some("never"))] {
        let mut arguments = vec!["token", "create", "--user", owner];
        arguments.extend(expires.iter().flat_map(|expires| ["--expires", *expires]));
        assert_eq!(server.run_json(&arguments)["expiresAt"], Value::Null, "{owner}");
    }
    let output = server.run(&["doctor", "-o", "json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens = checks.as_array().unwrap().iter().find(|check| check["check"] == "admin tokens");
    assert_eq!(tokens.unwrap()["state"], "warn", "{checks}");

    let mut command = server.command();
    command.env("ESH3AR__AUTH__ADMIN_TOKEN_TTL", "0").args(["-o", "json"]);
    let output = command.args(["token", "create", "--user", "root"]).output().unwrap();
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["expiresAt"], Value::Null, "{made}");
}

#[tokio::test]
async fn a_token_shows_when_it_was_last_used() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let listed = server.run_json(&["token", "list", "--user", "shop"]);
    assert_eq!(listed[0]["lastUsedAt"], Value::Null, "{listed}");
    let place = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(server.request("GET", "/api/v1/messages", Some(&shop), None).await.0, 200);
    let deadline = Instant::now() + DEADLINE;
    let shown = loop {
        let shown = server.run_json(&["token", "show", &place]);
        if shown["lastUsedAt"].is_string() {
            break shown;
        }
        assert!(Instant::now() < deadline, "{shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(shown["lastUsedAt"].as_str().unwrap().ends_with(":00.000000Z"), "{shown}");
    assert!(!shown.to_string().contains(&shop));
    let unknown = server.run(&["token", "show", "01a20a1b-7317-71ae-8f98-eacc86509605"]);
    assert_eq!(unknown.status.code(), Some(4));
}

/// Waits until the server closes a connection; how long that took.
async fn closed(hub: &mut esh3ar::client::HubClient, begun: Instant) -> Duration {
    loop {
        let event = tokio::time::timeout(DEADLINE, hub.next()).await.expect("it is closed");
        match event {
            Ok(HubEvent::Close { .. }) | Err(_) => return begun.elapsed(),
            Ok(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tokens_of_a_user_are_revoked_at_once() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("shop", "SendMessages");
    let second = server.token(&["--user", "shop"]);
    let phone = server.phone(PHONE);
    let mut hub = server.hub(&second).await;
    let revoked = server.run_json(&["token", "revoke", "--user", "shop", "--reason", "lost"]);
    assert_eq!(revoked, json!({ "revoked": 2 }));
    assert!(closed(&mut hub, Instant::now()).await < Duration::from_millis(1500));
    for token in [&shop, &second] {
        assert_eq!(server.request("GET", "/api/v1/messages", Some(token), None).await.0, 401);
    }
    let pending = "/api/v1/messages/pending";
    assert_eq!(server.request("GET", pending, Some(&phone), None).await.0, 200, "of another");
    assert_eq!(server.run_json(&["token", "revoke", "--mobile", PHONE])["revoked"], 1);
    assert_eq!(server.run_json(&["token", "revoke", "--mobile", PHONE])["revoked"], 0);
    let log = server.run_json(&["audit", "access", "--action", "token.revoke"]);
    let of_shop = log.as_array().unwrap().iter().find(|entry| entry["reason"] == "lost").unwrap();
    assert_eq!(of_shop["details"]["revoked"], 2, "{of_shop}");

    // Over the API; the last that may administer stay.
    let body = json!({ "user": "root" }).to_string();
    let path = "/api/v1/admin/tokens/revoke";
    assert_eq!(server.request("POST", path, Some(&root), Some(&body)).await.0, 409);
    assert_eq!(server.request("POST", path, Some(&root), Some("{}")).await.0, 400);
    assert_eq!(server.run(&["token", "revoke"]).status.code(), Some(2));
    assert_eq!(server.run(&["token", "revoke", "--user", "nobody"]).status.code(), Some(4));
    let body = json!({ "user": "root", "evenLastAdmin": true }).to_string();
    assert_eq!(server.request("POST", path, Some(&root), Some(&body)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_phone_is_let_in_nowhere_until_it_is_unblocked() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let pending = "/api/v1/messages/pending";
    let mut hub = server.hub(&phone).await;
    let blocked = server.run_json(&["mobile", "block", PHONE, "--reason", "stolen"]);
    assert!(blocked["blockedAt"].is_string() && blocked["status"] == "verified", "{blocked}");
    assert!(closed(&mut hub, Instant::now()).await < Duration::from_millis(1500));
    assert_eq!(server.request("GET", pending, Some(&phone), None).await.0, 401);
    let refused = server.run(&["token", "create", "--mobile", PHONE]);
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    // The sender is told nothing of it.
    let message = server.send(&shop, PHONE, "later").await;
    assert_eq!(server.status(&shop, &message).await, "pending");
    // Adding it again does not let it in.
    server.run_json(&["mobile", "add", PHONE, "--verified"]);
    assert_eq!(server.request("GET", pending, Some(&phone), None).await.0, 401);

    let again = server.run_json(&["mobile", "block", PHONE]);
    assert_eq!(again["blockedAt"], blocked["blockedAt"]);
    assert_eq!(server.run_json(&["mobile", "unblock", PHONE])["blockedAt"], Value::Null);
    let deadline = Instant::now() + DEADLINE;
    while server.request("GET", pending, Some(&phone), None).await.0 != 200 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut hub = server.hub(&phone).await;
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!(id(&found[0]), message);
    acknowledge(&mut hub, std::slice::from_ref(&message)).await;
    server.wait_status(&shop, &message, "delivered").await;

    assert_eq!(server.run(&["mobile", "block", "+967770000009"]).status.code(), Some(4));
    let log = server.run_json(&["audit", "access", "--phone", PHONE, "--limit", "50"]);
    let actions: Vec<&str> =
        log.as_array().unwrap().iter().filter_map(|entry| entry["action"].as_str()).collect();
    assert!(actions.contains(&"mobile.block") && actions.contains(&"mobile.unblock"));
}

/// Asks many times at once; how often each status was the answer.
async fn flood(server: &Server, path: &str, tokens: impl Iterator<Item = String>) -> Vec<u16> {
    let requests =
        tokens.map(|token| async move { server.request("GET", path, Some(&token), None).await.0 });
    futures_util::future::join_all(requests).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_tokens_that_nobody_has_costs_few_queries() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let path = "/api/v1/messages";
    assert_eq!(server.request("GET", path, Some(&shop), None).await.0, 200);
    let queries =
        async || server.metric("esh3ar_database_statement_seconds_count{group=\"access\"}").await;
    // With a mistake in it: none.
    let before = queries().await;
    let wrong = (0..300).map(|n| format!("esh_{n:049}"));
    assert!(flood(&server, path, wrong).await.iter().all(|status| *status == 401));
    assert!(queries().await - before <= 3.0, "{}", queries().await - before);

    // Well formed: those of the address.
    let (before, begun) = (queries().await, Instant::now());
    let statuses = flood(&server, path, (0..600).map(nobodys)).await;
    let (most, made) = (50.0 + 10.0 * begun.elapsed().as_secs_f64(), queries().await - before);
    assert!(made <= most + 10.0, "{made} queries, at most {most}");
    assert!(statuses.contains(&401) && statuses.contains(&429), "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 401 | 429)), "{statuses:?}");
    // A token that was valid lately is looked up beside them.
    assert_eq!(server.request("GET", path, Some(&shop), None).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_health_checks_costs_few_queries() {
    let server = Server::start().await;
    let looks =
        async || server.metric("esh3ar_database_pool_wait_seconds_count{group=\"nodes\"}").await;
    let (before, begun) = (looks().await, Instant::now());
    for path in ["/health", "/health/ready", "/health-status"] {
        let requests = (0..200).map(|_| server.request("GET", path, None, None));
        let answers = futures_util::future::join_all(requests).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{path}");
    }
    let made = looks().await - before;
    // Beside the process's own, which are a few a second.
    assert!(made <= 20.0 + 10.0 * begun.elapsed().as_secs_f64(), "{made}");
}
