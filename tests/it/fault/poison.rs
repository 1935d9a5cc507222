//! One bad message among ten thousand good ones.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::{Server, acknowledge, guard::wait_until, id, next_messages, run, run_json};

const PHONE: &str = "+967771234567";
const MESSAGES: usize = 10_000;

/// The dead letters, when there are any: a message is given up after it was read.
fn given_up(server: &Server) -> Value {
    wait_until("a dead letter", || {
        let letters = run_json(&server.data(), &["dlq", "list", "--class", "content"]);
        letters.get(0).is_some().then_some(letters)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poisonous_message_among_ten_thousand_harms_none_of_the_others() {
    let server = Server::start().await;
    server.expect_error("cannot decode a stored message");
    server.expect_error("message given up");
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let mut good = Vec::new();
    for chunk in 0..MESSAGES / 500 {
        let mut items: Vec<_> = (0..500)
            .map(|n| json!({ "to": PHONE, "content": format!("{}", chunk * 500 + n) }))
            .collect();
        if chunk == 7 {
            // Postgres stores no zero character: it must not get that far.
            items[123]["content"] = json!("zero \u{0} character");
        }
        let body = json!({ "messages": items });
        let answer = server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
        for (n, result) in answer.body["results"].as_array().unwrap().iter().enumerate() {
            if chunk == 7 && n == 123 {
                assert_eq!(result["error"]["code"], "validation_failed");
            } else {
                good.push(id(result));
            }
        }
    }
    assert_eq!(good.len(), MESSAGES - 1);
    // And one that went bad where it is stored, in the middle of what waits.
    let database = server.database().await;
    let bad: uuid::Uuid = good[5000].parse().unwrap();
    database
        .batch_execute("ALTER TABLE messages DROP CONSTRAINT messages_content_type_known")
        .await
        .unwrap();
    database.execute("UPDATE messages SET content_type = 77 WHERE id = $1", &[&bad]).await.unwrap();
    let mut hub = server.hub(&phone).await;
    let mut got = Vec::new();
    while got.len() < good.len() - 1 {
        let (_, found) = next_messages(&mut hub).await;
        let ids: Vec<String> = found.iter().map(id).collect();
        acknowledge(&mut hub, &ids).await;
        got.extend(ids);
    }
    let different: HashSet<&String> = got.iter().collect();
    assert_eq!(different.len(), got.len());
    let expected: Vec<String> = good.iter().filter(|id| **id != bad.to_string()).cloned().collect();
    assert_eq!(got, expected, "in order");
    let letters = given_up(&server);
    assert_eq!(letters[0]["messageId"], json!(bad));
    assert_eq!(letters.as_array().unwrap().len(), 1);
    let explained = run(&server.data(), &["message", "explain", &bad.to_string()]);
    let text = String::from_utf8_lossy(&explained.stderr).into_owned();
    assert_eq!(explained.status.code(), Some(5), "{text}");
    assert!(
        text.contains("content type of a message") && text.contains("--class content"),
        "{text}"
    );
}

/// Whoever lists messages gets full pages of those that can be read, and is told when there are more.
#[tokio::test(flavor = "multi_thread")]
async fn pages_around_a_message_that_cannot_be_read_are_full() {
    let server = Server::start().await;
    server.expect_error("cannot decode a stored message");
    server.expect_error("message given up");
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let items: Vec<_> =
        (0..150).map(|n| json!({ "to": PHONE, "content": format!("{n}") })).collect();
    let body = json!({ "messages": items });
    let answer = server.api(&shop).post("/api/v1/messages/batch", &body).await.unwrap();
    let mut good: Vec<String> = answer.body["results"].as_array().unwrap().iter().map(id).collect();
    let bad: uuid::Uuid = good.remove(70).parse().unwrap();
    let database = server.database().await;
    database
        .batch_execute("ALTER TABLE messages DROP CONSTRAINT messages_content_type_known")
        .await
        .unwrap();
    database.execute("UPDATE messages SET content_type = 77 WHERE id = $1", &[&bad]).await.unwrap();
    let newest_first: Vec<String> = good.iter().rev().cloned().collect();
    for (token, path, expected) in
        [(&shop, "/api/v1/messages", &newest_first), (&phone, "/api/v1/messages/pending", &good)]
    {
        let api = server.api(token);
        let first = api.get(&format!("{path}?limit=100")).await.unwrap().body;
        let next = first["next"].as_str().expect("there is more");
        let second = api.get(&format!("{path}?limit=100&after={next}")).await.unwrap().body;
        let ids = |page: &Value| -> Vec<String> {
            page["items"].as_array().unwrap().iter().map(id).collect()
        };
        assert_eq!(ids(&first).len(), 100, "{path}");
        assert_eq!(&[ids(&first), ids(&second)].concat(), expected, "{path}");
        assert!(second["next"].is_null(), "{path}");
        // Reading it for its recipient gives it up; until then the hub's page is full, too.
        if token == &shop {
            let mut hub = server.hub(&phone).await;
            let (_, found) = next_messages(&mut hub).await;
            assert_eq!(found.len(), 100);
            hub.close().await;
        }
    }
    assert_eq!(given_up(&server)[0]["messageId"], json!(bad));
}
