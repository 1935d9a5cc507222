//! Accepting messages: sends that arrive together become one transaction.
//!
//! One writer takes whatever has queued up while the last transaction was committing, so a lone
//! message waits for nobody and a crowd shares its commits. Success is answered after COMMIT only.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{App, Error, delivery::Online, gather::Gather, messages::RequestKey};
use crate::{
    domain::{Message, Party, UserId, partitions, retry::RetryPolicy},
    store::{
        self, Group,
        idempotency::{self, Earlier, Keyed},
        messages::{self, NewMessage},
    },
};

/// Requests that may wait for the writer; past that the answer is 503.
const WAITING: usize = 4096;
/// The most messages in one transaction, unless a single request brings more.
const ROWS: usize = 500;
/// How long a batch is tried again while the database is away, before its senders are told.
const PATIENCE: Duration = Duration::from_secs(5);
/// When a sender that found the writer's queue full should come back.
const COME_BACK: Duration = Duration::from_secs(1);
/// How far ahead a new message's safety net lies, beyond the time an acknowledgement may take.
pub(super) const SAFETY: Duration = Duration::from_secs(25);

/// One request: its messages are stored all or not at all.
struct Request {
    messages: Vec<Message>,
    keyed: Option<Keyed>,
    reply: oneshot::Sender<Result<Accepted, Error>>,
}

/// What became of a request.
#[derive(Debug)]
pub enum Accepted {
    /// Its messages are durable.
    New,
    /// Its key had been used before: this was answered then.
    Earlier(Earlier),
}

/// The way to the writer.
pub struct Intake {
    sender: mpsc::Sender<Request>,
}

/// The writer.
pub struct IntakeWork {
    receiver: mpsc::Receiver<Request>,
}

impl Intake {
    pub(super) fn new() -> (Intake, IntakeWork) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Intake { sender }, IntakeWork { receiver })
    }

    /// How many requests wait for the writer.
    pub fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }

    /// Stores messages and waits until they are durable.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too much waits; [`Error::KeyReused`]; [`Error::Unavailable`] when
    /// the outcome cannot be known.
    pub async fn accept(
        &self,
        messages: Vec<Message>,
        keyed: Option<Keyed>,
    ) -> Result<Accepted, Error> {
        let (reply, answer) = oneshot::channel();
        self.sender
            .try_send(Request { messages, keyed, reply })
            .map_err(|_| Error::Overloaded { retry_after: COME_BACK })?;
        // The writer is gone only when the process stops.
        answer.await.unwrap_or(Err(Error::Unavailable))
    }
}

impl IntakeWork {
    pub(super) async fn run(self, app: App, stop: CancellationToken) {
        let mut requests = Gather::new(self.receiver);
        loop {
            app.inner.ledger.keeps_up().await;
            let weight = |request: &Request| request.messages.len();
            let Some(batch) = requests.batch(ROWS, weight, &stop).await else { return };
            let rows: usize = batch.iter().map(weight).sum();
            metrics::histogram!("esh3ar_send_batch_messages").record(rows as f64);
            write(&app, batch).await;
        }
    }
}

async fn write(app: &App, batch: Vec<Request>) {
    let recipients = batch.iter().flat_map(|request| &request.messages).map(|m| &m.recipient);
    let online = app.online_among(recipients).await;
    match persist_patiently(app, &batch, &online).await {
        Ok(outcomes) => {
            app.failpoint("intake_after_commit");
            finish(app, batch, outcomes, &online);
        }
        Err(error) if !error.is_transient() && batch.len() > 1 => {
            // One bad row never fails its neighbours.
            tracing::warn!(%error, requests = batch.len(), "a batch was refused; one by one now");
            for request in batch {
                let alone = vec![request];
                match persist_patiently(app, &alone, &online).await {
                    Ok(outcomes) => finish(app, alone, outcomes, &online),
                    Err(error) => refuse(alone, &error),
                }
            }
        }
        Err(error) => refuse(batch, &error),
    }
}

/// Whether each request was stored by us, or its key was taken.
type Outcomes = Vec<bool>;

async fn persist_patiently(
    app: &App,
    batch: &[Request],
    online: &Online,
) -> Result<Outcomes, store::Error> {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(500))
        .without_max_times()
        .with_jitter()
        .build();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // Storing the same rows again is harmless, so a commit whose outcome is unknown is repeated.
        let attempt = app.timed(persist(app, batch, online));
        let error = match tokio::time::timeout_at(deadline, attempt).await {
            Ok(Ok(outcomes)) => {
                app.inner.trail.stored();
                return Ok(outcomes);
            }
            Ok(Err(error)) if !error.is_transient() => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => return Err(store::Error::Unavailable("no answer in time".to_owned())),
        };
        app.inner.trail.database_failed(&error, app.clock().now());
        let wait = waits.next().unwrap_or(Duration::from_millis(500));
        if tokio::time::Instant::now() + wait >= deadline {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
    }
}

