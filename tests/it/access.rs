//! Who may do what: every route with every wrong caller.

use esh3ar::{
    client::{Error, HubClient},
    domain::Permission,
    server::{
        hub::hubs::service::Service,
        route::{Body, Who},
        routes,
    },
};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Server};

const PHONE: &str = "+967771234567";

#[tokio::test]
async fn every_route_refuses_every_wrong_caller() {
    let server = Server::start().await;
    let sender = server.user("sender", "SendMessages");
    let rival = server.user("rival", "SendMessages");
    // May not talk either.
    let idle = server.user("idle", "Broadcast");
    let phone = server.phone(PHONE);
    let stranger = server.phone("+967770000009");
    let id = server.send(&sender, PHONE, "private").await;
    let expired = server.token(&["--user", "sender", "--expires", "1ms"]);
    let revoked = server.token(&["--user", "sender"]);
    // Used once, so that it is a revocation of a token that was known.
    assert_eq!(server.request("GET", "/api/v1/messages", Some(&revoked), None).await.0, 200);
    let listed = crate::support::run_json(&server.data(), &["token", "list", "--user", "sender"]);
    let newest = listed[0]["id"].as_str().unwrap();
    assert!(crate::support::run(&server.data(), &["token", "revoke", newest]).status.success());
    crate::support::wait_for("the revocation to count", || {
        let base = server.base.clone();
        let revoked = revoked.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let status = runtime.block_on(async {
                let request = crate::support::http().get(format!("{base}/api/v1/messages"));
                request.bearer_auth(revoked).send().await.unwrap().status().as_u16()
            });
            (status == 401).then_some(())
        })
        .join()
        .unwrap()
    })
    .await;

    let body = json!({ "to": PHONE, "content": "x" }).to_string();
    let batch = json!({ "messages": [{ "to": PHONE, "content": "x" }] }).to_string();
    let ids = json!({ "ids": [id] }).to_string();
    let phone_body = json!({ "phone": PHONE }).to_string();
    let described =
        routes::all().iter().filter(|route| !route.is_legacy && route.who != Who::Anyone);
    for route in described {
        let (method, pattern) = (route.method.as_str(), route.path);
        let path = pattern.replace("{id}", &id).replace("{phone}", "+967771234567");
        let body = match pattern {
            "/api/v1/messages" if method == "POST" => Some(body.as_str()),
            "/api/v1/messages/batch" => Some(batch.as_str()),
            "/api/v1/messages/acknowledge" => Some(ids.as_str()),
            "/api/v1/conversations" if method == "POST" => Some(phone_body.as_str()),
            _ => None,
        };
        let ask = |token: Option<String>| {
            let (server, path) = (&server, path.clone());
            async move { server.request(method, &path, token.as_deref(), body).await }
        };
        for (who, token) in [
            ("nobody", None),
            ("nonsense", Some("esh_nonsense".to_owned())),
            ("huge", Some("x".repeat(5000))),
            ("expired", Some(expired.clone())),
            ("revoked", Some(revoked.clone())),
        ] {
            let (status, problem) = ask(token).await;
            assert_eq!(status, 401, "{who} {method} {path}: {problem}");
            assert_eq!(problem["code"], "unauthenticated");
        }
        let sends = route.who == Who::Business(Some(Permission::SendMessages));
        let phones_only = route.who == Who::Mobile;
        let admin_only = route.who == Who::Admin;
        // Chat has its own matrix, over a conversation that is there.
        let chat = matches!(
            route.who,
            Who::Either(Some(Permission::Chat)) | Who::Business(Some(Permission::Chat))
        );
        let success = route.status;
        let of_one = pattern.contains("{id}");
        if chat {
            // Bodies are not looked at before it is known who asks.
            for token in [&idle, &rival] {
                let (status, problem) = ask(Some(token.clone())).await;
                assert_eq!(status, 403, "{method} {path}: {problem}");
            }
            continue;
        }
        let (status, problem) = ask(Some(idle.clone())).await;
        let wanted = if sends || phones_only || admin_only {
            403
        } else if of_one {
            404
        } else {
            success
        };
        assert_eq!(status, wanted, "without permission: {method} {path}: {problem}");
        let (status, problem) = ask(Some(stranger.clone())).await;
        let wanted = if sends || admin_only {
            403
        } else if of_one {
            404
        } else {
            success
        };
        assert_eq!(status, wanted, "another phone: {method} {path}: {problem}");
        if !sends {
            let (status, problem) = ask(Some(rival.clone())).await;
            let wanted = if phones_only || admin_only {
                403
            } else if of_one {
                404
            } else {
                success
            };
            assert_eq!(status, wanted, "another business: {method} {path}: {problem}");
            if status == 200 {
                assert_eq!(problem["items"], json!([]), "{method} {path}");
            }
        }
    }
    // What was not there and what was not theirs got the same answer.
    let of = |token: String, id: String| {
        let server = &server;
        async move { server.request("GET", &format!("/api/v1/messages/{id}"), Some(&token), None).await }
    };
    let absent = "01a20a1b-7317-71ae-8f98-eacc86509605".to_owned();
    assert_eq!(of(rival.clone(), id.clone()).await, of(rival, absent).await);
    // None of it changed anything.
    assert_eq!(server.status(&sender, &id).await, "pending");
    let (_, shown) =
        server.request("GET", &format!("/api/v1/messages/{id}"), Some(&phone), None).await;
    assert_eq!(shown["content"], "private");
}

