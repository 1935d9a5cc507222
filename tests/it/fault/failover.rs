//! The primary Postgres dies, stands still, or only reads; a standby takes its place under load.

use std::time::{Duration, Instant};

use esh3ar::{
    bench::load::{LoadTarget, Plan, results::LoadResults},
    store::{Error, Statements as _, Store, pool},
};

use super::{ENOUGH, Load, assert_kept, over, plan};
use crate::support::{DEADLINE, Folder, Server, cluster::Cluster, postgres::Postgres, run_json};

/// A primary and two standbys, of which one at least has what is answered to be committed.
struct Trio {
    primary: Postgres,
    standbys: Vec<Postgres>,
}

/// Asks a server until it says yes.
async fn until(server: &Postgres, question: &str) {
    let client = server.connect().await;
    let deadline = Instant::now() + DEADLINE;
    while !client.query_one(question, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < deadline, "not in time: {question}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Trio {
    async fn start() -> Trio {
        let primary = Postgres::primary().await;
        let standbys = vec![primary.replica().await, primary.replica().await];
        let trio = Trio { primary, standbys };
        trio.wait_for_standbys(2).await;
        trio
    }

    async fn wait_for_standbys(&self, count: i64) {
        let client = self.primary.connect().await;
        let sql = "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'";
        client.batch_execute(sql).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let sql = format!(
            "SELECT count(*) = {count} FROM pg_stat_replication
             WHERE state = 'streaming' AND sync_state = 'quorum'"
        );
        until(&self.primary, &sql).await;
    }

    /// All three, the primary in the middle: nobody may think that it is the first.
    fn url(&self) -> String {
        let hosts = [&self.standbys[0], &self.primary, &self.standbys[1]];
        let hosts = hosts.map(Postgres::name).join(",");
        format!("postgres://esh3ar@{hosts}/esh3ar?sslmode=disable")
    }

    /// What a manager does: the standby that has more becomes the primary, the other one follows it.
    async fn fail_over(self) -> (Postgres, Trio) {
        let mut received = Vec::new();
        for standby in self.standbys {
            let sql = "SELECT (pg_last_wal_receive_lsn() - '0/0')::int8";
            let row = standby.connect().await.query_one(sql, &[]).await.unwrap();
            received.push((row.get::<_, i64>(0), standby));
        }
        received.sort_by_key(|(received, _)| *received);
        let (new, follower) = (received.pop().unwrap().1, received.pop().unwrap().1);
        new.connect().await.execute("SELECT pg_promote(false)", &[]).await.unwrap();
        until(&new, "SELECT NOT pg_is_in_recovery()").await;
        let port = new.name().rsplit(':').next().unwrap().to_owned();
        let client = follower.connect().await;
        let sql =
            format!("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port={port} user=esh3ar'");
        client.batch_execute(&sql).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        (self.primary, Trio { primary: new, standbys: vec![follower] })
    }
}

/// Load, and a failover in the midst of it.
async fn failed_over(
    mut trio: Trio,
    target: LoadTarget,
    fault: impl FnOnce(&mut Postgres),
) -> (LoadResults, Postgres, Trio) {
    let load = Load::start(target, Plan { rate: Some(100.0), ..plan() });
    load.accepted(ENOUGH).await;
    let begun = Instant::now();
    fault(&mut trio.primary);
    // As long as a manager takes to be sure.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (old, trio) = trio.fail_over().await;
    load.accepted(1).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "nothing was accepted for {took:?}");
    let figures = load.healed().await;
    println!(
        "accepted again after {took:?}; {} sent, {} accepted, {} received, refused {:?}, the slowest took {} ms",
        figures.sent,
        figures.accepted,
        figures.received,
        figures.refused,
        figures.delivery.max_ms()
    );
    (figures, old, trio)
}

