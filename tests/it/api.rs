//! The HTTP API as documented.

use serde_json::{Value, json};

use crate::support::{Server, id};

const PHONE: &str = "+967771234567";

#[tokio::test]
async fn a_message_is_sent_listed_read_and_acknowledged() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let body = json!({
        "to": "+967 77 123 4567", "subject": "Order", "content": "It is ready ☎",
        "contentType": "text", "priority": "high", "attachments": []
    });
    let sent = server.api(&shop).post("/api/v1/messages", &body).await.unwrap();
    assert_eq!(sent.status, 202);
    assert_eq!(sent.body["status"], "pending");
    let id = id(&sent.body);

    let shown = server.api(&shop).get(&format!("/api/v1/messages/{id}")).await.unwrap().body;
    assert_eq!(shown["createdAt"], sent.body["createdAt"], "the same moment everywhere");
    assert_eq!(shown["to"], PHONE);
    assert_eq!(shown["from"], "shop");
    assert_eq!(shown["type"], "oneWay");
    assert_eq!(shown["subject"], "Order");
    assert_eq!(shown["content"], "It is ready ☎");
    assert_eq!(shown["priority"], "high");
    assert_eq!(shown["attachments"], json!([]));
    assert!(shown.get("sentAt").is_none() && shown.get("conversationId").is_none());

    let pending = server.api(&phone).get("/api/v1/messages/pending").await.unwrap().body;
    assert_eq!(pending["items"][0]["id"], json!(id));
    assert_eq!(pending["next"], Value::Null);

    let path = format!("/api/v1/messages/{id}/delivered");
    for _ in 0..2 {
        let delivered = server.api(&phone).post(&path, &Value::Null).await.unwrap().body;
        assert_eq!(delivered["status"], "delivered");
        assert!(delivered["sentAt"].is_string() && delivered["deliveredAt"].is_string());
    }
    let read = format!("/api/v1/messages/{id}/read");
    let read = server.api(&phone).post(&read, &Value::Null).await.unwrap().body;
    assert_eq!(read["status"], "read");
    // Late and repeated words change nothing.
    let again = server.api(&phone).post(&path, &Value::Null).await.unwrap().body;
    assert_eq!(again, read);
    let pending = server.api(&phone).get("/api/v1/messages/pending").await.unwrap().body;
    assert_eq!(pending["items"], json!([]));

    let timeline =
        server.api(&shop).get(&format!("/api/v1/messages/{id}/timeline")).await.unwrap().body;
    let steps: Vec<&str> =
        timeline["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["pending", "sent", "delivered", "read"]);
}

#[tokio::test]
async fn lists_have_filters_and_cursors() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut sent = Vec::new();
    for n in 0..7 {
        let to = if n == 3 { "+967770000001" } else { PHONE };
        sent.push(server.send(&shop, to, &format!("message {n}")).await);
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/v1/messages?limit=3{after}");
        let page = server.api(&shop).get(&path).await.unwrap().body;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(items.iter().map(id));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    seen.reverse();
    assert_eq!(seen, sent, "newest first, each once");

    let to = server.api(&shop).get("/api/v1/messages?to=%2B967770000001").await.unwrap().body;
    assert_eq!(to["items"].as_array().unwrap().len(), 1);
    let ack = json!({ "ids": [sent[0], sent[1]] });
    let answer = server.api(&phone).post("/api/v1/messages/acknowledge", &ack).await.unwrap();
    assert_eq!(answer.body["changed"], 2);
    let answer = server.api(&phone).post("/api/v1/messages/acknowledge", &ack).await.unwrap();
    assert_eq!(answer.body["changed"], 0, "twice is once");
    let delivered =
        server.api(&shop).get("/api/v1/messages?status=delivered&type=oneWay").await.unwrap();
    assert_eq!(delivered.body["items"].as_array().unwrap().len(), 2);
    // A phone sees its own, whatever it asks for.
    let own = server.api(&phone).get("/api/v1/messages").await.unwrap().body;
    assert_eq!(own["items"].as_array().unwrap().len(), 6);
    let other = server.api(&phone).get("/api/v1/messages?to=%2B967770000001").await.unwrap().body;
    assert_eq!(other["items"], json!([]));
    // Pending pages go forward, oldest first.
    let first = server.api(&phone).get("/api/v1/messages/pending?limit=3").await.unwrap().body;
    let next = first["next"].as_str().unwrap();
    let path = format!("/api/v1/messages/pending?limit=3&after={next}");
    let second = server.api(&phone).get(&path).await.unwrap().body;
    let all: Vec<String> = [&first, &second]
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap().iter().map(id))
        .collect();
    assert_eq!(all, [sent[2].clone(), sent[4].clone(), sent[5].clone(), sent[6].clone()]);
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn each_item_of_a_batch_answers_for_itself() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let body = json!({ "messages": [
        { "to": PHONE, "content": "good" },
        { "to": "nonsense", "content": "bad number" },
        { "to": PHONE },
        { "to": PHONE, "content": "x", "colour": "red" },
        { "to": PHONE, "content": "good too" },
    ]});
    let answer = server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
    assert_eq!(answer.status, 200);
    let results = answer.body["results"].as_array().unwrap();
    assert_eq!(results.len(), 5);
    assert!(results[0]["id"].is_string() && results[4]["id"].is_string());
    assert_eq!(results[1]["error"]["errors"]["to"][0]["code"], "invalid_phone");
    assert_eq!(results[2]["error"]["code"], "invalid_body");
    assert!(results[3]["error"]["detail"].as_str().unwrap().contains("unknown field"));
    let listed = server.api(&shop).get("/api/v1/messages").await.unwrap().body;
    let stored: Vec<&str> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].as_str().unwrap())
        .collect();
    assert_eq!(stored, ["good too", "good"], "in the order of the batch, nothing else");
    let many = json!({ "messages": vec![json!({ "to": PHONE, "content": "x" }); 501] });
    let (status, _) = server
        .request("POST", "/api/v1/messages/batch", Some(&shop), Some(&many.to_string()))
        .await;
    assert_eq!(status, 400);
    let full = json!({ "messages": vec![json!({ "to": PHONE, "content": "x" }); 500] });
    let answer = server.api(&shop).post("/api/v1/messages/batch", &full).await.unwrap();
    assert_eq!(answer.body["results"].as_array().unwrap().len(), 500);
}

