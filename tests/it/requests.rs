//! What a request may look like: its names, its body's encoding, and what makes two of them the same.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::support::{Server, next_messages};

const PHONE: &str = "+967771234567";

struct Ask<'a> {
    server: &'a Server,
    token: &'a str,
}

impl Ask<'_> {
    async fn post(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, Value) {
        let request = self.server.http().post(format!("{}{path}", self.server.base));
        let mut request =
            request.bearer_auth(self.token).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }
}

#[tokio::test]
async fn an_unknown_name_is_an_error_that_names_the_nearest() {
    let server = Server::start().await;
    let root = server.user("root", "Admin,SendMessages,Chat");
    let phone = server.phone(PHONE);
    let get = |path: &'static str, token: &str| {
        let (server, token) = (&server, token.to_owned());
        async move { server.request("GET", path, Some(&token), None).await }
    };
    for (path, near) in [
        ("/api/v1/messages?limti=2", "limit"),
        ("/api/v1/messages?status=sent&Limit=2", "limit"),
        ("/api/v1/conversations?stauts=active", "status"),
        ("/api/v1/admin/messages?form=root", "from"),
        ("/api/v1/admin/dead-letters?resaon=x", "reason"),
        ("/api/v1/admin/mobile-users?afterphone=x", "afterPhone"),
        ("/api/v1/admin/audit?sinc=x", "since"),
        ("/health?histroy=true", "history"),
    ] {
        let (status, problem) = get(path, &root).await;
        assert_eq!((status, &problem["code"]), (400, &json!("unknown_parameter")), "{path}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.ends_with(&format!("did you mean {near}?")), "{path}: {detail}");
    }
    let (_, problem) = get("/api/v1/messages/pending?colour=red", &phone).await;
    let told = "unknown parameter colour; known parameters: limit, after";
    assert_eq!(problem["detail"], told);
    let (_, problem) = get("/api/v1/conversations/unread-count?x=1", &phone).await;
    assert!(
        problem["detail"].as_str().unwrap().ends_with("this route has no parameters"),
        "{problem}"
    );
    for path in
        ["/api/v1/messages?limit=2&&after=", "/api/v1/messages?lim%69t=2", "/health/ready?lb=1"]
    {
        assert_ne!(get(path, &root).await.1["code"], "unknown_parameter", "{path}");
    }
    // Who may not ask learns nothing by it, and what is not there is still not there.
    assert_eq!(server.request("GET", "/api/v1/messages?x=1", None, None).await.0, 401);
    assert_eq!(get("/api/v1/nothing?x=1", &root).await.0, 404);
    // The existing API takes what its apps add.
    assert_eq!(get("/api/app/message/one-way-messages?Sorting=x&y=1", &root).await.0, 200);

    let ask = Ask { server: &server, token: &root };
    let body = json!({ "to": PHONE, "contnet": "x" }).to_string();
    let (status, problem) = ask.post("/api/v1/messages", &[], body.into()).await;
    assert_eq!((status, &problem["code"]), (400, &json!("unknown_field")));
    assert!(problem["detail"].as_str().unwrap().ends_with("did you mean `content`?"), "{problem}");
    let body = json!({ "messages": [{ "to": PHONE, "content": "x", "prioriti": "high" }] });
    let (status, answer) = ask.post("/api/v1/messages/batch", &[], body.to_string().into()).await;
    let problem = &answer["results"][0]["error"];
    assert_eq!((status, &problem["code"]), (200, &json!("unknown_field")), "{answer}");
    assert!(problem["detail"].as_str().unwrap().ends_with("did you mean `priority`?"), "{answer}");
}