/// Whether a mobile user, or a business user with one permission or none, may.
fn may(who: Who, business: Option<&Option<Permission>>) -> bool {
    match (who, business) {
        (Who::Anyone, _) | (Who::Mobile | Who::Either(_), None) => true,
        (Who::Business(None) | Who::Either(None), Some(_)) => true,
        (Who::Business(wanted) | Who::Either(wanted), Some(has)) => wanted == *has,
        (Who::Admin, has) => has == Some(&Some(Permission::Admin)),
        (Who::Mobile, Some(_)) | (Who::Business(_), None) => false,
    }
}

/// Business users with one permission, or none, and their tokens.
fn of_each_permission(server: &Server) -> [(Option<Permission>, String); 5] {
    [
        (None, server.user("none", "")),
        (Some(Permission::SendMessages), server.user("sender", "SendMessages")),
        (Some(Permission::Chat), server.user("chat", "Chat")),
        (Some(Permission::Broadcast), server.user("broadcast", "Broadcast")),
        (Some(Permission::Admin), server.user("admin", "Admin")),
    ]
}

/// For each route there is, each kind of caller gets past its row in the table, or does not.
#[tokio::test]
async fn every_route_is_open_to_whom_its_row_names_and_to_nobody_else() {
    let server = Server::start().await;
    let phone = server.phone(PHONE);
    let permissions = of_each_permission(&server);
    let mut refused = 0;
    for route in routes::all() {
        let absent = "01a20a1b-7317-71ae-8f98-eacc86509605";
        let path = route.path.replace("{id}", absent).replace("{phone}", "%2B967770000009");
        // What is no JSON is read only when the caller may send it.
        let body = (route.body != Body::None).then_some("no JSON");
        let ask = |token: Option<String>| {
            let (server, path) = (&server, path.clone());
            async move { server.request(route.method.as_str(), &path, token.as_deref(), body).await }
        };
        let code = |answer: &Value| {
            let code = if route.is_legacy { &answer["error"]["code"] } else { &answer["code"] };
            code.as_str().unwrap_or_default().to_owned()
        };
        for token in [None, Some("esh_nonsense".to_owned())] {
            let (status, answer) = ask(token).await;
            let anyone = route.who == Who::Anyone;
            assert_eq!(status == 401, !anyone, "{} {path}: {answer}", route.method);
        }
        let callers = permissions.iter().map(|(permission, token)| (Some(permission), token));
        for (business, token) in callers.chain([(None, &phone)]) {
            let may = may(route.who, business);
            let (status, answer) = ask(Some(token.clone())).await;
            let what = format!("{} {path} by {business:?}: {status} {answer}", route.method);
            let codes = ["permission_denied", "wrong_audience", "one_way_read_only"];
            let is_refused = status == 403 && codes.contains(&code(&answer).as_str());
            assert_eq!(is_refused, !may, "{what}");
            refused += usize::from(is_refused);
            if may && body.is_some() {
                // What is named may be looked up first.
                let absent = route.path.contains('{') && status == 404;
                assert!(
                    absent || (status, code(&answer).as_str()) == (400, "invalid_json"),
                    "{what}"
                );
            }
        }
    }
    assert!(refused > 200, "{refused}");
}

