//! The store's guards: what comes twice or too late changes nothing (docs/DELIVERY.md, I4 and I7).

use std::time::Duration;

use esh3ar::{
    domain::{
        ConversationId, DeadLetterClass, MessageId, Party, Phone, conversation::Side,
        feed::DeliveryAttempt, message::MessageDraft,
    },
    store::{
        Client, Statements as _, Store,
        chat::{self, AppendResult, NewChat},
        message_status::{self, GivenUp, Missed, Receipt, WrittenAt},
        messages::{self, MessageFilter},
    },
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::support::{DEADLINE, Server, run_json};

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

    fn attempt(&self) -> DeliveryAttempt {
        DeliveryAttempt { id: self.id, position: None, generation: 0, retry_count: 0 }
    }

    async fn acknowledge(&self) -> usize {
        let by = Phone::parse(PHONE, None).unwrap();
        let word = Receipt { id: self.id, by: Party::Mobile(by), at: now(), written_at: None };
        message_status::acknowledge(&self.client, &[word]).await.unwrap().len()
    }

    async fn mark_sent(&self, attempt: DeliveryAttempt, lost: Option<&'static str>) -> usize {
        let written = WrittenAt { attempt, at: now(), lost };
        message_status::mark_sent(&self.client, &[written], now()).await.unwrap().len()
    }

    async fn retry(&self, attempt: DeliveryAttempt) -> u64 {
        let missed = Missed {
            attempt,
            written_at: now(),
            at: now(),
            retry_count: attempt.retry_count + 1,
            next_attempt_at: now() + Duration::from_secs(3600),
        };
        message_status::retry(&self.client, &[missed]).await.unwrap().len() as u64
    }

    async fn give_up(&self, attempt: DeliveryAttempt) -> usize {
        let (dead_letter, at) = (Uuid::now_v7(), now());
        let given_up = GivenUp { dead_letter, attempt, written_at: at, at };
        let class = DeadLetterClass::Recipient;
        message_status::give_up(&self.client, &[given_up], "nobody there", class)
            .await
            .unwrap()
            .len()
    }

    /// Until nothing is due for the message any more.
    async fn parked(&self) {
        let database = self.server.database().await;
        let deadline = std::time::Instant::now() + DEADLINE;
        let sql = "SELECT next_attempt_at IS NULL FROM messages WHERE id = $1";
        while !database.query_one(sql, &[&self.id.0]).await.unwrap().get::<_, bool>(0) {
            assert!(std::time::Instant::now() < deadline, "it is never parked");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
    assert_eq!(message_status::park(&stored.client, &[stored.id]).await.unwrap(), 0);
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
    assert_eq!(
        message_status::park(&stored.client, &[stored.id]).await.unwrap(),
        0,
        "a retry is due"
    );
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
    // The server itself parks it again, because its recipient is offline.
    stored.parked().await;
    let before = stored.row().await;
    assert_eq!(stored.mark_sent(earlier, Some("silent")).await, 0);
    assert_eq!(stored.retry(earlier).await, 0);
    assert_eq!(stored.give_up(earlier).await, 0);
    assert_eq!(stored.row().await, before);
}

/// The only value that a query gives.
async fn value(client: &Client, query: &str) -> String {
    let answer = client.simple_query(query).await.unwrap();
    let value = answer.iter().find_map(|part| match part {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    value.unwrap().to_owned()
}

/// Ids that an import kept are in no order of time, and whatever they are, a list of long ago reads no more than
/// it shows.
#[tokio::test]
async fn a_list_of_a_period_reads_no_more_than_it_shows() {
    let stored = Stored::new().await;
    let rows = "
        INSERT INTO messages (id, sender_user_id, recipient_phone, content, status, priority, partition,
                              created_at)
        SELECT gen_random_uuid(), (SELECT id FROM business_users LIMIT 1), '+967770000001', n::text,
               CASE WHEN n % 5 = 0 THEN 0 ELSE 2 END, 1, 0, now() - n * interval '1 minute'
        FROM generate_series(1, 20000) n";
    stored.client.batch_execute(rows).await.unwrap();
    stored.client.batch_execute("ANALYZE messages").await.unwrap();
    let contents = async |filter: &MessageFilter| -> Vec<String> {
        let found = messages::list(&stored.client, filter, 50).await.unwrap().unwrap();
        found.items.iter().map(|message| message.content.clone()).collect()
    };
    let read = async || {
        let sql = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
                   WHERE relname = 'messages'";
        value(&stored.client, sql).await.parse::<i64>().unwrap()
    };
    let minutes = |n: i64| now() - time::Duration::minutes(n) - time::Duration::seconds(30);
    let wanted: Vec<String> = (15_001..=15_050).map(|n: u32| n.to_string()).collect();
    let next: Vec<String> = (15_051..=15_100).map(|n: u32| n.to_string()).collect();
    for status in [None, Some(esh3ar::domain::Status::Delivered)] {
        stored.client.batch_execute("BEGIN").await.unwrap();
        let mut filter =
            MessageFilter { until: Some(minutes(15_000)), status, ..MessageFilter::default() };
        let before = read().await;
        let first = contents(&filter).await;
        let seen = read().await - before;
        assert!(seen <= 400, "{seen} rows were read for 50");
        if status.is_none() {
            assert_eq!(first, wanted);
            let id = format!("SELECT id FROM messages WHERE content = '{}'", first[49]);
            let last = value(&stored.client, &id).await.parse().unwrap();
            filter.before = Some(MessageId(last));
            assert_eq!(contents(&filter).await, next, "and so is the next page");
            filter = MessageFilter {
                since: filter.until,
                after: filter.before,
                ..MessageFilter::default()
            };
            assert_eq!(contents(&filter).await.last().map(String::as_str), Some("14951"));
        } else {
            assert!(first.iter().all(|n| n.parse::<u32>().unwrap() % 5 != 0), "{first:?}");
        }
        stored.client.batch_execute("ROLLBACK").await.unwrap();
    }
    // Of the last minutes too, past all that an import brought.
    stored.client.batch_execute("BEGIN").await.unwrap();
    let filter = MessageFilter { since: Some(minutes(3)), ..MessageFilter::default() };
    let before = read().await;
    assert_eq!(contents(&filter).await, ["hello", "1", "2", "3"]);
    let seen = read().await - before;
    assert!(seen <= 400, "{seen} rows were read for 4");
}

/// A process that repeats a chat message looks whether its first attempt was stored after all. The id that it gave there may
/// be another message's by now, if that attempt was rolled back.
#[tokio::test]
async fn a_repeated_chat_message_is_not_taken_for_another_with_its_id() {
    let server = Server::start().await;
    let shop = server.user("shop", "Chat");
    server.phone(PHONE);
    let body = serde_json::json!({ "phone": PHONE }).to_string();
    let (_, opened) =
        server.request("POST", "/api/v1/conversations", Some(&shop), Some(&body)).await;
    let conversation = ConversationId(opened["id"].as_str().unwrap().parse().unwrap());
    let mut client = Store::new(server.database_config(), 2).unwrap().client().await.unwrap();
    let new = |side, content: &str| NewChat {
        id: MessageId(Uuid::now_v7()),
        conversation,
        side,
        draft: MessageDraft { content: content.to_owned(), ..MessageDraft::default() },
        client_message_id: None,
        flags: Vec::new(),
        created_at: now(),
    };
    let mut append = async |new: &NewChat, earlier: Option<MessageId>| {
        let batch = std::slice::from_ref(new);
        let done = chat::append(&mut client, batch, &mut [earlier], |_| None).await.unwrap();
        done.messages.into_iter().next().unwrap()
    };
    let theirs = new(Side::Mobile, "theirs");
    let AppendResult::New(stored) = append(&theirs, None).await else { panic!("it is new") };
    // Committed and not heard of: it is the same.
    let AppendResult::Before(same) = append(&theirs, Some(stored.id)).await else {
        panic!("it was there")
    };
    assert_eq!(same.id, stored.id);
    // Of the other side, and of the same side at another moment: each is a message of its own.
    for (side, content) in [(Side::Business, "ours"), (Side::Mobile, "a second one")] {
        let AppendResult::New(message) = append(&new(side, content), Some(stored.id)).await else {
            panic!("'{content}' was taken for another message")
        };
        assert_eq!(message.content, content);
    }
}
