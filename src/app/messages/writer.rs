//! Accepting messages: sends that arrive together become one transaction.

use std::time::Duration;

use futures_util::future::join_all;

use super::{
    MessageService,
    idempotency::{RequestKey, answered_before},
};
use crate::{
    app::{
        Core, Error,
        batch_writer::{Batch, BatchWriter, Reply, Retry},
        delivery::{DeliveryService, online::Online},
        process::ProcessService,
    },
    domain::{Message, Party, partitions},
    store::{
        self, StatementGroup,
        idempotency::{self, IdempotentRequest, StoredResponse},
        messages::{self, NewMessage},
    },
};

/// One request: its messages are stored all or not at all.
pub(super) struct Request {
    sender: Party,
    messages: Vec<Message>,
    keyed: Option<IdempotentRequest>,
}

/// What became of a request.
#[derive(Debug)]
pub enum Accepted {
    New,
    /// Its key had been used before: this was answered then.
    Earlier(StoredResponse),
}

pub(super) type MessageWriter = BatchWriter<MessageBatch>;

/// How one-way messages are stored.
#[derive(Clone)]
pub(super) struct MessageBatch {
    pub(super) core: Core,
    pub(super) process: ProcessService,
    pub(super) delivery: DeliveryService,
}

impl Batch for MessageBatch {
    type Request = Request;
    type Answer = Accepted;
    /// Who of the recipients is connected.
    type Context = Online;
    type Stored = Outcomes;

    const QUEUE_CAPACITY: usize = 4096;
    const BATCH_SIZE: usize = 500;
    const RETRY: Retry = Retry::For(Duration::from_secs(5));
    const GIVEN_UP: &'static str = "messages could not be stored";

    fn rows(request: &Request) -> usize {
        request.messages.len()
    }

    fn party(request: &Request) -> Option<&Party> {
        Some(&request.sender)
    }

    async fn before_batch(&self) {
        self.delivery.wait_for_backlog().await;
    }

    fn record_size(rows: usize) {
        metrics::histogram!("esh3ar_send_batch_messages").record(rows as f64);
    }

    async fn context(&self, requests: &[Request]) -> Online {
        let messages = requests.iter().flat_map(|request| &request.messages);
        self.delivery.online_among(messages.map(|message| &message.recipient)).await
    }

    async fn persist(
        &self,
        requests: &mut [Request],
        online: &Online,
    ) -> Result<Outcomes, store::Error> {
        let outcomes = self.core.outages().timed(persist(self, requests, online)).await?;
        self.core.outages().stored();
        Ok(outcomes)
    }

    fn finish(
        &self,
        requests: Vec<Request>,
        replies: Vec<Reply<Accepted>>,
        outcomes: Outcomes,
        online: &Online,
    ) {
        self.core.failpoint("intake_after_commit");
        finish(self, requests.into_iter().zip(replies), outcomes, online);
    }
}

/// Whether each request was stored by us, or its key was taken.
type Outcomes = Vec<bool>;

async fn persist(
    writes: &MessageBatch,
    batch: &[Request],
    online: &Online,
) -> Result<Outcomes, store::Error> {
    writes.core.failpoint("intake_before_insert");
    let now = writes.core.clock().now();
    let mut client = writes.core.store().client_for(StatementGroup::Sends).await?;
    if batch.iter().all(|request| request.keyed.is_none()) {
        let rows = rows(writes, batch.iter(), online);
        messages::insert_one_way(&client, &rows).await?;
        return Ok(vec![true; batch.len()]);
    }
    let transaction = client.transaction().await?;
    let expired = now - writes.core.runtime_settings().retention.idempotency_keys;
    // Polled together, so that they cross to the server together.
    let claims = batch.iter().map(|request| async {
        match &request.keyed {
            None => Ok(true),
            Some(keyed) => idempotency::claim(&transaction, keyed, now, expired).await,
        }
    });
    let mine = join_all(claims).await.into_iter().collect::<Result<Outcomes, _>>()?;
    let stored = batch.iter().zip(&mine).filter(|(_, mine)| **mine).map(|(request, _)| request);
    let rows = rows(writes, stored, online);
    if !rows.is_empty() {
        messages::insert_one_way(&transaction, &rows).await?;
    }
    transaction.commit().await?;
    Ok(mine)
}

fn rows<'a>(
    writes: &MessageBatch,
    requests: impl Iterator<Item = &'a Request>,
    online: &Online,
) -> Vec<NewMessage<'a>> {
    let retry = writes.core.runtime_settings().retry;
    requests
        .flat_map(|request| &request.messages)
        .map(|message| NewMessage {
            message,
            partition: partitions::of(message),
            next_attempt_at: writes.delivery.born_leased_until(
                &retry,
                online,
                &message.recipient,
                message.created_at,
            ),
        })
        .collect()
}

impl MessageService {
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
        self.state.writer.write(Request { sender, messages, keyed }).await
    }

    /// Looks how many deliveries are in flight and draws the consequences. Returns when to look again.
    ///
    /// # Errors
    /// Failures of the database; what was last seen stands.
    pub async fn watch_in_flight(&self) -> Result<Duration, Error> {
        const INTERVAL: Duration = Duration::from_secs(1);
        const INTERVAL_UNDER_LOAD: Duration = Duration::from_millis(250);
        let limiter = self.limits.limiter();
        let limit = limiter.limits().queue_depth;
        if limit == 0 {
            // There may have been one a moment ago.
            limiter.observe(0, 0);
            return Ok(INTERVAL);
        }
        // No further than where the last level is entered: counting on would change nothing.
        let most = i64::try_from(limit.saturating_add(limit / 10)).unwrap_or(i64::MAX);
        let client = self.core.store().client_for(StatementGroup::Sweeps).await?;
        let found = messages::in_flight(&client, most).await?;
        let found = u64::try_from(found).unwrap_or_default() + self.state.writer.waiting() as u64;
        limiter.observe(limit, found);
        Ok(if found > limit / 4 { INTERVAL_UNDER_LOAD } else { INTERVAL })
    }
}

fn finish(
    writes: &MessageBatch,
    requests: impl Iterator<Item = (Request, Reply<Accepted>)>,
    outcomes: Outcomes,
    online: &Online,
) {
    let mut accepted = Vec::new();
    let mut replies = Vec::new();
    let mut repeats = Vec::new();
    for ((request, reply), mine) in requests.zip(outcomes) {
        if mine {
            writes.process.counters().accepted(request.messages.len());
            replies.push(reply);
            accepted.extend(request.messages);
        } else {
            repeats.push((request.keyed, reply));
        }
    }
    writes.delivery.log_accepted(&accepted);
    writes.delivery.answer_and_wake(accepted, online, move || {
        replies.into_iter().for_each(|reply| reply.send(Ok(Accepted::New)));
    });
    if !repeats.is_empty() {
        let core = writes.core.clone();
        // Rare, and it must not hold up the next batch.
        tokio::spawn(async move {
            for (keyed, reply) in repeats {
                reply.send(earlier(&core, keyed.as_ref()).await);
            }
        });
    }
}

async fn earlier(core: &Core, keyed: Option<&IdempotentRequest>) -> Result<Accepted, Error> {
    let Some(keyed) = keyed else { return Err(Error::Internal) };
    let key = RequestKey {
        key: keyed.key.clone(),
        request_hash: keyed.request_hash,
        written_hash: keyed.written_hash,
    };
    let found = answered_before(core, keyed.user, &key).await?;
    // It was there a moment ago; if it has expired since, the caller may come again.
    found.map(Accepted::Earlier).ok_or(Error::Unavailable)
}
