//! One party that sends or reads as fast as it can does not delay the others.

use std::{
    convert::Infallible,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use esh3ar::{
    domain::{Status, UserId},
    store::{MAX_SCANNED_ROWS, Statements as _, Store, messages},
};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{quantile, sends_during, sink};
use crate::support::{DEADLINE, Server};

const PHONE: &str = "+967771234567";
/// What a machine that others use as well may add to a latency.
const NOISE: Duration = Duration::from_secs(1);

/// 500 messages, as the body of one request.
fn batch() -> String {
    let message = |n: usize| json!({ "to": format!("+96777{n:07}"), "content": "one of many" });
    json!({ "messages": (0..500).map(message).collect::<Vec<Value>>() }).to_string()
}

async fn post(server: &Server, token: &str, path: &str, body: String) -> u16 {
    post_to(&server.base, server, token, path, body).await
}

async fn post_to(base: &str, server: &Server, token: &str, path: &str, body: String) -> u16 {
    let request = server
        .http()
        .post(format!("{base}{path}"))
        .bearer_auth(token)
        .header("content-type", "application/json")
        .body(body);
    request.send().await.unwrap().status().as_u16()
}

/// Looks until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Repeats a step in so many places at once until the future is done.
async fn while_repeated<T>(
    places: usize,
    step: impl AsyncFn(),
    until: impl Future<Output = T>,
) -> T {
    async fn repeat(step: &impl AsyncFn()) -> Infallible {
        loop {
            step().await;
        }
    }
    let repeated = join_all((0..places).map(|_| repeat(&step)));
    tokio::select! {
        done = until => done,
        _ = repeated => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn a_message_is_stored_before_the_batches_of_another_business_that_wait() {
    const BATCHES: usize = 16;
    let server = Server::start().await;
    let [busy, quiet] = ["busy", "quiet"].map(|name| server.user(name, "SendMessages"));
    let body = batch();
    assert_eq!(post(&server, &busy, "/api/v1/messages/batch", body.clone()).await, 200);

    // While nothing can be stored, the batches of one business queue up, and then comes the message of another.
    let database = server.database().await;
    database.batch_execute("BEGIN; LOCK TABLE messages IN SHARE MODE").await.unwrap();
    let stored = AtomicUsize::new(0);
    let waiting = async |least: usize| {
        until("requests wait", async || {
            server.metric("esh3ar_deliveries_in_hand").await >= least as f64
        })
        .await;
    };
    let batches = join_all((0..BATCHES).map(|_| async {
        assert_eq!(post(&server, &busy, "/api/v1/messages/batch", body.clone()).await, 200);
        stored.fetch_add(1, Ordering::SeqCst);
    }));
    let send = async {
        // One of them is being stored.
        waiting(BATCHES - 1).await;
        let message = json!({ "to": PHONE, "content": "a code" }).to_string();
        assert_eq!(post(&server, &quiet, "/api/v1/messages", message).await, 202);
        stored.load(Ordering::SeqCst)
    };
    let release = async {
        waiting(BATCHES).await;
        database.batch_execute("ROLLBACK").await.unwrap();
    };
    let (_, before, ()) = tokio::join!(batches, send, release);
    assert!(before <= BATCHES / 4, "{before} batches of {BATCHES} were stored first");
    assert_eq!(stored.load(Ordering::SeqCst), BATCHES);
}

#[tokio::test]
async fn a_quiet_sender_stays_quick_while_another_sends_as_fast_as_it_can() {
    let server = Server::start().await;
    let [busy, quiet] = ["busy", "quiet"].map(|name| server.user(name, "SendMessages"));
    let a_while = || tokio::time::sleep(Duration::from_secs(2));
    let (idle, ()) = sends_during(&server, &quiet, PHONE, a_while()).await;
    let (body, sent) = (batch(), AtomicUsize::new(0));
    // The same generator against a server that stores nothing.
    let sink = sink().await;
    let spared = async || {
        post_to(&sink, &server, &busy, "/", body.clone()).await;
    };
    let (control, ()) =
        while_repeated(16, spared, sends_during(&server, &quiet, PHONE, a_while())).await;
    let step = async || {
        let status = post(&server, &busy, "/api/v1/messages/batch", body.clone()).await;
        assert!(matches!(status, 200 | 503), "{status}");
        sent.fetch_add(usize::from(status == 200), Ordering::Relaxed);
    };
    let (attacked, ()) =
        while_repeated(16, step, sends_during(&server, &quiet, PHONE, a_while())).await;
    let [idle, control, attacked] =
        [idle, control, attacked].map(|took| [quantile(&took, 0.5), quantile(&took, 0.99)]);
    println!(
        "p50 and p99 idle {idle:?}, control {control:?}, attacked {attacked:?}, beside {sent:?} batches"
    );
    assert!(sent.load(Ordering::Relaxed) > 0);
    let usual = idle[1].max(control[1]);
    assert!(attacked[1] <= usual * 3 + NOISE, "{attacked:?} after {idle:?}, {control:?}");
}

/// Rows of a business, all but the oldest delivered, in the order of their numbers.
async fn fill(server: &Server, user: &str, rows: usize) {
    let sql = format!(
        "INSERT INTO messages (id, sender_user_id, recipient_phone, content, status, created_at, sent_at,
                               delivered_at, read_at)
         SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, u.id, '{PHONE}',
                n::text, CASE n WHEN 1 THEN 3 ELSE 2 END, t.at, t.at, t.at, CASE n WHEN 1 THEN t.at END
         FROM generate_series(1, {rows}) AS n, business_users u,
              (SELECT now() - interval '1 hour' AS at) AS t
         WHERE u.name = '{user}'"
    );
    let database = server.database().await;
    database.batch_execute(&sql).await.unwrap();
    database.batch_execute("VACUUM ANALYZE messages").await.unwrap();
}

#[tokio::test]
async fn a_list_of_few_among_many_looks_at_so_many_rows_a_page_and_ends() {
    const ROWS: usize = 45_000;
    let server = Server::start().await;
    let [busy, quiet] = ["busy", "quiet"].map(|name| server.user(name, "Chat,SendMessages"));
    fill(&server, "busy", ROWS).await;

    // How many rows one page reads.
    let client = Store::new(server.database_config(), 2).unwrap().client().await.unwrap();
    let looked = "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
                  FROM pg_stat_xact_user_tables WHERE relname = 'messages'";
    let id = "SELECT id::text FROM business_users WHERE name = 'busy'";
    let value = async |sql: &str| {
        let rows = client.simple_query(sql).await.unwrap();
        rows.into_iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    };
    let sender = UserId(value(id).await.unwrap().parse().unwrap());
    let filter = messages::MessageFilter {
        sender: Some(sender),
        status: Some(Status::Failed),
        ..messages::MessageFilter::default()
    };
    client.batch_execute("BEGIN").await.unwrap();
    let found = messages::list(&client, &filter, 50).await.unwrap().unwrap();
    let seen: usize = value(looked).await.unwrap().parse().unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(found.items.is_empty() && found.cut.is_some(), "{found:?}");
    assert!(seen <= 2 * MAX_SCANNED_ROWS + 1000, "{seen} rows were read for a page");

    // The walk ends, and finds the only one.
    let walk = async |token: &str, filter: &str| {
        let (mut pages, mut found, mut after) = (0, Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/messages?{filter}&limit=20{after}");
            let (status, page) = server.request("GET", &path, Some(token), None).await;
            assert_eq!(status, 200, "{page}");
            found.extend(
                page["items"].as_array().unwrap().iter().map(|item| item["content"].clone()),
            );
            pages += 1;
            let Some(next) = page["next"].as_str() else { return (pages, found) };
            assert!(pages <= 10, "it does not end");
            after = format!("&after={next}");
        }
    };
    assert_eq!(walk(&busy, "status=read").await, (5, vec![json!("1")]));
    assert_eq!(walk(&busy, "type=chat").await, (5, vec![]));
    let phone = server.phone(PHONE);
    assert_eq!(walk(&phone, "status=read").await, (5, vec![json!("1")]));
    assert_eq!(walk(&quiet, "status=read").await, (1, vec![]));

    // And beside 32 of them others send.
    let step = async || {
        let path = "/api/v1/messages?status=failed&limit=100";
        let (status, page) = server.request("GET", path, Some(&busy), None).await;
        assert!(matches!(status, 200 | 503), "{page}");
    };
    let a_while = || tokio::time::sleep(Duration::from_secs(1));
    let (idle, ()) = sends_during(&server, &quiet, PHONE, a_while()).await;
    let (attacked, ()) =
        while_repeated(32, step, sends_during(&server, &quiet, PHONE, a_while())).await;
    let (idle, attacked) = (quantile(&idle, 0.99), quantile(&attacked, 0.99));
    println!("p99 idle {idle:?}, beside 32 lists {attacked:?}");
    assert!(attacked <= idle * 3 + NOISE, "{attacked:?} after {idle:?}");
}

#[tokio::test]
async fn reads_of_one_business_take_a_part_of_the_connections() {
    const WAITING: usize = 256;
    let server = Server::start().await;
    let [busy, other] = ["busy", "other"].map(|name| server.user(name, "Chat,SendMessages"));
    for sender in [&busy, &other] {
        // What sends ask for the first time only is not behind the lock.
        server.send(sender, PHONE, "before").await;
    }
    // Until the lock is gone, who reads conversations holds a connection.
    let database = server.database().await;
    database
        .batch_execute("BEGIN; LOCK TABLE conversation_lists IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let statuses = Mutex::new(Vec::new());
    let list = async |token: &str| {
        let path = "/api/v1/conversations?limit=5";
        let (status, _) = server.request("GET", path, Some(token), None).await;
        statuses.lock().unwrap().push(status);
        status
    };
    let watch = server.database().await;
    let held = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND query LIKE '%conversation_lists%'";
        watch.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    let attack = join_all((0..2 + WAITING + 10).map(|_| list(&busy)));
    let check = async {
        // Those past the bound are refused at once, while the others wait.
        until("some are refused", async || statuses.lock().unwrap().len() >= 10).await;
        let refused = statuses.lock().unwrap().clone();
        assert!(refused.iter().all(|status| [429, 503].contains(status)), "{refused:?}");
        until("two of its reads wait for the lock", async || held().await == 2).await;
        let begun = Instant::now();
        server.send(&busy, PHONE, "its own messages").await;
        server.send(&other, PHONE, "and those of others").await;
        let (status, _) = server.request("GET", "/api/v1/messages", Some(&other), None).await;
        assert_eq!(status, 200);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        database.batch_execute("ROLLBACK").await.unwrap();
    };
    let (answers, ()) = tokio::join!(attack, check);
    let count = |wanted: u16| answers.iter().filter(|status| **status == wanted).count();
    let told = count(200) + count(429) + count(503);
    assert!(count(200) >= 2 && told == answers.len(), "{answers:?}");
}

#[tokio::test]
async fn reconnects_of_one_business_delay_nobody_elses_message() {
    let server = Server::start().await;
    let busy = server.user("busy", "SendMessages");
    let quiet = server.user("quiet", "SendMessages");
    let connects = AtomicUsize::new(0);
    let step = async || {
        if let Ok(hub) = esh3ar::client::HubClient::connect(&server.base, &busy).await {
            connects.fetch_add(1, Ordering::Relaxed);
            drop(hub);
        } else {
            // It has connected as often as it may for now.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let a_while = || tokio::time::sleep(Duration::from_secs(2));
    let (idle, ()) = sends_during(&server, &quiet, PHONE, a_while()).await;
    let (attacked, ()) =
        while_repeated(16, step, sends_during(&server, &quiet, PHONE, a_while())).await;
    let (idle, attacked) = (quantile(&idle, 0.99), quantile(&attacked, 0.99));
    println!("p99 idle {idle:?}, beside {connects:?} connects {attacked:?}");
    assert!(connects.load(Ordering::Relaxed) > 0);
    assert!(attacked <= idle * 3 + NOISE, "{attacked:?} after {idle:?}");
}
