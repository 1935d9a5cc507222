//! The properties of the specification, on the running system: random histories of messages, each
//! looked at after every step.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::support::{Server, acknowledge, id, next_messages, number};

#[derive(Clone, Copy, Debug)]
enum Step {
    Delivered,
    Read,
    AcknowledgeBatch,
    AcknowledgeOnTheHub,
    MarkReadOnTheHub,
    ByAStranger,
}

const STEPS: [Step; 6] = [
    Step::Delivered,
    Step::Read,
    Step::AcknowledgeBatch,
    Step::AcknowledgeOnTheHub,
    Step::MarkReadOnTheHub,
    Step::ByAStranger,
];

fn rank(status: &str) -> usize {
    ["pending", "sent", "delivered", "read"].iter().position(|s| *s == status).unwrap()
}

struct World {
    server: Server,
    shop: String,
    phone: String,
    stranger: String,
}

impl World {
    async fn look(&self, id: &str) -> Value {
        let path = format!("/api/v1/messages/{id}");
        self.server.api(&self.shop).get(&path).await.unwrap().body
    }

    /// One message, sent while its recipient is away, through a history.
    async fn live(&self, content: String, priority: &str, steps: &[Step]) {
        let server = &self.server;
        let body = json!({ "to": number(0), "content": content, "priority": priority });
        let sent = server.api(&self.shop).post("/api/v1/messages", &body).await.unwrap();
        let message = id(&sent.body);
        let mut before = self.look(&message).await;
        // Property 14: for who is offline it is stored and pending.
        assert_eq!(before["status"], "pending");
        let mut hub = server.hub(&self.phone).await;
        // … and it comes on the next connect.
        let (page, found) = next_messages(&mut hub).await;
        assert!(page);
        assert_eq!(found.len(), 1);
        assert_eq!(id(&found[0]), message);
        assert_eq!(found[0]["content"], json!(content));
        for step in steps {
            let phone = server.api(&self.phone);
            let ids = json!([message]);
            match step {
                Step::Delivered => {
                    let path = format!("/api/v1/messages/{message}/delivered");
                    phone.post(&path, &Value::Null).await.unwrap();
                }
                Step::Read => {
                    let path = format!("/api/v1/messages/{message}/read");
                    phone.post(&path, &Value::Null).await.unwrap();
                }
                Step::AcknowledgeBatch => {
                    let body = json!({ "ids": ids });
                    phone.post("/api/v1/messages/acknowledge", &body).await.unwrap();
                }
                Step::AcknowledgeOnTheHub => {
                    acknowledge(&mut hub, std::slice::from_ref(&message)).await;
                }
                Step::MarkReadOnTheHub => {
                    let argument = json!({ "messageIds": ids });
                    let patience = crate::support::DEADLINE;
                    hub.call("MarkRead", vec![argument], patience).await.unwrap();
                }
                Step::ByAStranger => {
                    let body = json!({ "ids": ids });
                    let stranger = server.api(&self.stranger);
                    stranger.post("/api/v1/messages/acknowledge", &body).await.unwrap();
                }
            }
            let after = self.look(&message).await;
            let status = |seen: &Value| rank(seen["status"].as_str().unwrap());
            // Property 3: only forward, with the time of every step that was passed.
            assert!(status(&after) >= status(&before), "{step:?}: {before} → {after}");
            for (name, at) in [("sentAt", 1), ("deliveredAt", 2), ("readAt", 3)] {
                assert_eq!(after[name].is_string(), status(&after) >= at, "{step:?}: {after}");
                if before[name].is_string() {
                    assert_eq!(before[name], after[name], "a step was taken twice: {step:?}");
                }
            }
            // Property 1: one-way exactly without a conversation.
            assert_eq!(after["type"], "oneWay");
            assert!(after.get("conversationId").is_none());
            let wanted = match step {
                Step::Read | Step::MarkReadOnTheHub => 3,
                Step::ByAStranger => 0,
                _ => 2,
            };
            assert!(status(&after) >= wanted, "{step:?}: {after}");
            before = after;
        }
        // Property 8: a word more changes nothing.
        acknowledge(&mut hub, std::slice::from_ref(&message)).await;
        let settled = self.look(&message).await;
        assert_eq!(acknowledge(&mut hub, std::slice::from_ref(&message)).await, 0);
        assert_eq!(self.look(&message).await, settled);
        hub.close().await;
    }
}

/// **Feature: enhanced-messaging-system, Property 1: Message Type Consistency**
/// **Feature: enhanced-messaging-system, Property 3: Message Status Progression**
/// **Feature: enhanced-messaging-system, Property 8: Message Delivery Idempotency**
/// **Feature: enhanced-messaging-system, Property 14: Offline Message Queuing**
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_of_a_message_keeps_the_properties() {
    let server = Server::start().await;
    let world = World {
        shop: server.user("shop", "SendMessages"),
        phone: server.phone(&number(0)),
        stranger: server.phone(&number(1)),
        server,
    };
    let handle = Handle::current();
    tokio::task::block_in_place(|| {
        let mut runner =
            TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
        let histories = (
            "[^\u{0}-\u{8}\u{b}\u{c}\u{e}-\u{1f}]{1,40}",
            prop::sample::select(&["low", "normal", "high"][..]),
            prop::collection::vec(prop::sample::select(&STEPS[..]), 0..6),
        );
        let result = runner.run(&histories, |(content, priority, steps)| {
            handle.block_on(async {
                // The last connection of the case before must be gone, or this one is not offline.
                gone(&world).await;
                world.live(content, priority, &steps).await;
            });
            Ok(())
        });
        result.unwrap();
    });
}

async fn gone(world: &World) {
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    loop {
        let url = format!("{}/metrics", world.server.metrics);
        let text = crate::support::get(url).await.unwrap().text().await.unwrap();
        if text.contains("esh3ar_connections 0") {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "a connection stays");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