#[tokio::test]
async fn bodies_are_not_compressed_and_mean_the_same_in_any_order() {
    let server = Server::start().await;
    let shop = server.user("Shop", "SendMessages");
    let ask = Ask { server: &server, token: &shop };
    let plain = json!({ "to": PHONE, "content": "x" }).to_string();
    for (path, encoding) in [
        ("/api/v1/messages", "gzip"),
        ("/api/v1/messages", "identity, br"),
        ("/api/v1/messages/batch", "deflate"),
        ("/hub/negotiate?negotiateVersion=1", "gzip"),
    ] {
        let headers = [("content-encoding", encoding)];
        let (status, problem) = ask.post(path, &headers, b"\x1f\x8b\x08not read".to_vec()).await;
        let code = json!("unsupported_content_encoding");
        assert_eq!((status, &problem["code"]), (415, &code), "{path} {encoding}: {problem}");
    }
    let refused = server.http().post(format!("{}/api/v1/messages", server.base));
    let refused = refused.bearer_auth(&shop).header("content-encoding", "zstd").body(plain.clone());
    let refused = refused.send().await.unwrap();
    assert_eq!(refused.headers()["accept-encoding"], "identity");
    let (status, _) = ask
        .post(
            "/api/app/message/send-one-way-message",
            &[("content-encoding", "gzip")],
            plain.clone().into(),
        )
        .await;
    assert_eq!(status, 400, "the existing API has its own form for that");
    for encoding in ["identity", "Identity", ""] {
        let headers = [("content-encoding", encoding)];
        let (status, problem) = ask.post("/api/v1/messages", &headers, plain.clone().into()).await;
        assert_eq!(status, 202, "{encoding}: {problem}");
    }
    let nobody = Ask { server: &server, token: "esh_nobody" };
    let headers = [("content-encoding", "gzip")];
    assert_eq!(nobody.post("/api/v1/messages", &headers, plain.clone().into()).await.0, 401);

    let mut marked = b"\xef\xbb\xbf".to_vec();
    marked.write_all(plain.as_bytes()).unwrap();
    assert_eq!(ask.post("/api/v1/messages", &[], marked.clone()).await.0, 202, "a byte order mark");
    let legacy = [
        b"\xef\xbb\xbf".to_vec(),
        json!({ "recipientPhoneNumber": "967771234567",
                  "messageContent": "x" })
        .to_string()
        .into_bytes(),
    ]
    .concat();
    let (status, answer) = ask.post("/api/app/message/send-one-way-message", &[], legacy).await;
    assert_eq!(status, 200, "{answer}");

    // The same key: what is said counts, not how it is written.
    let keyed = [("idempotency-key", "k1")];
    let first = br#"{"to":"+967771234567","content":"once","priority":"high"}"#.to_vec();
    let (status, sent) = ask.post("/api/v1/messages", &keyed, first).await;
    assert_eq!(status, 202);
    for same in [
        "{\"priority\":\"high\", \"content\":\"once\",\n\"to\":\"+967771234567\"}",
        r#"{"content":"once","to":"+967771234567","priority":"high","subject":null}"#,
        r#"{"content":"onc\u0065","to":"+967771234567","priority":"high"}"#,
        "\u{feff}{\"content\":\"once\",\"to\":\"+967771234567\",\"priority\":\"high\"}",
    ] {
        let (status, again) = ask.post("/api/v1/messages", &keyed, same.into()).await;
        assert_eq!((status, &again["id"]), (202, &sent["id"]), "{same}: {again}");
    }
    for other in [
        r#"{"to":"+967771234567","content":"twice","priority":"high"}"#,
        r#"{"to":"+967771234567","content":"once"}"#,
        r#"{"to":"+967771234568","content":"once","priority":"high"}"#,
    ] {
        let (status, problem) = ask.post("/api/v1/messages", &keyed, other.into()).await;
        assert_eq!((status, &problem["code"]), (422, &json!("idempotency_key_reused")), "{other}");
    }
    let keyed = [("idempotency-key", "k2")];
    let batch = r#"{"messages":[{"to":"+967771234567","content":"a"},{"content":"b","to":"+967771234567"}]}"#;
    let turned = r#"{"messages":[{"content":"a","to":"+967771234567"},{"to":"+967771234567","content":"b"}]}"#;
    let moved = r#"{"messages":[{"content":"b","to":"+967771234567"},{"to":"+967771234567","content":"a"}]}"#;
    let (_, one) = ask.post("/api/v1/messages/batch", &keyed, batch.into()).await;
    assert_eq!(ask.post("/api/v1/messages/batch", &keyed, turned.into()).await, (200, one));
    assert_eq!(ask.post("/api/v1/messages/batch", &keyed, moved.into()).await.0, 422);
    // What an earlier version kept is of the body as it was written.
    let written = ring_hash("POST /api/v1/messages", first_body());
    let database = server.database().await;
    let sql = "UPDATE idempotency_keys SET request_hash = $1 WHERE key = 'k1'";
    database.execute(sql, &[&written]).await.unwrap();
    let keyed = [("idempotency-key", "k1")];
    let (status, again) = ask.post("/api/v1/messages", &keyed, first_body().to_vec()).await;
    assert_eq!((status, &again["id"]), (202, &sent["id"]), "{again}");
}

