//! Accepting messages: sends that arrive together become one transaction.

use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;

use super::{
    App, Error,
    batch_writer::{Batch, BatchWriter, Reply, Retry},
    delivery::Online,
    messages::RequestKey,
};
use crate::{
    domain::{Message, Party, UserId, partitions, retry::RetryPolicy},
    store::{
        self, StatementGroup,
        idempotency::{self, IdempotentRequest, StoredResponse},
        messages::{self, NewMessage},
    },
};

/// How far ahead a new message's safety net lies, beyond the time an acknowledgement may take.
pub(super) const SAFETY: Duration = Duration::from_secs(25);

/// One request: its messages are stored all or not at all.
pub(super) struct Request {
    sender: Party,
    messages: Vec<Message>,
    keyed: Option<IdempotentRequest>,
}

/// What became of a request.
#[derive(Debug)]
pub enum Accepted {
    /// Its messages are durable.
    New,
    /// Its key had been used before: this was answered then.
    Earlier(StoredResponse),
}

/// Stores one-way messages.
pub(super) type Intake = BatchWriter<Sends>;

/// Requests to send one-way messages.
pub(super) struct Sends;

impl Batch for Sends {
    type Request = Request;
    type Answer = Accepted;
    /// Who of the recipients is connected.
    type Context = Online;
    type Stored = Outcomes;

    const CAPACITY: usize = 4096;
    const MAX_ROWS: usize = 500;
    const RETRY: Retry = Retry::For(Duration::from_secs(5));
    const GIVEN_UP: &'static str = "messages could not be stored";

    fn rows(request: &Request) -> usize {
        request.messages.len()
    }

    fn party(request: &Request) -> Option<&Party> {
        Some(&request.sender)
    }

    async fn before_batch(app: &App) {
        app.inner.ledger.keeps_up().await;
    }

    fn record_size(rows: usize) {
        metrics::histogram!("esh3ar_send_batch_messages").record(rows as f64);
    }

    async fn context(app: &App, requests: &[Request]) -> Online {
        let messages = requests.iter().flat_map(|request| &request.messages);
        app.online_among(messages.map(|message| &message.recipient)).await
    }

    async fn persist(
        app: &App,
        requests: &mut [Request],
        online: &Online,
    ) -> Result<Outcomes, store::Error> {
        let outcomes = app.timed(persist(app, requests, online)).await?;
        app.inner.trail.stored();
        Ok(outcomes)
    }

    fn finish(
        app: &App,
        requests: Vec<Request>,
        replies: Vec<Reply<Accepted>>,
        outcomes: Outcomes,
        online: &Online,
    ) {
        app.failpoint("intake_after_commit");
        finish(app, requests.into_iter().zip(replies), outcomes, online);
    }
}

/// Whether each request was stored by us, or its key was taken.
type Outcomes = Vec<bool>;

async fn persist(app: &App, batch: &[Request], online: &Online) -> Result<Outcomes, store::Error> {
    app.failpoint("intake_before_insert");
    let now = app.clock().now();
    let mut client = app.store().client_for(StatementGroup::Sends).await?;
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
    /// Stores messages of a sender and waits until they are durable.
    ///
    /// # Errors
    /// As [`BatchWriter::write`], and [`Error::KeyReused`].
    pub(super) async fn accept(
        &self,
        sender: Party,
        messages: Vec<Message>,
        keyed: Option<IdempotentRequest>,
    ) -> Result<Accepted, Error> {
        self.inner.intake.write(Request { sender, messages, keyed }).await
    }

    /// What a request with this key was answered before.
    ///
    /// # Errors
    /// [`Error::KeyReused`]; failures of the database.
    pub(super) async fn answered_before(
        &self,
        user: UserId,
        key: &RequestKey,
    ) -> Result<Option<StoredResponse>, Error> {
        // By the sender's part: those who repeat must not stand in the way of what is stored.
        let party = Party::Business(user);
        let client = self.store().of(&party).client().await?;
        let expired = self.clock().now() - self.live().retention.idempotency_keys;
        let hashes = [key.request_hash, key.written_hash];
        match idempotency::stored_response(&client, user, &key.key, expired).await? {
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

fn finish(
    app: &App,
    requests: impl Iterator<Item = (Request, Reply<Accepted>)>,
    outcomes: Outcomes,
    online: &Online,
) {
    let mut accepted = Vec::new();
    let mut replies = Vec::new();
    let mut repeats = Vec::new();
    for ((request, reply), mine) in requests.zip(outcomes) {
        if mine {
            app.counters().accepted(request.messages.len());
            replies.push(reply);
            accepted.extend(request.messages);
        } else {
            repeats.push((request.keyed, reply));
        }
    }
    app.log_accepted(&accepted);
    app.answer_and_wake(accepted, online, move || {
        replies.into_iter().for_each(|reply| reply.send(Ok(Accepted::New)));
    });
    if !repeats.is_empty() {
        let app = app.clone();
        // Rare, and it must not hold up the next batch.
        tokio::spawn(async move {
            for (keyed, reply) in repeats {
                reply.send(earlier(&app, keyed.as_ref()).await);
            }
        });
    }
}

async fn earlier(app: &App, keyed: Option<&IdempotentRequest>) -> Result<Accepted, Error> {
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