/// Each accepted message is a row of the new primary, once.
async fn assert_stored(trio: &Trio, figures: &LoadResults) {
    let sql = "SELECT count(*), count(DISTINCT content) FROM messages";
    let row = trio.primary.connect().await.query_one(sql, &[]).await.unwrap();
    let (rows, contents): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!(rows, contents, "a send was stored twice");
    assert!(rows.unsigned_abs() >= figures.accepted, "{rows} of {}", figures.accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_s_standby_is_promoted_under_load() {
    let trio = Trio::start().await;
    let url = trio.url();
    let more = [("ESH3AR__DATABASE__URL", url.as_str())];
    let Some(cluster) = Cluster::start_with(2, 1, &more).await else { return };
    cluster.settled().await;
    let (app, stop) = over(pool::parse_url(&url).unwrap());
    let mut target = super::target(&cluster.gateways[0], &app, 8).await;
    stop.cancel();
    drop(app);
    let bases: Vec<&str> = cluster.gateways.iter().map(|one| one.base.as_str()).collect();
    target.url = bases.join(",");
    let (figures, _old, trio) = failed_over(trio, target, Postgres::kill).await;
    assert_kept(&figures);
    assert_stored(&trio, &figures).await;
    let books = run_json(&cluster.gateways[0].data(), &["audit", "delivery"]);
    assert_eq!(books["unaccounted"], 0, "{books}");
    // Told once, of the failover, and not of the standbys that were asked at the start.
    let told = |log: String| log.matches("primary changed: another server accepts writes").count();
    for gateway in &cluster.gateways {
        assert_eq!(told(gateway.log()), 1, "{}", gateway.log());
    }
    assert_eq!(told(cluster.workers[0].log()), 1);
}

/// Its connections stay, and nothing answers: only who asks can know.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_stands_still_is_left_for_the_promoted_standby() {
    let trio = Trio::start().await;
    let url = trio.url();
    let more = [("ESH3AR__DATABASE__URL", url.as_str())];
    let mut server = Server::start_in(Folder::new(), &more).await;
    server.expect_error("messages could not be stored");
    let (app, stop) = over(pool::parse_url(&url).unwrap());
    let target = super::target(&server, &app, 8).await;
    stop.cancel();
    drop(app);
    let (figures, old, trio) = failed_over(trio, target, |primary| primary.freeze(true)).await;
    assert_kept(&figures);
    assert_stored(&trio, &figures).await;
    let books = server.run_json(&["audit", "delivery"]);
    assert_eq!(books["unaccounted"], 0, "{books}");
    // Before the database ends: it has changes of status to store.
    server.stop().await;
    old.freeze(false);
}

/// A server that is made read-only keeps its connections, and refuses with 25006.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_reads_is_left_for_one_that_writes() {
    let one = Postgres::primary().await;
    let other = one.replica().await;
    other.connect().await.execute("SELECT pg_promote()", &[]).await.unwrap();
    for server in [&one, &other] {
        server.connect().await.batch_execute("CREATE TABLE written (n integer)").await.unwrap();
    }
    let url = format!("postgres://esh3ar@{},{}/esh3ar?sslmode=disable", one.name(), other.name());
    let store = Store::new(pool::parse_url(&url).unwrap(), 3).unwrap();
    let write = async |store: &Store| {
        let client = store.client().await?;
        client.batch_execute("INSERT INTO written VALUES (1)").await
    };
    let written = async |server: &Postgres| -> i64 {
        let client = server.connect().await;
        client.query_one("SELECT count(*) FROM written", &[]).await.unwrap().get(0)
    };
    // Three connections, all to the first.
    let (first, second, third) = tokio::join!(store.client(), store.client(), store.client());
    drop((first.unwrap(), second.unwrap(), third.unwrap()));
    write(&store).await.unwrap();
    assert_eq!((written(&one).await, written(&other).await), (1, 0));
    let reading = one.connect().await;
    reading.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    reading.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until(&one, "SELECT current_setting('transaction_read_only') = 'on'").await;
    // It may take a moment until the sessions have heard of it.
    let deadline = Instant::now() + DEADLINE;
    let refused = loop {
        match write(&store).await {
            Ok(_) => assert!(Instant::now() < deadline, "it writes still"),
            Err(error) => break error,
        }
    };
    // One is refused, in words that say to come again; the next is taken by the other server, and none
    // tries the idle connections to the first.
    assert!(matches!(&refused, Error::Unavailable(text) if text.contains("25006")), "{refused}");
    let before = written(&one).await;
    for n in 1..=6 {
        write(&store).await.unwrap();
        assert_eq!((written(&one).await, written(&other).await), (before, n));
    }
}
