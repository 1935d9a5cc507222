//! The store's guards: what comes twice or too late changes nothing (delivery.md, I4 and I8).

use std::time::Duration;

use esh3ar::{
    domain::{MessageId, Party, Phone, feed::Attempt},
    store::{
        Client, Store,
        outcome::{self, GivenUp, Missed, Word, WrittenAt},
    },
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::support::{Server, run_json};

const PHONE: &str = "+967771234567";

struct Stored {
    server: Server,
    client: Client,
    id: MessageId,
}

impl Stored {
    async fn new() -> Stored {
        let server = Server::start().await;
        let shop = server.user("shop", "SendMessages");
        let sent = server.send(&shop, PHONE, "hello").await;
        let config = server.database_config();
        let client = Store::new(config, 2).unwrap().client().await.unwrap();
        Stored { server, client, id: MessageId(sent.parse().unwrap()) }
    }

    fn attempt(&self) -> Attempt {
        Attempt { id: self.id, place: None, generation: 0, retry_count: 0 }
    }

    async fn acknowledge(&self) -> usize {
        let by = Phone::parse(PHONE, None).unwrap();
        let word = Word { id: self.id, by: Party::Mobile(by), at: now(), written_at: None };
        outcome::acknowledge(&self.client, &[word]).await.unwrap().len()
    }

    async fn mark_sent(&self, attempt: Attempt, lost: Option<&'static str>) -> usize {
        let written = WrittenAt { attempt, at: now(), lost };
        outcome::mark_sent(&self.client, &[written], now()).await.unwrap().len()
    }

    async fn retry(&self, attempt: Attempt) -> u64 {
        let missed = Missed {
            attempt,
            written_at: now(),
            at: now(),
            retry_count: attempt.retry_count + 1,
            next_attempt_at: now() + Duration::from_secs(3600),
        };
        outcome::retry(&self.client, &[missed]).await.unwrap()
    }

    async fn give_up(&self, attempt: Attempt) -> usize {
        let (dead_letter, at) = (Uuid::now_v7(), now());
        let given_up = GivenUp { dead_letter, attempt, written_at: at, at };
        outcome::give_up(&self.client, &[given_up], "nobody there").await.unwrap().len()
    }

    /// All that the row and its surroundings say.
    async fn row(&self) -> String {
        self.server
            .database()
            .await
            .query_one(
                "SELECT m::text || ' / ' ||
                        (SELECT count(*) FROM dead_letters WHERE message_id = m.id) || ' / ' ||
                        (SELECT count(*) FROM delivery_events WHERE message_id = m.id)
                 FROM messages m WHERE id = $1",
                &[&self.id.0],
            )
            .await
            .unwrap()
            .get(0)
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

#[tokio::test]
async fn nothing_moves_a_delivered_message_back() {
    let stored = Stored::new().await;
    assert_eq!(stored.acknowledge().await, 1);
    let before = stored.row().await;
    let attempt = stored.attempt();
    assert_eq!(stored.acknowledge().await, 0, "said twice");
    assert_eq!(stored.mark_sent(attempt, None).await, 0, "a late word of the writer");
    assert_eq!(stored.mark_sent(attempt, Some("silent")).await, 0, "its connection ended");
    assert_eq!(stored.retry(attempt).await, 0, "missed by another connection");
    assert_eq!(stored.give_up(attempt).await, 0, "given up by another connection");
    assert_eq!(outcome::park(&stored.client, &[stored.id]).await.unwrap(), 0);
    assert_eq!(stored.row().await, before);
}

#[tokio::test]
async fn two_connections_that_miss_the_same_attempt_count_it_once() {
    let stored = Stored::new().await;
    let attempt = stored.attempt();
    assert_eq!(stored.retry(attempt).await, 1);
    let before = stored.row().await;
    assert_eq!(stored.retry(attempt).await, 0);
    assert_eq!(stored.give_up(attempt).await, 0, "one of them thought that it was the last");
    assert_eq!(outcome::park(&stored.client, &[stored.id]).await.unwrap(), 0, "a retry is due");
    assert_eq!(stored.row().await, before);
}

#[tokio::test]
async fn what_is_said_of_an_earlier_generation_changes_nothing() {
    let stored = Stored::new().await;
    let earlier = stored.attempt();
    assert_eq!(stored.give_up(earlier).await, 1);
    let letters = run_json(&stored.server.data(), &["dlq", "list"]);
    let letter = letters[0]["id"].as_str().unwrap().to_owned();
    run_json(&stored.server.data(), &["dlq", "requeue", &letter]);
    let before = stored.row().await;
    assert_eq!(stored.mark_sent(earlier, Some("silent")).await, 0);
    assert_eq!(stored.retry(earlier).await, 0);
    assert_eq!(stored.give_up(earlier).await, 0);
    assert_eq!(stored.row().await, before);
}
