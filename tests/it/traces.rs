//! Traces: one message can be followed from the request to the acknowledgement, and nothing is told of
//! it that should not be.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use esh3ar::client::HubClient;
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Server, acknowledge,
    cluster::Cluster,
    collector::{Collector, Span},
    next_messages, number, wait_for,
};

fn told(collector: &Collector) -> [(&'static str, &str); 2] {
    [("ESH3AR__TRACES__ENDPOINT", &collector.endpoint), ("ESH3AR__TRACES__SAMPLE", "1")]
}

/// Sends a message as somebody who is followed too, and gives its id.
async fn send_followed(server: &Server, token: &str, to: &str, content: &str) -> String {
    let answer: Value = server
        .http()
        .post(format!("{}/api/v1/messages", server.base))
        .bearer_auth(token)
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .json(&json!({ "to": to, "content": content, "priority": "high" }))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    answer["id"].as_str().unwrap().to_owned()
}

const WAY: [&str; 4] = ["accept", "hand over", "write", "acknowledge"];

/// The spans of a message that went all the way. A broker that confirms late on a busy machine, and a
/// recipient that has just connected, are told to read instead: such a message is written and acknowledged
/// before it is handed over, and has no span for that.
async fn spans_of_one_handed_over(
    collector: &Collector,
    server: &Server,
    token: &str,
    hub: &mut HubClient,
) -> (String, Vec<Span>) {
    for _ in 0..10 {
        let id = send_followed(server, token, &number(1), "eyes only").await;
        let (_, found) = next_messages(hub).await;
        assert_eq!(found[0]["id"], json!(id));
        assert_eq!(acknowledge(hub, std::slice::from_ref(&id)).await, 1);
        let spans = wait_for("the acknowledgement of a message", || {
            let found = collector.of(&id);
            found.iter().any(|span| span.span.name == "acknowledge").then_some(found)
        })
        .await;
        // What other processes tell of it may come later.
        let mut spans = spans;
        for _ in 0..100 {
            let of = |name: &str| spans.iter().find(|span| span.span.name == name);
            if let Some([_, handed, written, _]) = whole(WAY.map(of)) {
                if handed.span.start_time_unix_nano < written.span.end_time_unix_nano {
                    return (id, spans);
                }
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            spans = collector.of(&id);
        }
    }
    panic!("of ten messages none was handed over");
}

/// All of them, if none is missing.
fn whole<T>(parts: [Option<T>; 4]) -> Option<[T; 4]> {
    let parts: Vec<T> = parts.into_iter().flatten().collect();
    parts.try_into().ok()
}

/// Looks at the spans of a message that went all the way.
fn follow(id: &str, spans: &[Span], roles: [&str; 4]) {
    assert_eq!(spans.len(), 4, "{spans:?}");
    let named = |name: &str| spans.iter().find(|span| span.span.name == name).unwrap();
    let ids: HashSet<&[u8]> = spans.iter().map(|span| span.span.span_id.as_slice()).collect();
    assert_eq!(ids.len(), 4, "each has an id of its own");
    let [accept, handed, written, acknowledged] = WAY.map(named);
    for (name, role) in WAY.iter().zip(roles) {
        let span = named(name);
        assert_eq!(span.role, role, "{name}");
        assert_eq!(span.fact("message.id").as_deref(), Some(id));
        assert!(span.span.start_time_unix_nano <= span.span.end_time_unix_nano, "{name}");
        let parent = &span.span.parent_span_id;
        if *name == "accept" {
            assert!(parent.is_empty(), "{parent:?}");
        } else {
            assert_eq!(*parent, accept.span.span_id, "{name}");
        }
    }
    // It was handed over when it was there, written after that, acknowledged when it was written.
    assert!(accept.span.start_time_unix_nano < handed.span.start_time_unix_nano);
    assert!(accept.span.start_time_unix_nano <= written.span.start_time_unix_nano);
    assert!(handed.span.start_time_unix_nano < written.span.end_time_unix_nano);
    assert!(written.span.start_time_unix_nano < acknowledged.span.start_time_unix_nano);
    assert!(written.span.end_time_unix_nano < acknowledged.span.end_time_unix_nano);
    assert_eq!(accept.fact("esh3ar.lane").as_deref(), Some("high"));
    assert_eq!(handed.fact("esh3ar.reach").as_deref(), Some("handed"));
    assert_eq!(acknowledged.fact("esh3ar.over").as_deref(), Some("hub"));
    let link = &accept.span.links[0];
    assert_eq!(link.span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!(link.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
}

#[tokio::test]
async fn a_message_is_followed_from_the_request_to_the_acknowledgement() {
    let collector = Collector::start().await;
    let mut server = Server::start_with(&told(&collector)).await;
    let shop = server.user("shop", "SendMessages");
    let mut hub = server.hub(&server.phone(&number(1))).await;
    let (id, spans) = spans_of_one_handed_over(&collector, &server, &shop, &mut hub).await;
    let roles = match crate::support::in_cluster() {
        true => ["gateway", "worker", "gateway", "gateway"],
        false => ["serve"; 4],
    };
    follow(&id, &spans, roles);
    let who = server.run_json(&["user", "list"]);
    let accept = &collector.of(&id)[0];
    assert_eq!(accept.fact("esh3ar.business_user"), who[0]["id"].as_str().map(str::to_owned));

    // What was noted last is told before the process is gone.
    let last = server.send(&shop, &number(2), "eyes only").await;
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(collector.of(&last)[0].span.name, "accept");
    for secret in ["eyes only", &number(1), &number(2), &number(1)[1..]] {
        assert!(!collector.has_heard(secret), "{secret} is nobody's business");
    }
}

#[tokio::test]
async fn what_is_tried_again_and_given_up_is_followed_too() {
    let collector = Collector::start().await;
    let [endpoint, sample] = told(&collector);
    let hasty = [
        endpoint,
        sample,
        ("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "300ms"),
        ("ESH3AR__RETRY__BASE", "100ms"),
        ("ESH3AR__RETRY__ATTEMPTS", "1"),
    ];
    let server = Server::start_with(&hasty).await;
    let shop = server.user("shop", "SendMessages");
    let mut hub = server.hub(&server.phone(&number(1))).await;
    let id = server.send(&shop, &number(1), "not acknowledged").await;
    next_messages(&mut hub).await;
    let spans = wait_for("the end of a message", || {
        let found = collector.of(&id);
        found.iter().any(|span| span.span.name == "dead letter").then_some(found)
    })
    .await;
    let names: Vec<&str> = spans.iter().map(|span| span.span.name.as_str()).collect();
    assert_eq!(names.iter().filter(|name| **name == "retry").count(), 1, "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "write").count(), 2, "{names:?}");
    assert_eq!(names.last(), Some(&"dead letter"));
    let retry = spans.iter().find(|span| span.span.name == "retry").unwrap();
    assert_eq!(retry.fact("esh3ar.retry_count").as_deref(), Some("1"));
    assert_eq!(retry.fact("esh3ar.after_ms").as_deref(), Some("100"));
}

/// Without the key, and of messages that are not in the sample, nothing is told; and a collector that is
/// away is no reason to be late.
#[tokio::test]
async fn who_is_not_asked_tells_nothing_and_a_collector_that_is_away_holds_nobody_up() {
    let collector = Collector::start().await;
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let mut server = server;
    server.send(&shop, &number(1), "x").await;
    assert_eq!(server.stop().await, Some(0));
    server.set("ESH3AR__TRACES__ENDPOINT", Some(&collector.endpoint));
    server.set("ESH3AR__TRACES__SAMPLE", Some("0"));
    server.launch().await;
    server.send(&shop, &number(1), "x").await;
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(collector.count(), 0);

    server.set("ESH3AR__TRACES__ENDPOINT", Some("http://127.0.0.1:1"));
    server.set("ESH3AR__TRACES__SAMPLE", Some("1"));
    server.launch().await;
    let failed = "esh3ar_trace_spans_total{result=\"failed\"}";
    let deadline = Instant::now() + DEADLINE;
    // More than one request, of which the log tells once.
    let mut lost = 0.0;
    for _ in 0..3 {
        server.send(&shop, &number(1), "x").await;
        while server.metric(failed).await <= lost {
            assert!(Instant::now() < deadline, "{}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        lost = server.metric(failed).await;
    }
    let said = server.log().matches("trace export failed").count();
    assert_eq!(said, 1, "{}", server.log());
    assert_eq!(server.stop().await, Some(0));
}

/// Nothing travels with the message: the worker knows by its id alone.
#[tokio::test]
async fn each_process_of_a_cluster_tells_of_its_own_part() {
    let collector = Collector::start().await;
    let Some(cluster) = Cluster::start_with(2, 1, &told(&collector)).await else { return };
    cluster.settled().await;
    let [near, far] = &cluster.gateways[..] else { panic!("two gateways") };
    let shop = near.user("shop", "SendMessages");
    let mut hub = far.hub(&far.phone(&number(1))).await;
    let (id, spans) = spans_of_one_handed_over(&collector, near, &shop, &mut hub).await;
    follow(&id, &spans, ["gateway", "worker", "gateway", "gateway"]);
}
