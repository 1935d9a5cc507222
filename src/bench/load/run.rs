//! A run: recipients connect, senders send, everything that was accepted has to arrive.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    chat::{ChatLoad, check_unread},
    plan::{Error, LoadProgress, LoadTarget, Plan},
    process_cost::{self, ProcessCost},
    receive::{HubFrame, Receiver},
    results::{LoadResults, MeasuredLatencies},
    run_state::{RunState, SHARDS},
    send::{Draft, MARK_LEN, Sender, first_tag, of_run},
    server_address::ServerAddress,
};
use crate::{
    bench::checker::{History, SendOutcome, SentMessage},
    domain::MessageId,
};

pub(super) const MAX_CONNECTING: usize = 64;
/// Missing messages count as lost when nothing has arrived for this long.
pub(super) const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How often a chat message without an answer is sent.
const MAX_SEND_ATTEMPTS: u32 = 5;
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a plan to its end, or until `stop`.
///
/// # Errors
/// There is nothing to measure: no connection, or no sender is allowed.
pub async fn run(
    target: &LoadTarget,
    plan: &Plan,
    progress: Arc<LoadProgress>,
    stop: &CancellationToken,
) -> Result<LoadResults, Error> {
    run_load(target, None, plan, progress, stop).await
}

/// The same as chat in both directions. The recipients of the target are the phones.
///
/// # Errors
/// As [`run`].
pub async fn run_chat(
    target: &LoadTarget,
    chat: &ChatLoad,
    plan: &Plan,
    progress: Arc<LoadProgress>,
    stop: &CancellationToken,
) -> Result<LoadResults, Error> {
    run_load(target, Some(chat), plan, progress, stop).await
}

async fn run_load(
    target: &LoadTarget,
    chat: Option<&ChatLoad>,
    plan: &Plan,
    progress: Arc<LoadProgress>,
    stop: &CancellationToken,
) -> Result<LoadResults, Error> {
    let shared = Arc::new(RunState {
        place: ServerAddress::parse(&target.url)?,
        plan: plan.clone(),
        chat: chat.cloned(),
        zero: Instant::now(),
        counted_from: AtomicU64::new(u64::MAX),
        shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        connections: AtomicU64::new(0),
        unanswered: AtomicU64::new(0),
        first_tag: first_tag(),
        tags: AtomicU64::new(0),
        progress,
        phones: target.recipients.len(),
        stop_senders: stop.child_token(),
        stop_receivers: CancellationToken::new(),
    });
    let receivers = connect_all(target, &shared).await?;
    let senders: Vec<_> = (0..plan.senders.max(1))
        .map(|n| tokio::spawn(send_all(Arc::clone(&shared), target.clone(), n)))
        .collect();
    let stopped = shared.stop_senders.clone();
    let measured = tokio::select! {
        measured = warm_up(target, &shared) => measured,
        () = stopped.cancelled() => Measurement::now(target, &shared),
    };
    // An interrupted run counts up to then.
    tokio::select! {
        () = tokio::time::sleep(plan.duration) => {}
        () = stopped.cancelled() => {}
    }
    shared.stop_senders.cancel();
    let mut log = SendLog::default();
    for sender in senders {
        if let Ok(other) = sender.await {
            log.add(other);
        }
    }
    drain(&shared, &log).await;
    let end = Measurement::now(target, &shared);
    shared.stop_receivers.cancel();
    for receiver in receivers {
        let _ = receiver.await;
    }
    let unread = match chat {
        Some(chat) => check_unread(&shared.place, target, chat).await,
        None => Vec::new(),
    };
    let mut results = summary(&shared, log, &unread, &measured, &end);
    results.interrupted = stop.is_cancelled();
    Ok(results)
}

async fn connect_all(
    target: &LoadTarget,
    shared: &Arc<RunState>,
) -> Result<Vec<tokio::task::JoinHandle<()>>, Error> {
    let mut tokens: Vec<String> =
        target.recipients.iter().map(|(_, token)| token.clone()).collect();
    tokens.extend(shared.chat.iter().flat_map(|chat| chat.shops.iter().cloned()));
    let acknowledging = (tokens.len() as f64 * shared.plan.acknowledge).round() as usize;
    let connecting = tokens.into_iter().enumerate().map(|(n, token)| {
        let shared = Arc::clone(shared);
        async move {
            let receiver = Receiver::connect(&shared.place, &token).await?;
            shared.progress.connected.fetch_add(1, Ordering::Relaxed);
            let number = u32::try_from(n).unwrap_or(u32::MAX);
            let task = receive_all(Arc::clone(&shared), receiver, token, number, n < acknowledging);
            Ok::<_, Error>(tokio::spawn(task))
        }
    });
    let mut connected = futures_util::stream::iter(connecting).buffer_unordered(MAX_CONNECTING);
    let mut tasks = Vec::new();
    while let Some(task) = connected.next().await {
        tasks.push(task?);
    }
    Ok(tasks)
}

