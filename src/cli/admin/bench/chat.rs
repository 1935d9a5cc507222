//! Load by chat, and reads of pages of a long conversation.

use std::sync::Arc;

use futures_util::StreamExt as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    arguments::BenchArgs,
    progress::Bar,
    report::{LatencyView, latencies, report, round},
    server::BenchServer,
};
use crate::{
    app::{App, Caller, identity::access::Identity, identity::tokens::Lifetime},
    bench::load::{self, ChatConversation, ChatLoad, LoadProgress, LoadTarget},
    cli::{
        io::exit::Failure,
        process::{database, operator::operator},
        setup::Setup,
    },
    domain::{
        ConversationId, MessageId, Party, Permission, Permissions, TokenId, conversation::Side,
        message::MessageDraft,
    },
    store::{
        Store,
        accounts::BusinessUser,
        chat::{self, NewChat},
        embedded::Purpose,
    },
};

/// Conversations of one business user.
const CONVERSATIONS_PER_USER: usize = 50;
/// Tokens and conversations created at the same time.
const MAX_CONCURRENCY: usize = 8;
/// Messages per transaction when a long conversation is created.
const BATCH_SIZE: u64 = 1000;

pub(super) async fn talk(
    setup: &Setup,
    arguments: &BenchArgs,
    server: &BenchServer,
    talks: usize,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let (target, mut chat) = talkers(setup, server, talks).await?;
    (chat.replies, chat.read) = (arguments.replies, arguments.read);
    let progress = Arc::new(LoadProgress::default());
    let bar = Bar::start(&progress);
    let figures = load::run_chat(&target, &chat, &arguments.plan(), progress, stop).await?;
    bar.end();
    report(setup, &figures)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PagesView {
    messages: u32,
    pages: u64,
    pages_per_second: f64,
    latest_ms: Option<LatencyView>,
    anywhere_ms: Option<LatencyView>,
}

/// Creates a long conversation and reads pages of it.
pub(super) async fn read(
    setup: &Setup,
    arguments: &BenchArgs,
    server: &BenchServer,
    messages: u32,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let (target, chat) = talkers(setup, server, 1).await?;
    let Some(talk) = chat.talks.first() else { return Ok(()) };
    let progress = Arc::new(LoadProgress::default());
    let bar = Bar::start(&progress);
    let opened = database::open_database(setup, Purpose::Command).await?;
    let filled = fill(&opened.store, talk, u64::from(messages), &progress, stop).await;
    opened.close().await?;
    filled?;
    let connections = arguments.senders.min(8) as usize;
    let pages = load::read_history(
        &target,
        talk.id,
        u64::from(messages),
        connections,
        arguments.duration,
        stop,
    )
    .await?;
    bar.end();
    setup.output.record(&PagesView {
        messages,
        pages: pages.count,
        pages_per_second: round(pages.count as f64 / arguments.duration.as_secs_f64(), 0),
        latest_ms: latencies(&pages.latest),
        anywhere_ms: latencies(&pages.anywhere),
    });
    Ok(())
}

/// Appends as the server would, without its limits.
async fn fill(
    store: &Store,
    talk: &ChatConversation,
    messages: u64,
    progress: &LoadProgress,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut client = store.client().await?;
    let content = "x".repeat(200);
    let mut left = messages;
    while left > 0 && !stop.is_cancelled() {
        let count = left.min(BATCH_SIZE);
        let now = crate::app::Clock::System.now();
        let batch: Vec<NewChat> = (0..count)
            .map(|n| NewChat {
                id: MessageId(uuid::Uuid::now_v7()),
                conversation: ConversationId(talk.id),
                side: if n % 2 == 0 { Side::Business } else { Side::Mobile },
                draft: MessageDraft { content: content.clone(), ..MessageDraft::default() },
                client_message_id: None,
                flags: Vec::new(),
                created_at: now,
            })
            .collect();
        let mut earlier = vec![None; batch.len()];
        chat::append(&mut client, &batch, &mut earlier, |_| None).await?;
        left -= count;
        progress.accepted.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(())
}

/// Business users and phones with a conversation each.
async fn talkers(
    setup: &Setup,
    server: &BenchServer,
    talks: usize,
) -> Result<(LoadTarget, ChatLoad), Failure> {
    let target = server.target(setup, talks).await?;
    let opened = database::open(setup).await?;
    let result = begin(&opened.app, &target).await;
    let chat = opened.close(result).await?;
    Ok((target, chat))
}

async fn begin(app: &App, target: &LoadTarget) -> Result<ChatLoad, Failure> {
    let may = Permissions::NONE.with(Permission::Chat);
    let by = operator().because(Some("for esh3ar bench"))?;
    let mut shops: Vec<(BusinessUser, String)> = Vec::new();
    for _ in 0..target.recipients.len().div_ceil(CONVERSATIONS_PER_USER) {
        let name = format!("bench {}", uuid::Uuid::now_v7());
        let shop = app.identity.add_user(&by, &name, may, None).await?;
        let token =
            app.identity.issue_token(&by, &Party::Business(shop.id), Lifetime::Usual).await?.token;
        shops.push((shop, token));
    }
    let beginning = target.recipients.iter().enumerate().map(|(phone, (number, _))| {
        let shop = phone / CONVERSATIONS_PER_USER;
        let caller = caller(&shops[shop].0);
        async move {
            let (conversation, _) = app.chat.open(&caller, number).await?;
            Ok::<_, Failure>(ChatConversation { id: conversation.id.0, shop, phone })
        }
    });
    let mut begun = futures_util::stream::iter(beginning).buffered(MAX_CONCURRENCY);
    let mut talks = Vec::with_capacity(target.recipients.len());
    while let Some(talk) = begun.next().await {
        talks.push(talk?);
    }
    let shops = shops.iter().map(|(_, token)| token.clone()).collect();
    Ok(ChatLoad { shops, talks, replies: 0.5, read: 0.0 })
}

fn caller(user: &BusinessUser) -> Caller {
    Caller {
        token: TokenId(uuid::Uuid::nil()),
        expires_at: None,
        identity: Identity::Business {
            id: user.id,
            name: user.name.as_str().into(),
            permissions: user.permissions,
        },
    }
}