#[tokio::test]
async fn a_repeat_with_the_same_key_is_answered_and_not_done() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let other = server.user("other", "SendMessages");
    let send = |token: String, key: &'static str, content: &'static str| {
        let url = format!("{}/api/v1/messages", server.base);
        async move {
            let response = crate::support::http()
                .post(url)
                .bearer_auth(token)
                .header("Idempotency-Key", key)
                .json(&json!({ "to": PHONE, "content": content }))
                .send()
                .await
                .unwrap();
            let replayed = response.headers().contains_key("idempotency-replayed");
            let status = response.status().as_u16();
            (status, replayed, response.json::<Value>().await.unwrap())
        }
    };
    let (status, replayed, first) = send(shop.clone(), "k1", "one").await;
    assert_eq!((status, replayed), (202, false));
    let (status, replayed, second) = send(shop.clone(), "k1", "one").await;
    assert_eq!((status, replayed), (202, true));
    assert_eq!(first, second);
    let (status, _, problem) = send(shop.clone(), "k1", "another body").await;
    assert_eq!((status, problem["code"].as_str()), (422, Some("idempotency_key_reused")));
    // The key is its user's own.
    let (status, replayed, _) = send(other, "k1", "one").await;
    assert_eq!((status, replayed), (202, false));

    // A hundred at once with one key: one effect, one answer.
    let all =
        futures_util::future::join_all((0..100).map(|_| send(shop.clone(), "k2", "at once"))).await;
    let answers: std::collections::HashSet<String> =
        all.iter().map(|(_, _, body)| body.to_string()).collect();
    assert_eq!(answers.len(), 1);
    assert!(all.iter().all(|(status, _, _)| *status == 202));
    let listed = server.api(&shop).get("/api/v1/messages").await.unwrap().body;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn requests_have_ids_and_machines_have_a_page() {
    let server = Server::start().await;
    let http = crate::support::http();
    let url = format!("{}/health", server.base);
    let response = http.get(&url).header("X-Request-Id", "abc-1").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "abc-1");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({ "status": "healthy" }), "no details for strangers");
    let response = http.get(&url).header("X-Request-Id", "a b").send().await.unwrap();
    assert_ne!(response.headers()["x-request-id"], "a b");

    let admin = server.user("admin", "Admin");
    let (_, body) = server.request("GET", "/health", Some(&admin), None).await;
    assert_eq!(body["dependencies"]["database"]["status"], "up");
    let shop = server.user("shop", "SendMessages");
    server.send(&shop, PHONE, "counted").await;
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(server.request("GET", path, None, None).await.0, 200, "{path}");
    }
    let text =
        http.get(format!("{}/metrics", server.metrics)).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("esh3ar_messages_accepted_total 1"), "{text}");
    assert!(text.contains("esh3ar_http_request_seconds_bucket"), "{text}");
    assert!(text.contains("esh3ar_messages_waiting "), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let known = esh3ar::telemetry::metrics::METRICS.iter().any(|(n, _, _)| name.starts_with(n));
        assert!(known, "{name} is not documented");
    }
    let health = http.get(format!("{}/health", server.metrics)).send().await.unwrap();
    let health: Value = health.json().await.unwrap();
    assert_eq!(health["dependencies"]["database"]["status"], "up");
}

#[tokio::test]
async fn national_numbers_are_read_by_the_default_region() {
    let server = Server::start_with(&[("ESH3AR__PHONE__DEFAULT_REGION", "YE")]).await;
    let shop = server.user("shop", "SendMessages");
    let body = json!({ "to": "771 234 567", "content": "x" });
    let id = id(&server.api(&shop).post("/api/v1/messages", &body).await.unwrap().body);
    let shown = server.api(&shop).get(&format!("/api/v1/messages/{id}")).await.unwrap().body;
    assert_eq!(shown["to"], PHONE);
}