fn first_body() -> &'static [u8] {
    br#"{"to":"+967771234567","content":"once","priority":"high"}"#
}

fn ring_hash(route: &str, body: &[u8]) -> Vec<u8> {
    let whole = [route.as_bytes(), b"\n", body].concat();
    ring::digest::digest(&ring::digest::SHA256, &whole).as_ref().to_vec()
}

/// Every time in an answer, wherever it stands.
fn times(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.values().for_each(|value| times(value, found)),
        Value::Array(items) => items.iter().for_each(|value| times(value, found)),
        Value::String(text)
            if text.len() > 18 && text.as_bytes()[10] == b'T' && text.ends_with('Z') =>
        {
            found.push(text.clone());
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_time_has_six_digits() {
    let server = Server::start().await;
    server.expect_unbalanced("it moves a message to another day");
    let root = server.user("root", "Admin,SendMessages,Chat");
    let phone = server.phone(PHONE);
    let mut hub = server.hub(&phone).await;
    let id = server.send(&root, PHONE, "x").await;
    let (_, got) = next_messages(&mut hub).await;
    let mut found = Vec::new();
    times(&json!(got), &mut found);
    hub.call("Acknowledge", vec![json!([id])], crate::support::DEADLINE).await.unwrap();
    server.wait_status(&root, &id, "delivered").await;
    // Times that end in zeros, as one in ten does.
    let database = server.database().await;
    let whole = "2026-01-31T12:00:00Z";
    database.batch_execute(&format!(
        "UPDATE messages SET created_at = '{whole}', sent_at = '{whole}',
                delivered_at = timestamptz '{whole}' + interval '500 milliseconds';
         UPDATE business_users SET created_at = '{whole}'; UPDATE mobile_users SET created_at = '{whole}';
         UPDATE tokens SET created_at = '{whole}'; UPDATE audit_log SET at = '{whole}'"
    )).await.unwrap();
    let talk = json!({ "phone": PHONE });
    found.extend(
        server.api(&root).post("/api/v1/conversations", &talk).await.unwrap().body["createdAt"]
            .as_str()
            .map(str::to_owned),
    );
    for path in [
        format!("/api/v1/messages/{id}"),
        format!("/api/v1/messages/{id}/timeline"),
        format!("/api/v1/admin/messages/{id}"),
        "/api/v1/messages".into(),
        "/api/v1/conversations".into(),
        "/api/v1/admin/users".into(),
        "/api/v1/admin/mobile-users".into(),
        "/api/v1/admin/tokens".into(),
        "/api/v1/admin/audit?limit=200".into(),
        "/api/v1/admin/stats".into(),
        "/api/v1/admin/nodes".into(),
        "/api/app/message/one-way-messages".into(),
    ] {
        let before = found.len();
        let (status, answer) = server.request("GET", &path, Some(&root), None).await;
        times(&answer, &mut found);
        assert!(status == 200 && found.len() > before, "{path} has no time: {answer}");
    }
    for command in [&["message", "show", &id][..], &["migrate", "--status"]] {
        times(&server.run_json(command), &mut found);
    }
    for time in &found {
        assert_eq!(time.len(), "2026-01-31T12:00:00.000000Z".len(), "{time}");
    }
    assert!(found.contains(&"2026-01-31T12:00:00.000000Z".to_owned()));
    assert!(found.contains(&"2026-01-31T12:00:00.500000Z".to_owned()));
}

/// What nobody may send is not kept, and what may be sent is not made larger than it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_do_not_fill_memory() {
    const SIZE: usize = 24 * 1024 * 1024 - 64;
    const KIB: u64 = 64 * 1024;
    let server = Server::start().await;
    let (phone, shop) = (server.phone(PHONE), server.user("shop", "SendMessages"));
    let zeros = |before: &str, after: &str| {
        let numbers = "0,".repeat(SIZE / 2);
        bytes::Bytes::from(format!("{before}{numbers}0{after}"))
    };
    let list = zeros("{\"messages\":[", "]}");
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let post = |path: &str, token: &str, body: bytes::Bytes| {
        let request = client.post(format!("{}{path}", server.base)).bearer_auth(token);
        request.header("content-type", "application/json").body(body).send()
    };
    let before = server.peak_memory();
    for path in [
        "/api/v1/messages/batch",
        "/api/v1/nothing/batch",
        "/api/app/message/ingestion-batch-message",
    ] {
        let sent = (0..40).map(|_| post(path, &phone, list.clone()));
        for answer in futures_util::future::join_all(sent).await {
            // The answer may come while the client still sends, which ends the stream.
            let status = answer.map_or(403, |answer| answer.status().as_u16());
            assert!(status == 403 || status == 404, "{path}: {status}");
        }
    }
    let strangers = server.peak_memory() - before;
    assert!(strangers < KIB, "{strangers} KiB more after a phone sent what it may not");
    let answer = post("/api/v1/messages/batch", &shop, list.clone()).await.unwrap();
    let (status, answer) = (answer.status(), answer.json::<Value>().await.unwrap());
    assert_eq!((status.as_u16(), &answer["code"]), (400, &json!("validation_failed")), "{answer}");
    // One item that is a list, with a key, over which the request is compared.
    let nested = zeros("{\"messages\":[[", "]]}");
    let request = client.post(format!("{}/api/v1/messages/batch", server.base)).bearer_auth(&shop);
    let request =
        request.header("idempotency-key", "zeros").header("content-type", "application/json");
    let answer = request.body(nested).send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(answer["results"][0]["error"]["code"], "body_too_large", "{answer}");
    let old =
        post("/api/app/message/ingestion-batch-message", &shop, zeros("{\"x\":[", "]}")).await;
    assert_eq!(old.unwrap().status().as_u16(), 400);
    // Two of this size are more than a party may have at once.
    let many = futures_util::future::join_all(
        (0..12).map(|_| post("/api/v1/messages/batch", &shop, list.clone())),
    );
    let statuses: Vec<u16> =
        many.await.into_iter().flatten().map(|answer| answer.status().as_u16()).collect();
    assert!(statuses.iter().all(|status| [400, 429].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    // The same without a word of how long they are.
    let unannounced = |list: bytes::Bytes| {
        let parts = (0..list.len()).step_by(64 * 1024);
        let parts = parts
            .map(move |at| Ok::<_, std::io::Error>(list.slice(at..list.len().min(at + 64 * 1024))));
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
        let request = client.post(format!("{}/api/v1/messages/batch", server.base));
        request.bearer_auth(&shop).header("content-type", "application/json").body(body).send()
    };
    let many = futures_util::future::join_all((0..12).map(|_| unannounced(list.clone())));
    let statuses: Vec<u16> =
        many.await.into_iter().flatten().map(|answer| answer.status().as_u16()).collect();
    assert!(statuses.iter().all(|status| [400, 429].contains(status)), "{statuses:?}");
    let own = server.peak_memory() - before;
    assert!(own < KIB, "{own} KiB more after batches of zeros");
    server.send(&shop, PHONE, "as before").await;
}
