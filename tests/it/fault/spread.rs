//! One business that many phones write to: every worker has its share of that, each conversation stays in
//! order, also while processes of the version before publish by another rule.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use esh3ar::{
    app::{Caller, identity::access::Identity, identity::tokens::Lifetime},
    bench::load::{self, ChatConversation, ChatLoad, Plan},
    domain::{Party, Permission, Permissions, TokenId, partitions},
};

use super::{Load, over, plan, target};
use crate::support::{
    cluster::{Cluster, Mq},
    operator,
};

const PHONES: usize = 64;

/// Publishes what waits once more, as a version did that went by the recipient: to other queues, in no
/// order, a moment later.
async fn publish_as_before(cluster: &Cluster, shop: &Party, stop: &AtomicBool) -> usize {
    let Mq::Shared(host) = &cluster.engines.mq else { unreachable!("it is shared") };
    let database = cluster.engines.postgres.connect().await;
    let queue = partitions::of_recipient(shop) % 16;
    let mut published = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql =
            "SELECT id::text FROM messages WHERE type = 1 AND status < 2 ORDER BY id DESC LIMIT 20";
        let found = database.query(sql, &[]).await.unwrap();
        let named = found.iter().map(|row| format!("[\"{}\",0]", row.get::<_, &str>(0)));
        let named: Vec<String> = named.collect();
        if !named.is_empty() {
            let frame = format!("{{\"v\":1,\"messages\":[{}]}}", named.join(","));
            host.publish("Esh3arTech.Messaging", &format!("esh3ar.v1.normal.{queue}"), &frame);
            published += named.len();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    published
}

#[tokio::test(flavor = "multi_thread")]
async fn one_business_with_many_conversations_is_the_work_of_all_workers() {
    let Some(cluster) = Cluster::start(2, 3).await else { return };
    cluster.settled().await;
    let (app, ended) = over(cluster.engines.postgres.config());
    let mut target = target(&cluster.gateways[0], &app, PHONES).await;
    let may = Permissions::NONE.with(Permission::Chat);
    let user = app.identity.add_user(&operator(), "desk", may, None).await.unwrap();
    let party = Party::Business(user.id);
    let identity =
        Identity::Business { id: user.id, name: user.name.as_str().into(), permissions: may };
    let caller = Caller { token: TokenId(uuid::Uuid::nil()), expires_at: None, identity };
    let mut talks = Vec::new();
    for (phone, (number, _)) in target.recipients.iter().enumerate() {
        let (talk, _) = app.chat.open(&caller, number).await.unwrap();
        talks.push(ChatConversation { id: talk.id.0, shop: 0, phone });
    }
    let token =
        app.identity.issue_token(&operator(), &party, Lifetime::Endless).await.unwrap().token;
    ended.cancel();
    drop(app);
    // Phones write, and the business reads: it is the recipient of all.
    let chat = ChatLoad { shops: vec![token], talks, replies: 1.0, read: 0.1 };
    target.url = cluster.gateways.iter().map(|one| one.base.as_str()).collect::<Vec<_>>().join(",");
    let stop = AtomicBool::new(false);
    let plan = Plan { rate: Some(150.0), ..plan() };
    let load = Load::run(async move |progress, stop| {
        load::run_chat(&target, &chat, &plan, progress, &stop).await.unwrap()
    });
    let enough = async {
        load.accepted(500).await;
        stop.store(true, Ordering::Relaxed);
    };
    let ((), published) = tokio::join!(enough, publish_as_before(&cluster, &party, &stop));
    let figures = load.end().await;
    assert!(figures.report.is_clean(), "{}", figures.report);
    assert!(figures.accepted >= 500, "only {} were accepted", figures.accepted);
    assert!(published > 0, "nothing was published as before");
    let mut shares = Vec::new();
    for worker in &cluster.workers {
        shares.push(worker.metric("esh3ar_deliveries_handed_total").await);
    }
    let all: f64 = shares.iter().sum();
    println!(
        "{} accepted, handed over by {shares:?}, {published} published twice",
        figures.accepted
    );
    assert!(all >= figures.accepted as f64, "{shares:?} of {}", figures.accepted);
    // The queue of the business itself, which was published to twice, is one worker's.
    assert!(shares.iter().all(|share| *share > figures.accepted as f64 / 10.0), "{shares:?}");
}
