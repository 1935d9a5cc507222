//! A page of a long conversation costs what the page costs, however long the conversation is.
//!
//! The machine that runs this may be busy, so it counts what is read and not only the time. For the
//! figure of a million messages: `esh3ar bench --history 1000000`, in a release build.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::Server;

const MESSAGES: i64 = 30_000;
const PAGES: i64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_reads_its_own_messages_and_no_others() {
    let server = Server::start().await;
    let (shop, number) = (server.user("shop", "Chat"), "+967771234567");
    let phone = server.phone(number);
    let body = json!({ "phone": number }).to_string();
    let path = "/api/v1/conversations";
    let (_, made) = server.request("POST", path, Some(&shop), Some(&body)).await;
    let id: uuid::Uuid = made["id"].as_str().unwrap().parse().unwrap();
    let database = server.database().await;
    database
        .execute(
            "INSERT INTO messages (id, type, conversation_id, seq, sender_user_id, recipient_phone,
                                   content, created_at)
             SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, $1, n,
                    c.business_user_id, c.phone, repeat('x', 200), now()
             FROM generate_series(1, $2::bigint) n, conversations c WHERE c.id = $1",
            &[&id, &MESSAGES],
        )
        .await
        .unwrap();
    database
        .execute(
            "UPDATE conversations SET last_seq = $2, unread_mobile = $2::bigint::int WHERE id = $1",
            &[&id, &MESSAGES],
        )
        .await
        .unwrap();
    let before = rows_read(&database).await;
    let mut took = Vec::new();
    for n in 0..PAGES {
        let place = (n * 7919) % MESSAGES + 1;
        let tail = match n % 3 {
            0 => String::new(),
            1 => format!("&before={place}"),
            _ => format!("&after={}", place - 1),
        };
        let path = format!("/api/v1/conversations/{id}/messages?limit=50{tail}");
        let begun = Instant::now();
        let (status, page) = server.request("GET", &path, Some(&phone), None).await;
        took.push(begun.elapsed());
        let seqs: Vec<i64> =
            page["items"].as_array().unwrap().iter().map(|m| m["seq"].as_i64().unwrap()).collect();
        let expected: Vec<i64> = match n % 3 {
            0 => (MESSAGES - 49..=MESSAGES).rev().collect(),
            1 => ((place - 50).max(1)..place).rev().collect(),
            _ => (place..(place + 50).min(MESSAGES + 1)).collect(),
        };
        assert_eq!((status, seqs), (200, expected));
    }
    took.sort_unstable();
    println!(
        "pages of 50 of {MESSAGES}: median {:?}, slowest {:?}",
        took[took.len() / 2],
        took.last()
    );
    // Backends tell what they have done about a second later. The newest pages are kept: read once.
    let deadline = Instant::now() + crate::support::DEADLINE;
    let least = PAGES / 3 * 2 * 40;
    let after = loop {
        let after = rows_read(&database).await;
        if after.1 - before.1 >= least {
            break after;
        }
        assert!(Instant::now() < deadline, "{before:?} to {after:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // The counts are the table's, so they include what tasks in the background read meanwhile: a few scans
    // and rows. Of each kind of page there are more, and a page that reads the conversation reads 30,000 rows.
    assert!(
        after.0 - before.0 < PAGES / 3,
        "read whole by a kind of page: {before:?} to {after:?}"
    );
    assert!(after.1 - before.1 <= PAGES * 100, "{} rows were read", after.1 - before.1);
    // Marking a few as read looks at those few, of the thirty thousand that this phone has not read.
    let path = format!("/api/v1/conversations/{id}/read");
    let read = async |body: serde_json::Value| {
        let answer = server.request("POST", &path, Some(&phone), Some(&body.to_string())).await;
        (
            answer.1["read"].as_i64().unwrap(),
            answer.1["conversation"]["unreadCount"].as_i64().unwrap(),
        )
    };
    let places = [3, 3, 5, 8, 13, 21, 34, 55];
    for seq in places {
        read(json!({ "upToSeq": seq })).await;
    }
    let deadline = Instant::now() + crate::support::DEADLINE;
    let few = loop {
        let few = rows_read(&database).await;
        if few.1 - after.1 >= 55 {
            break few;
        }
        assert!(Instant::now() < deadline, "{after:?} to {few:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(few.0 - after.0 < i64::try_from(places.len()).unwrap(), "{after:?} to {few:?}");
    assert!(few.1 - after.1 < MESSAGES / 6, "{after:?} to {few:?}");
    // And all at once is done in parts.
    assert_eq!(read(json!({})).await, (MESSAGES - 55, 0));
    assert_eq!(read(json!({})).await, (0, 0));
}

/// How often the table was read whole, and rows that were found by indexes.
async fn rows_read(database: &tokio_postgres::Client) -> (i64, i64) {
    let sql = "SELECT coalesce(sum(seq_scan), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint
               FROM pg_stat_user_tables WHERE relname = 'messages'";
    let row = database.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}
