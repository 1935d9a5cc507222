//! The schema: from the existing one-way system's rows to both modes, and never back.

use esh3ar::{
    domain::Party,
    store::{Statements as _, Store, migrate},
};
use serde_json::json;

use crate::support::{Server, connect, run, run_json};

/// The way to a database on the server's own Postgres.
fn config(server: &Server, name: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(server.data().join("run")).user("esh3ar").dbname(name);
    config
}

/// A second, empty database there.
async fn empty_database(server: &Server, name: &str) -> Store {
    server.database().await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    Store::new(config(server, name), 4).unwrap()
}

#[tokio::test]
async fn rows_of_the_one_way_system_survive_and_read_as_one_way() {
    let server = Server::start().await;
    let store = empty_database(&server, "old").await;
    let mut client = store.client().await.unwrap();
    assert_eq!(migrate::run(&mut client, Some(1)).await.unwrap(), [1]);
    client
        .batch_execute(
            "INSERT INTO business_users (id, name, phone) VALUES
                 ('00000000-0000-0000-0000-000000000001', 'Old shop', '967700000001');
             INSERT INTO mobile_users (id, mobile_number, status) VALUES
                 ('00000000-0000-0000-0000-000000000002', '967771234567', 1);
             INSERT INTO messages (id, recipient_phone_number, subject, message_content, status,
                                   priority, creator_id, creation_time)
             SELECT ('00000000-0000-0000-0000-00000000010' || n)::uuid, '967771234567',
                    'subject ' || n, 'content ' || n, n, 1 + n % 4,
                    '00000000-0000-0000-0000-000000000001', '2024-12-20T10:00:00Z'
             FROM generate_series(0, 5) AS n;",
        )
        .await
        .unwrap();
    let rest: Vec<i32> = migrate::MIGRATIONS.iter().skip(1).map(|step| step.version).collect();
    assert_eq!(migrate::run(&mut client, None).await.unwrap(), rest);
    assert!(migrate::run(&mut client, None).await.unwrap().is_empty(), "twice is once");

    let rows = connect(&config(&server, "old"))
        .await
        .query(
            "SELECT content, status, priority, type, conversation_id, recipient_phone, generation
             FROM messages ORDER BY id",
            &[],
        )
        .await
        .unwrap();
    let read: Vec<(String, i16, i16)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let wanted = [(0, 0), (1, 1), (2, 2), (3, 2), (0, 0), (4, 1)];
    for (n, (status, priority)) in wanted.iter().enumerate() {
        assert_eq!(read[n], (format!("content {n}"), *status, *priority));
        assert_eq!(rows[n].get::<_, i16>(3), 0, "one-way");
        assert_eq!(rows[n].get::<_, Option<uuid::Uuid>>(4), None);
        assert_eq!(rows[n].get::<_, &str>(5), "+967771234567");
    }
    // And they are read by the same code as new ones.
    let filter = esh3ar::store::messages::MessageFilter::default();
    let found = esh3ar::store::messages::list(&client, &filter, 10).await.unwrap().unwrap();
    let messages = found.items;
    assert_eq!(messages.len(), 6);
    assert!(messages.iter().all(|m| m.kind() == esh3ar::domain::MessageKind::OneWay));
    assert!(messages.iter().all(|m| &*m.from == "Old shop"));
    let phone = esh3ar::domain::Phone::from_stored("+967771234567");
    let (pending, _) =
        esh3ar::store::messages::pending_after(&client, &Party::Mobile(phone), None, 10)
            .await
            .unwrap();
    assert_eq!(pending.len(), 3, "pending, sent and queued ones are still to be delivered");
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_refused_and_two_at_once_are_one() {
    let server = Server::start().await;
    let store = empty_database(&server, "race").await;
    let all = futures_util::future::join_all((0..4).map(|_| async {
        let mut client = store.client().await.unwrap();
        migrate::run(&mut client, None).await.unwrap().len()
    }))
    .await;
    assert_eq!(all.iter().sum::<usize>(), migrate::MIGRATIONS.len());
    let mut client = store.client().await.unwrap();
    client
        .batch_execute("UPDATE schema_migrations SET sha256 = '\\x00' WHERE version = 2")
        .await
        .unwrap();
    let error = migrate::run(&mut client, None).await.unwrap_err();
    assert!(matches!(error, migrate::MigrateError::Changed { version: 2 }));

    let database = server.database().await;
    database
        .execute("INSERT INTO schema_migrations VALUES (999, 'future', '\\x00')", &[])
        .await
        .unwrap();
    for arguments in [vec!["migrate"], vec!["migrate", "--status"], vec!["user", "list"]] {
        // Neither one of which nothing is known, nor one that needs newer binaries, is worked with.
        let serves = if arguments.len() == 1 { "NULL" } else { "999" };
        let changed = format!("UPDATE schema_migrations SET serves = {serves} WHERE version = 999");
        database.batch_execute(&changed).await.unwrap();
        let output = run(&server.data(), &arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {text}");
        assert!(text.contains("the database schema has version 999"), "{text}");
    }
}

#[tokio::test]
async fn status_and_dry_run_change_nothing() {
    let server = Server::start().await;
    let status = run_json(&server.data(), &["migrate", "--status"]);
    let count = migrate::MIGRATIONS.len();
    assert_eq!(status.as_array().unwrap().len(), count);
    assert!(status.as_array().unwrap().iter().all(|line| line["state"] == "applied"));
    assert_eq!(run_json(&server.data(), &["migrate", "--dry-run"]), json!([]));
    let database = server.database().await;
    let newest = "DELETE FROM schema_migrations WHERE version = 
                  (SELECT max(version) FROM schema_migrations)";
    database.execute(newest, &[]).await.unwrap();
    let pending = run_json(&server.data(), &["migrate", "--dry-run"]);
    assert_eq!(pending[0]["state"], "would be applied");
    let still = run_json(&server.data(), &["migrate", "--status"]);
    assert_eq!(still[count - 1]["state"], "pending");
}

#[tokio::test]
async fn the_queries_use_their_indexes() {
    let server = Server::start().await;
    let database = server.database().await;
    database
        .batch_execute(
            "INSERT INTO messages (id, sender_user_id, recipient_phone, content, status, created_at)
             SELECT gen_random_uuid(), ('00000000-0000-0000-0000-0000000000' || lpad((n % 50)::text, 2, '0'))::uuid,
                    '+96777' || lpad((n % 1000)::text, 7, '0'), 'x', CASE WHEN n % 100 = 0 THEN 0 ELSE 2 END, now()
             FROM generate_series(1, 50000) AS n;
             UPDATE messages SET next_attempt_at = now() WHERE status = 0 AND random() < 0.1;
             ANALYZE messages;",
        )
        .await
        .unwrap();
    for (query, index) in [
        (
            "SELECT * FROM messages WHERE recipient_phone = '+967770000100' AND status < 2 ORDER BY id LIMIT 100",
            "messages_waiting",
        ),
        (
            "SELECT * FROM messages WHERE sender_user_id = '00000000-0000-0000-0000-000000000007' ORDER BY id DESC LIMIT 50",
            "messages_of_sender",
        ),
        (
            "SELECT * FROM messages WHERE recipient_phone = '+967770000100' ORDER BY id DESC LIMIT 50",
            "messages_of_phone",
        ),
        (
            "SELECT id FROM messages WHERE next_attempt_at <= now() ORDER BY next_attempt_at LIMIT 10 FOR UPDATE SKIP LOCKED",
            "messages_due",
        ),
    ] {
        let rows = database.query(&format!("EXPLAIN {query}"), &[]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert!(plan.join("\n").contains(index), "{query}\n{}", plan.join("\n"));
        assert!(!plan.join("\n").contains("Seq Scan"), "{query}\n{}", plan.join("\n"));
    }
}

#[tokio::test]
async fn a_migration_stops_nobody_and_waits_for_no_dump_when_there_is_nothing_to_do() {
    let server = Server::start().await;
    let store = empty_database(&server, "busy").await;
    let mut client = store.client().await.unwrap();
    migrate::run(&mut client, Some(9)).await.unwrap();
    // As a table that a binary made which knew nothing of it.
    client.batch_execute("ALTER TABLE schema_migrations DROP COLUMN serves").await.unwrap();
    let mut reader = store.client().await.unwrap();
    let dump = reader.transaction().await.unwrap();
    dump.batch_execute(
        "LOCK TABLE schema_migrations, tokens, recipients, messages IN ACCESS SHARE MODE",
    )
    .await
    .unwrap();
    let other = store.clone();
    let migration = tokio::spawn(async move {
        let mut client = other.client().await.unwrap();
        migrate::run(&mut client, None).await.unwrap()
    });
    // It waits for the dump, and lets everybody else pass: no statement here may wait for long.
    let mut longest = std::time::Duration::ZERO;
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(6) {
        let asked = std::time::Instant::now();
        client.batch_execute("SELECT FROM schema_migrations LIMIT 1").await.unwrap();
        client.batch_execute("SELECT FROM tokens LIMIT 1").await.unwrap();
        longest = longest.max(asked.elapsed());
        assert!(!migration.is_finished(), "it cannot have had its lock");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(longest < std::time::Duration::from_secs(5), "{longest:?}");
    dump.commit().await.unwrap();
    let applied = tokio::time::timeout(crate::support::DEADLINE, migration).await.unwrap().unwrap();
    assert_eq!(applied.first(), Some(&10));
    // And with nothing to do it asks for no lock at all.
    let dump = reader.transaction().await.unwrap();
    dump.batch_execute("LOCK TABLE schema_migrations IN ROW EXCLUSIVE MODE").await.unwrap();
    let again =
        tokio::time::timeout(std::time::Duration::from_secs(3), migrate::run(&mut client, None));
    assert_eq!(again.await.unwrap().unwrap(), Vec::<i32>::new());
}
