//! Processes of this version beside those of the next one, which has migrated the schema already and says
//! things that this version does not understand.

use std::time::Duration;

use esh3ar::store::migrate;

use super::cluster::{assert_kept, under_load};
use crate::support::{
    cluster::{Breaks, Cluster, Mq},
    run_json,
};

/// What the next version's processes do to what all of them share.
async fn next_version(cluster: &mut Cluster) {
    let database = cluster.engines.postgres.connect().await;
    let known = migrate::MIGRATIONS.last().unwrap().version;
    database
        .batch_execute(&format!(
            "ALTER TABLE messages ADD COLUMN next_thing text;
             ALTER TABLE recipients ADD COLUMN next_thing integer NOT NULL DEFAULT 7;
             ALTER TABLE nodes DROP CONSTRAINT nodes_role_check;
             INSERT INTO nodes (id, role, host, pid, version, figures, started_at, seen_at)
             VALUES ('\\x0102030405060708', 'herald', 'next', 7, '9.9.9', '{{\"v\": 9}}', now(),
                     now() + interval '1 hour');
             INSERT INTO schema_migrations (version, name, sha256, serves)
             VALUES (999, 'next', '\\x00', {known});"
        ))
        .await
        .unwrap();
    // To every process, in words that it does not know.
    let redis = cluster.engines.redis.server();
    for node in database.query("SELECT encode(id, 'hex') FROM nodes", &[]).await.unwrap() {
        let node: &str = node.get(0);
        assert!(redis.ask(&format!("PUBLISH esh3ar:v2:to:{node} next")).is_some());
    }
    if let Mq::Shared(host) = &cluster.engines.mq {
        host.publish("Esh3arTech.Messaging", "esh3ar.v1.normal.2", r#"{"v":9,"next":"thing"}"#);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_the_next_version_are_worked_beside() {
    let Some(cluster) = Cluster::breakable(Breaks::REDIS, 3, 2).await else { return };
    let (cluster, figures) = under_load(cluster, |mut cluster| async {
        next_version(&mut cluster).await;
        // On the schema of the next version, this one starts too: one that was killed comes back.
        cluster.gateways[0].kill();
        cluster.workers[0].kill();
        cluster.gateways[0].launch().await;
        cluster.workers[0].launch().await;
        assert_eq!(cluster.gateways[1].stop().await, Some(0), "{}", cluster.gateways[1].log());
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.gateways[1].launch().await;
        cluster
    })
    .await;
    assert_kept(&cluster, &figures).await;
    let data = cluster.gateways[0].data();
    let steps = run_json(&data, &["migrate", "--status"]);
    let newest = steps.as_array().unwrap().last().unwrap();
    assert_eq!((&newest["version"], &newest["state"]), (&999.into(), &"applied".into()));
    // The frame that nobody read is told of, and held nothing up.
    let letters = run_json(&data, &["dlq", "list", "--kind", "frame"]);
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
}