/// For each method of each hub, each kind of caller gets past its row in the table, or does not.
#[tokio::test]
async fn every_hub_method_is_open_to_whom_its_row_names_and_to_nobody_else() {
    let server = Server::start_with(&[("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true")]).await;
    let phone = server.phone(PHONE);
    let permissions = of_each_permission(&server);
    let (mut refused, mut called) = (0, 0);
    for (path, hub, connects) in Service::ALL {
        for nobody in ["", "esh_nonsense"] {
            let none = HubClient::connect_to(&server.base, path, nobody).await;
            assert!(matches!(none, Err(Error::Refused { status: 401, .. })), "{path}");
        }
        let callers = permissions.iter().map(|(permission, token)| (Some(permission), token));
        for (business, token) in callers.chain([(None, &phone)]) {
            let connected = HubClient::connect_to(&server.base, path, token).await;
            if !may(connects, business) {
                assert!(matches!(connected, Err(Error::Refused { status: 403, .. })), "{path}");
                refused += 1;
                continue;
            }
            let mut client = connected.unwrap();
            for method in hub.methods() {
                // No arguments: whether they fit is looked at only when the caller may call.
                let answer = client.call(method.name, vec![], DEADLINE).await;
                let text = answer.err().map(|error| error.to_string()).unwrap_or_default();
                let codes = ["permission_denied: ", "wrong_audience: ", "one_way_read_only: "];
                let is_refused = codes.iter().any(|code| text.contains(code));
                let what = format!("{path} {} by {business:?}: {text}", method.name);
                assert_eq!(is_refused, !may(method.who, business), "{what}");
                assert!(!text.contains("does not exist"), "{what}");
                refused += usize::from(is_refused);
                called += 1;
            }
            client.close().await;
        }
    }
    assert!(refused > 20 && called > 100, "{refused} of {called}");
}

/// **Feature: enhanced-messaging-system, Property 12: One-Way Message Read-Only**
#[tokio::test]
async fn a_phone_cannot_answer_a_one_way_message() {
    let server = Server::start().await;
    let sender = server.user("sender", "SendMessages,Chat");
    let phone = server.phone(PHONE);
    let id = server.send(&sender, PHONE, "read only").await;
    for n in 0..100 {
        let body = json!({ "to": "+967770000001", "content": format!("reply {n}") }).to_string();
        let path = match n % 3 {
            0 => "/api/v1/messages".to_owned(),
            1 => format!("/api/v1/messages/{id}"),
            _ => "/api/v1/messages/batch".to_owned(),
        };
        let (status, problem) = server.request("POST", &path, Some(&phone), Some(&body)).await;
        assert!(matches!(status, 403 | 405), "{path}: {status} {problem}");
    }
    let mut hub = server.hub(&phone).await;
    let argument = json!({ "to": id, "content": "reply" });
    let refused = hub.call("SendMessage", vec![argument], DEADLINE).await;
    assert!(refused.is_err());
    let database = server.database().await;
    let count: i64 = database.query_one("SELECT count(*) FROM messages", &[]).await.unwrap().get(0);
    assert_eq!(count, 1);
}

#[tokio::test]
async fn one_user_cannot_acknowledge_for_another() {
    let server = Server::start().await;
    let sender = server.user("sender", "SendMessages");
    server.phone(PHONE);
    let thief = server.phone("+967770000009");
    let id = server.send(&sender, PHONE, "mine").await;
    let mut hub = server.hub(&thief).await;
    assert_eq!(crate::support::acknowledge(&mut hub, std::slice::from_ref(&id)).await, 0);
    let read = hub.call("MarkRead", vec![json!({ "messageIds": [id] })], DEADLINE).await.unwrap();
    assert_eq!(read, json!(0));
    let body = json!({ "ids": [id] }).to_string();
    let (status, answer) =
        server.request("POST", "/api/v1/messages/acknowledge", Some(&thief), Some(&body)).await;
    assert_eq!((status, answer), (200, json!({ "changed": 0 })));
    assert_eq!(server.status(&sender, &id).await, "pending");
    let pending = hub.call("GetPendingMessages", vec![], DEADLINE).await.unwrap();
    assert_eq!(pending, Value::Array(vec![]));
}
