//! Everything outside Postgres is a hint: what makes up for those that are lost or come at a bad moment.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use esh3ar::{
    app::{
        App, Caller,
        identity::access::Identity,
        identity::tokens::Lifetime,
        messages::{SendRequest, Sent},
    },
    domain::{ContentType, Party, Phone, Priority, TokenId, message::MessageDraft, partitions},
    presence::{Delivery, Outbound},
    queue::Queue,
    store::Store,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{
    DEADLINE, Server, acknowledge, id, next_messages, number, operator, settings,
};

const PHONE: &str = "+967771234567";

/// It is told through the seat or found by the read: never neither.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_while_its_recipient_connects_comes_at_once() {
    const PHONES: usize = 30;
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let numbers: Vec<String> = (0..PHONES).map(number).collect();
    let mut all = vec!["mobile", "add", "--verified"];
    all.extend(numbers.iter().map(String::as_str));
    crate::support::run_json(&server.data(), &all);
    let (app, stop) = crate::fault::beside(&server);
    for number in &numbers {
        let party = Party::Mobile(Phone::parse(number, None).unwrap());
        let phone =
            app.identity.issue_token(&operator(), &party, Lifetime::Endless).await.unwrap().token;
        // Without a pause, until it is connected: some are stored between the read and the answer.
        let connected = AtomicBool::new(false);
        let connecting = async {
            let hub = server.hub(&phone).await;
            connected.store(true, Ordering::Relaxed);
            hub
        };
        let sending = async {
            let mut sent = Vec::new();
            while !connected.load(Ordering::Relaxed) {
                sent.push(server.send(&shop, number, "x").await);
            }
            sent
        };
        let (mut hub, sent) = tokio::join!(connecting, sending);
        let receiving = async {
            let mut got = HashSet::new();
            while got.len() < sent.len() {
                let ids: Vec<String> = next_messages(&mut hub).await.1.iter().map(id).collect();
                acknowledge(&mut hub, &ids).await;
                got.extend(ids);
            }
        };
        // Much sooner than any check for what was missed.
        tokio::time::timeout(Duration::from_secs(8), receiving).await.expect("at once");
        hub.close().await;
    }
    stop.cancel();
}

#[tokio::test]
async fn what_waits_as_if_its_recipient_were_away_is_found_by_the_position_check() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let mut hub = server.hub(&server.phone(PHONE)).await;
    // Parked, and nobody is told: as after a wake-up that was lost at the worst moment.
    let parked: uuid::Uuid = server
        .database()
        .await
        .query_one(
            "INSERT INTO messages (id, sender_user_id, recipient_phone, content, created_at)
             SELECT gen_random_uuid(), id, $1, 'parked', now() FROM business_users RETURNING id",
            &[&PHONE],
        )
        .await
        .unwrap()
        .get(0);
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!(id(&found[0]), parked.to_string());
    acknowledge(&mut hub, &[parked.to_string()]).await;
    server.wait_status(&shop, &parked.to_string(), "delivered").await;
}

/// When there is no room for a wake-up, its recipient is asked to read instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_makes_its_recipients_read() {
    let server = Server::start().await;
    server.user("shop", "SendMessages");
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let config = server.database_config();
    // Nothing takes from its queue.
    let app = App::start(settings(), Store::new(config, 2).unwrap(), &tracker, &stop);
    let shop = app.identity.list_users(&operator(), None, 100).await.unwrap().items.remove(0);
    let caller = Caller {
        token: TokenId(uuid::Uuid::nil()),
        expires_at: None,
        identity: Identity::Business {
            id: shop.id,
            name: shop.name.into(),
            permissions: shop.permissions,
        },
    };
    let party = Party::Mobile(Phone::parse(PHONE, None).unwrap());
    let mut seat = app.presence().local().register(party.clone(), TokenId(uuid::Uuid::nil()));
    let send = || async {
        let draft = MessageDraft {
            subject: None,
            content: "x".to_owned(),
            content_type: ContentType::default(),
            priority: Priority::Normal,
        };
        let request = SendRequest { to: PHONE.to_owned(), draft };
        let Ok(Sent::Now(message)) =
            app.messages.send(&caller, request, None, |_| (202, String::new())).await
        else {
            panic!("not accepted");
        };
        message
    };
    let filling = Delivery::new(send().await);
    let more = std::iter::repeat_with(|| (Priority::Normal, Arc::clone(&filling)));
    let Queue::Local(queue) = app.queue() else { unreachable!("embedded") };
    // A send is answered before its wake-up takes its place.
    let in_place = async {
        while queue.depth(Priority::Normal) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, in_place).await.expect("a wake-up");
    assert!(!queue.push(partitions::of_recipient(&party), more.take(100_000)).is_empty());
    let told = seat.try_next();
    assert!(told.is_none(), "{told:?}");
    send().await;
    let told = tokio::time::timeout(DEADLINE, seat.next()).await.unwrap();
    assert!(matches!(told, Some(Outbound::Resync(_))), "{told:?}");
    stop.cancel();
}