async fn receive_all(
    shared: Arc<RunState>,
    mut receiver: Receiver,
    token: String,
    recipient: u32,
    acknowledges: bool,
) {
    if !acknowledges {
        // A recipient that acknowledges nothing gets no more than one window.
        shared.shard(recipient).unreachable.insert(recipient);
    }
    loop {
        let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
        let connection = u32::try_from(connection).unwrap_or(u32::MAX);
        let lost = loop {
            let frame = tokio::select! {
                frame = receiver.next() => frame,
                () = shared.stop_receivers.cancelled() => break false,
            };
            let Ok(HubFrame { mut arrivals, acknowledged }) = frame else { break true };
            if acknowledged > 0 {
                shared.shard(recipient).acknowledged += acknowledged;
                shared.unanswered.fetch_sub(acknowledged, Ordering::Relaxed);
            }
            if let Some(chat) = &shared.chat {
                // Chat messages are also shown on their sender's own connections.
                let phones = shared.phones;
                arrivals.retain(|arrival| {
                    !of_run(shared.first_tag, arrival.tag)
                        || chat.route(arrival.tag, phones).recipient == recipient
                });
            }
            if arrivals.is_empty() {
                continue;
            }
            shared.arrived(connection, recipient, &arrivals);
            if acknowledges {
                shared.unanswered.fetch_add(arrivals.len() as u64, Ordering::Relaxed);
                if receiver.acknowledge(&arrivals).await.is_err() {
                    break true;
                }
                let read = shared.chat.as_ref().and_then(|chat| chat.reads(&arrivals));
                if let Some((conversation, seq)) = read
                    && receiver.mark_read(conversation, seq).await.is_err()
                {
                    break true;
                }
            }
        };
        // Acknowledgements on a closed connection are never answered.
        shared.unanswered.fetch_sub(receiver.unanswered(), Ordering::Relaxed);
        if !lost {
            receiver.close().await;
            return;
        }
        let begun = Instant::now();
        receiver = loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY_DELAY) => {}
                () = shared.stop_receivers.cancelled() => return,
            }
            match Receiver::connect(&shared.place, &token).await {
                Ok(receiver) => break receiver,
                Err(_) if begun.elapsed() < UNREACHABLE_TIMEOUT => {}
                Err(_) => {
                    shared.shard(recipient).unreachable.insert(recipient);
                    return;
                }
            }
        };
    }
}

#[derive(Default)]
struct SendLog {
    sends: Vec<SentMessage>,
    answers: MeasuredLatencies,
    refused: HashMap<u16, u64>,
}

impl SendLog {
    fn add(&mut self, other: SendLog) {
        self.sends.extend(other.sends);
        self.answers.add(&other.answers);
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
    }
}

