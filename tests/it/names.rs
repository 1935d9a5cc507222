//! Names of business users: one form, one user, however they are written.

use serde_json::json;

use crate::{
    remote::Elsewhere,
    support::{Server, run},
};

const PHONE: &str = "+967771234567";

#[tokio::test]
async fn a_name_means_one_user_and_an_id_always_its_own() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let admin = |method: &'static str, path: String, body: Option<serde_json::Value>| {
        let (server, root) = (&server, &root);
        async move {
            let body = body.map(|body| body.to_string());
            let path = format!("/api/v1/admin{path}");
            server.request(method, &path, Some(root), body.as_deref()).await
        }
    };
    let add = |name: &str| admin("POST", "/users".into(), Some(json!({ "name": name })));
    let (status, cafe) = add(" Cafe\u{301}\u{a0} Nord ").await;
    assert_eq!((status, &cafe["name"]), (201, &json!("Café Nord")), "{cafe}");
    assert_eq!(add("Caf\u{e9} Nord").await.0, 409, "the same in composed form");
    assert_eq!(add("CAFE\u{301}  NORD").await.0, 409, "and without regard to case and blanks");
    let id = cafe["id"].as_str().unwrap().to_owned();
    for wrong in [
        id.clone(),
        id.to_uppercase(),
        id.replace('-', ""),
        ".".into(),
        "..".into(),
        "a\tb".into(),
        "a\nb".into(),
        "a\u{200b}b".into(),
        "a\u{202e}b".into(),
        "\u{2067}a".into(),
        "a\u{2028}b".into(),
        "a\u{feff}".into(),
        "a\0b".into(),
        " ".into(),
    ] {
        let (status, problem) = add(&wrong).await;
        assert_eq!((status, &problem["code"]), (400, &json!("validation_failed")), "{wrong:?}");
        assert_eq!(problem["errors"]["name"][0]["code"], "invalid_name", "{problem}");
    }
    // However it is written, it is found: in a path, a query, a body.
    for written in ["Cafe%CC%81%20Nord", "%20caf%C3%A9%20nord%09", "Caf%C3%A9%C2%A0%20NORD"] {
        let (status, found) = admin("GET", format!("/users/{written}"), None).await;
        assert_eq!((status, &found["id"]), (200, &json!(id)), "{written}: {found}");
        let (status, found) = admin("GET", format!("/messages?from={written}"), None).await;
        assert_eq!(status, 200, "{written}: {found}");
    }
    let (status, token) =
        admin("POST", "/tokens".into(), Some(json!({ "user": "\tCafe\u{301} nord " }))).await;
    assert_eq!(status, 201, "{token}");
    let (status, log) = admin("GET", "/audit?action=user.add&actor=%20ROOT%20".into(), None).await;
    assert!(status == 200 && !log["items"].as_array().unwrap().is_empty(), "{log}");

    // An earlier version let a user be named like the id of another: that is no reason to fail.
    let database = server.database().await;
    let sql = "INSERT INTO business_users (id, name, permissions)
               VALUES (gen_random_uuid(), $1, 1), (gen_random_uuid(), $2, 1)";
    database.execute(sql, &[&id, &"e\u{301}cole  two"]).await.unwrap();
    let body = json!({ "from": id, "to": PHONE, "content": "x" });
    for (method, path, body) in [
        ("GET", format!("/users/{id}"), None),
        ("PATCH", format!("/users/{id}"), Some(json!({ "permissions": ["SendMessages"] }))),
        ("GET", format!("/messages?from={id}"), None),
        ("GET", format!("/messages?user={id}"), None),
        ("GET", format!("/conversations?user={id}"), None),
        ("GET", format!("/tokens?user={id}"), None),
        ("POST", "/tokens".into(), Some(json!({ "user": id }))),
        ("POST", "/messages".into(), Some(body)),
    ] {
        let (status, answer) = admin(method, path.clone(), body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        if path.starts_with("/users") {
            assert_eq!(answer["id"], json!(id), "an id is looked for first");
        }
    }
    // One whose name was stored as it was written is found as it was written.
    let (status, old) = admin("GET", "/users/E%CC%81COLE%20%20two".into(), None).await;
    assert_eq!((status, &old["name"]), (200, &json!("e\u{301}cole  two")), "{old}");
    // Also beside one of the same name in its normal form.
    let sql = "INSERT INTO business_users (id, name, permissions)
               VALUES (gen_random_uuid(), $1, 1), (gen_random_uuid(), $2, 1)";
    database.execute(sql, &[&"e\u{301}tude", &"\u{e9}tude"]).await.unwrap();
    for (written, name) in [("e%CC%81tude", "e\u{301}tude"), ("%C3%A9tude", "\u{e9}tude")] {
        let (status, found) = admin("GET", format!("/users/{written}"), None).await;
        assert_eq!((status, &found["name"]), (200, &json!(name)), "{found}");
    }
    assert_eq!(admin("GET", "/users/nobody%00".into(), None).await.0, 404);
    assert_eq!(admin("GET", "/messages?from=%E2%80%8B".into(), None).await.0, 404);

    // The commands, here and elsewhere.
    let elsewhere = Elsewhere::new(&server, &root);
    for name in ["Cafe\u{301} Nord", " café  nord "] {
        assert_eq!(server.run_json(&["user", "show", name])["id"], json!(id));
        assert_eq!(elsewhere.json(&["user", "show", name])["id"], json!(id));
    }
    for name in [id.as_str(), "..", "a\u{202e}b", "tab\tbed"] {
        assert_eq!(run(&server.data(), &["user", "add", name]).status.code(), Some(2), "{name:?}");
        assert_eq!(elsewhere.run(&["user", "add", name]).status.code(), Some(2), "{name:?}");
    }
}