async fn persist(app: &App, batch: &[Request], online: &Online) -> Result<Outcomes, store::Error> {
    app.failpoint("intake_before_insert");
    let now = app.clock().now();
    let mut client = app.store().client_for(Group::Sends).await?;
    if batch.iter().all(|request| request.keyed.is_none()) {
        let rows = rows(app, batch.iter(), online);
        messages::insert_one_way(&client, &rows).await?;
        return Ok(vec![true; batch.len()]);
    }
    let transaction = client.transaction().await?;
    let expired = now - app.live().retention.idempotency_keys;
    // Polled together, so that they cross to the server together.
    let claims = batch.iter().map(|request| async {
        match &request.keyed {
            None => Ok(true),
            Some(keyed) => idempotency::claim(&transaction, keyed, now, expired).await,
        }
    });
    let mine = join_all(claims).await.into_iter().collect::<Result<Outcomes, _>>()?;
    let stored = batch.iter().zip(&mine).filter(|(_, mine)| **mine).map(|(request, _)| request);
    let rows = rows(app, stored, online);
    if !rows.is_empty() {
        messages::insert_one_way(&transaction, &rows).await?;
    }
    transaction.commit().await?;
    Ok(mine)
}

fn rows<'a>(
    app: &App,
    requests: impl Iterator<Item = &'a Request>,
    online: &Online,
) -> Vec<NewMessage<'a>> {
    let retry = app.live().retry;
    requests
        .flat_map(|request| &request.messages)
        .map(|message| NewMessage {
            message,
            partition: partitions::of(message),
            next_attempt_at: app.born_leased_until(
                &retry,
                online,
                &message.recipient,
                message.created_at,
            ),
        })
        .collect()
}

impl App {
    /// What a request with this key was answered before.
    ///
    /// # Errors
    /// [`Error::KeyReused`]; failures of the database.
    pub(super) async fn answered_before(
        &self,
        user: UserId,
        key: &RequestKey,
    ) -> Result<Option<Earlier>, Error> {
        let client = self.store().client_for(Group::Sends).await?;
        let expired = self.clock().now() - self.live().retention.idempotency_keys;
        let hashes = [key.request_hash, key.written_hash];
        match idempotency::earlier(&client, user, &key.key, expired).await? {
            Some(found) if hashes.iter().all(|hash| found.request_hash != *hash) => {
                Err(Error::KeyReused)
            }
            found => Ok(found),
        }
    }

    /// When the sweeper has to look at a new message: never while its recipient is offline, because
    /// the recipient's next connect is what finds it.
    pub(super) fn born_leased_until(
        &self,
        retry: &RetryPolicy,
        online: &Online,
        recipient: &Party,
        created_at: OffsetDateTime,
    ) -> Option<OffsetDateTime> {
        if self.settings().node.is_none() {
            return Some(created_at);
        }
        let lease = retry.acknowledge_timeout + SAFETY;
        self.is_online(online, recipient).then(|| created_at + lease)
    }
}

fn finish(app: &App, batch: Vec<Request>, outcomes: Outcomes, online: &Online) {
    let mut accepted = Vec::new();
    let mut replies = Vec::new();
    let mut repeats = Vec::new();
    for (request, mine) in batch.into_iter().zip(outcomes) {
        if mine {
            app.counters().accepted(request.messages.len());
            replies.push(request.reply);
            accepted.extend(request.messages);
        } else {
            repeats.push(request);
        }
    }
    app.log_accepted(&accepted);
    app.answer_and_wake(accepted, online, move || {
        for reply in replies {
            // The caller may have gone; the messages are accepted all the same.
            let _ = reply.send(Ok(Accepted::New));
        }
    });
    if !repeats.is_empty() {
        let app = app.clone();
        // Rare, and it must not hold up the next batch.
        tokio::spawn(async move {
            for request in repeats {
                let answer = earlier(&app, request.keyed.as_ref()).await;
                let _ = request.reply.send(answer);
            }
        });
    }
}

async fn earlier(app: &App, keyed: Option<&Keyed>) -> Result<Accepted, Error> {
    let Some(keyed) = keyed else { return Err(Error::Internal) };
    let key = RequestKey {
        key: keyed.key.clone(),
        request_hash: keyed.request_hash,
        written_hash: keyed.written_hash,
    };
    let found = app.answered_before(keyed.user, &key).await?;
    // It was there a moment ago; if it has expired since, the caller may come again.
    found.map(Accepted::Earlier).ok_or(Error::Unavailable)
}

fn refuse(batch: Vec<Request>, error: &store::Error) {
    tracing::error!(%error, requests = batch.len(), "messages could not be stored");
    for request in batch {
        let _ = request.reply.send(Err(Error::of_batch(error)));
    }
}
