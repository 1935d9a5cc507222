//! Talk in both ways while something breaks: order (I3) and unread counts (I5) hold, beside all that holds
//! for messages anyway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use esh3ar::{
    app::{App, Caller, identity::access::Identity, identity::tokens::Lifetime},
    bench::checker::History,
    bench::load::{self, ChatConversation, ChatLoad, LoadTarget, Plan, results::LoadResults},
    domain::{Party, Permission, Permissions, TokenId},
};

use super::{Load, assert_balanced, beside, plan, target};
use crate::support::{
    DEADLINE, Server, operator,
    proxy::{Fault, Proxy, Upstream},
};

const PHONES: usize = 6;
const SHOPS: usize = 2;
/// Messages before something breaks, and again when it works again.
const ENOUGH: u64 = 60;

/// Business users and phones, each phone talking to each business user.
pub async fn chat(server: &Server) -> (LoadTarget, ChatLoad) {
    let (app, stop) = beside(server);
    let made = chat_over(server, &app).await;
    stop.cancel();
    made
}

async fn chat_over(server: &Server, app: &App) -> (LoadTarget, ChatLoad) {
    let target = target(server, app, PHONES).await;
    let may = Permissions::NONE.with(Permission::Chat);
    let (mut shops, mut talks) = (Vec::new(), Vec::new());
    for shop in 0..SHOPS {
        let user =
            app.identity.add_user(&operator(), &format!("desk {shop}"), may, None).await.unwrap();
        let caller = Caller {
            token: TokenId(uuid::Uuid::nil()),
            expires_at: None,
            identity: Identity::Business {
                id: user.id,
                name: user.name.as_str().into(),
                permissions: may,
            },
        };
        for (phone, (number, _)) in target.recipients.iter().enumerate() {
            let (talk, _) = app.chat.open(&caller, number).await.unwrap();
            talks.push(ChatConversation { id: talk.id.0, shop, phone });
        }
        let party = Party::Business(user.id);
        shops.push(
            app.identity.issue_token(&operator(), &party, Lifetime::Endless).await.unwrap().token,
        );
    }
    (target, ChatLoad { shops, talks, replies: 0.5, read: 0.2 })
}

/// Talk in the background.
fn start(target: LoadTarget, chat: ChatLoad, plan: Plan) -> Load {
    Load::run(async move |progress, stop| {
        load::run_chat(&target, &chat, &plan, progress, &stop).await.unwrap()
    })
}

/// Looks at every unread count all the time, each in one snapshot with what it counts.
struct Watch {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<History>,
}

const UNREAD: &str = "
    SELECT c.id, c.unread_business::bigint, c.unread_mobile::bigint,
           (SELECT count(*) FROM messages m WHERE m.conversation_id = c.id
            AND m.recipient_user_id IS NOT NULL AND m.status <> 3),
           (SELECT count(*) FROM messages m WHERE m.conversation_id = c.id
            AND m.recipient_phone IS NOT NULL AND m.status <> 3)
    FROM conversations c";

fn watch(server: &Server) -> Watch {
    let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&looks));
    let config = server.database_config();
    let task = tokio::spawn(async move {
        let mut history = History::new();
        while !stopped.load(Ordering::Relaxed) {
            // The database goes down with its server, and comes back.
            if let Ok((client, connection)) = config.connect(tokio_postgres::NoTls).await {
                tokio::spawn(connection);
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(rows) = client.query(UNREAD, &[]).await else { break };
                    for row in rows {
                        let id = row.get::<_, uuid::Uuid>(0).as_u64_pair().1;
                        history.unread(id, row.get(1), row.get(3));
                        history.unread(id, row.get(2), row.get(4));
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        history
    });
    Watch { stop, looks, task }
}

impl Watch {
    async fn assert_exact(self) {
        self.stop.store(true, Ordering::Relaxed);
        let report = self.task.await.unwrap().check();
        assert!(report.is_clean(), "{report}");
        let looks = self.looks.load(Ordering::Relaxed);
        assert!(looks > 20, "only {looks} looks");
    }
}

fn assert_kept(figures: &LoadResults) {
    assert!(figures.report.is_clean(), "{}", figures.report);
    assert!(figures.accepted > ENOUGH, "only {} were accepted", figures.accepted);
    assert!(figures.unread_counts >= (PHONES * SHOPS) as u64, "{}", figures.unread_counts);
}

/// `seq` has no gaps and ids grow with it, whatever was repeated.
async fn assert_numbered(server: &Server) {
    let database = server.database().await;
    let wrong: i64 = database
        .query_one(
            "SELECT count(*) FROM (
                SELECT seq, row_number() OVER w AS place, id, lag(id) OVER w AS earlier
                FROM messages WHERE conversation_id IS NOT NULL
                WINDOW w AS (PARTITION BY conversation_id ORDER BY seq)) m
             WHERE seq <> place OR id < earlier",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(wrong, 0, "numbers are missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn talk_survives_the_death_of_its_server() {
    let mut server = Server::start().await;
    let (target, chat) = chat(&server).await;
    let watch = watch(&server);
    let load = start(target, chat, plan());
    for _ in 0..2 {
        load.accepted(ENOUGH).await;
        server.kill();
        server.launch().await;
    }
    load.accepted(ENOUGH).await;
    let figures = load.end().await;
    assert_kept(&figures);
    watch.assert_exact().await;
    assert_numbered(&server).await;
    assert_balanced(&server);
}

/// Both sides' sockets are cut again and again, requests of senders too: answers are lost, and the same
/// `clientMessageId` says the same thing again.
#[tokio::test(flavor = "multi_thread")]
async fn talk_survives_connections_that_are_cut() {
    let server = Server::start().await;
    let (mut target, chat) = chat(&server).await;
    let address = server.base.trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(Upstream::Tcp(address)).await;
    target.url = format!("http://127.0.0.1:{}", proxy.port);
    let watch = watch(&server);
    let load = start(target, chat, plan());
    let begun = Instant::now();
    for _ in 0..7 {
        load.accepted(ENOUGH / 2).await;
        proxy.set(Fault::Cut);
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.set(Fault::None);
    }
    load.accepted(ENOUGH).await;
    let figures = load.end().await;
    assert_kept(&figures);
    assert!(begun.elapsed() < DEADLINE + DEADLINE);
    watch.assert_exact().await;
    assert_numbered(&server).await;
    assert_balanced(&server);
}