async fn send_all(shared: Arc<RunState>, target: LoadTarget, number: usize) -> SendLog {
    let plan = shared.plan.clone();
    let mut sender = Sender::new(shared.place.clone(), &target.sender);
    let mut log = SendLog::default();
    let padding = "x".repeat(plan.payload.saturating_sub(MARK_LEN));
    let batch = if shared.chat.is_some() { 1 } else { plan.batch.max(1) as u64 };
    let mut unreachable_since: Option<Instant> = None;
    while !shared.stop_senders.is_cancelled() {
        let first = shared.tags.fetch_add(batch, Ordering::Relaxed);
        let due = match plan.rate {
            Some(rate) => {
                let due = shared.zero + Duration::from_secs_f64(first as f64 / rate);
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = shared.stop_senders.cancelled() => break,
                }
                due
            }
            None => Instant::now(),
        };
        let due_micros = u64::try_from((due - shared.zero).as_micros()).unwrap_or(u64::MAX);
        let recipient_of = |tag: u64| {
            // A stride that is coprime to most counts of recipients reaches all of them in turn.
            (tag.wrapping_mul(7919) % target.recipients.len() as u64) as usize
        };
        let first_tag = shared.first_tag + first;
        let tags = first_tag..first_tag + batch;
        let began = shared.micros();
        let (status, outcome, places) = match &shared.chat {
            None => {
                let draft =
                    |tag| Draft { to: &target.recipients[recipient_of(tag)].0, due_micros, tag };
                let drafts: Vec<Draft<'_>> = tags.clone().map(draft).collect();
                let (status, outcome) = sender.post(&drafts, &plan.priority, &padding).await;
                (status, outcome, None)
            }
            Some(chat) => {
                let route = chat.route(first_tag, shared.phones);
                let bearer = chat.bearer(&route, &target);
                let mut tries = 0;
                let (status, outcome, place) = loop {
                    let (to, tag) = (route.conversation, first_tag);
                    let said = sender.send_chat(&bearer, to, due_micros, tag, &padding).await;
                    tries += 1;
                    // The message has a client id, so it can be sent again until it is answered.
                    if said.0 != 0
                        || tries == MAX_SEND_ATTEMPTS
                        || shared.stop_senders.is_cancelled()
                    {
                        break said;
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                };
                (status, vec![outcome], place)
            }
        };
        let ended = shared.micros();
        if ended >= shared.counted_from.load(Ordering::Relaxed) {
            log.answers.record(Duration::from_micros(ended.saturating_sub(due_micros)));
        }
        let accepted =
            outcome.iter().filter(|outcome| matches!(outcome, SendOutcome::Accepted(_))).count()
                as u64;
        shared.progress.accepted.fetch_add(accepted, Ordering::Relaxed);
        if accepted < batch {
            *log.refused.entry(status).or_default() += batch - accepted;
        }
        log.sends.extend(tags.zip(outcome).map(|(tag, outcome)| {
            let recipient = match &shared.chat {
                None => u32::try_from(recipient_of(tag)).unwrap_or(u32::MAX),
                Some(chat) => chat.route(tag, shared.phones).recipient,
            };
            let sender = u32::try_from(number).unwrap_or(u32::MAX);
            SentMessage { tag, sender, recipient, lane: 0, began, ended, outcome, place: places }
        }));
        if status == 0 {
            let since = *unreachable_since.get_or_insert_with(Instant::now);
            if since.elapsed() > UNREACHABLE_TIMEOUT {
                shared.stop_senders.cancel();
            }
            tokio::time::sleep(RETRY_DELAY).await;
        } else {
            unreachable_since = None;
            if matches!(status, 401 | 403) {
                shared.stop_senders.cancel();
            } else if status >= 429 {
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
    log
}

struct Measurement {
    at: Instant,
    accepted: u64,
    cost: Option<ProcessCost>,
}

impl Measurement {
    fn now(target: &LoadTarget, shared: &RunState) -> Measurement {
        Measurement {
            at: Instant::now(),
            accepted: shared.progress.accepted.load(Ordering::Relaxed),
            cost: target.pid.and_then(process_cost::cost),
        }
    }
}

/// Waits for the warm-up. Returns the start of the measurement.
async fn warm_up(target: &LoadTarget, shared: &RunState) -> Measurement {
    tokio::time::sleep(shared.plan.warmup).await;
    shared.counted_from.store(shared.micros(), Ordering::Relaxed);
    Measurement::now(target, shared)
}

/// Waits until every accepted message has arrived and every acknowledgement is durable, or nothing arrives any
/// more. Messages are compared by id: their count says nothing, because some without an answer arrive, too.
async fn drain(shared: &RunState, log: &SendLog) {
    let expecting = shared.plan.acknowledge >= 1.0;
    let mut missing: Vec<(u32, MessageId)> = log
        .sends
        .iter()
        .filter_map(|send| match send.outcome {
            SendOutcome::Accepted(id) => Some((send.recipient, id)),
            _ => None,
        })
        .collect();
    let (mut last, mut since) = ((0, 0), Instant::now());
    loop {
        let unanswered = shared.unanswered.load(Ordering::Relaxed);
        if expecting {
            missing.retain(|wanted| !shared.shard(wanted.0).shown.contains(wanted));
            if missing.is_empty() && unanswered == 0 {
                return;
            }
        }
        let now = (shared.progress.received.load(Ordering::Relaxed), unanswered);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let timeout = if expecting { ARRIVAL_TIMEOUT } else { Duration::from_secs(2) };
        if since.elapsed() > timeout {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn summary(
    shared: &RunState,
    log: SendLog,
    unread: &[(u64, i64, i64)],
    from: &Measurement,
    to: &Measurement,
) -> LoadResults {
    let mut results = LoadResults {
        took: to.at.duration_since(from.at),
        sent: log.sends.len() as u64,
        accepted: to.accepted - from.accepted,
        received: shared.progress.received.load(Ordering::Relaxed),
        answer: log.answers,
        cpu: from.cost.zip(to.cost).map(|(before, after)| {
            (
                after.own.saturating_sub(before.own),
                after.descendants.saturating_sub(before.descendants),
            )
        }),
        memory_kib: to.cost.map(|cost| cost.memory_kib),
        ..LoadResults::default()
    };
    results.refused = log.refused.into_iter().collect();
    results.refused.sort_unstable();
    results.unread_counts = unread.len() as u64;
    let mut history = History::new();
    for (conversation, shown, counted) in unread {
        history.unread(*conversation, *shown, *counted);
    }
    for send in log.sends {
        history.sent(send);
    }
    for shard in &shared.shards {
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        results.delivery.add(&shard.latencies);
        results.acknowledged += shard.acknowledged;
        shard.receipts.iter().for_each(|receipt| history.received(*receipt));
        shard.unreachable.iter().for_each(|recipient| history.left_early(*recipient));
    }
    results.report = history.check();
    results
}
