//! Accepting chat messages: those that arrive together become one transaction, under the locks of their
//! conversations. One writer, so that a process never waits for itself.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{App, Error, delivery::Online, gather::Gather};
use crate::{
    domain::{MessageId, Party},
    store::{
        self, Group,
        chat::{self, Appended, NewChat, Outcome},
    },
};

/// Messages that may wait for the writer; past that the answer is 503.
const WAITING: usize = 4096;
/// The most messages in one transaction.
const ROWS: usize = 300;
/// How long a batch is tried again while the database is away.
const PATIENCE: Duration = Duration::from_secs(5);
/// When a sender that found the writer's queue full should come back.
const COME_BACK: Duration = Duration::from_secs(1);

struct Request {
    new: NewChat,
    /// The sender's connection, which is not shown its own message; 0 for none.
    said_by: u64,
    recipient: Party,
    reply: oneshot::Sender<Result<Appended, Error>>,
}

/// The way to the writer.
pub struct ChatIntake {
    sender: mpsc::Sender<Request>,
}

/// The writer.
pub struct ChatIntakeWork {
    receiver: mpsc::Receiver<Request>,
}

impl ChatIntake {
    pub(super) fn new() -> (ChatIntake, ChatIntakeWork) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (ChatIntake { sender }, ChatIntakeWork { receiver })
    }

    /// Stores a message and waits until it is durable.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too much waits; [`Error::Unavailable`] when the outcome cannot be
    /// known.
    pub(super) async fn append(
        &self,
        new: NewChat,
        recipient: Party,
        said_by: u64,
    ) -> Result<Appended, Error> {
        let (reply, answer) = oneshot::channel();
        self.sender
            .try_send(Request { new, said_by, recipient, reply })
            .map_err(|_| Error::Overloaded { retry_after: COME_BACK })?;
        answer.await.unwrap_or(Err(Error::Unavailable))
    }
}

impl ChatIntakeWork {
    pub(super) async fn run(self, app: App, stop: CancellationToken) {
        let mut requests = Gather::new(self.receiver);
        loop {
            app.inner.ledger.keeps_up().await;
            let Some(batch) = requests.batch(ROWS, |_| 1, &stop).await else { return };
            write(&app, batch).await;
        }
    }
}

async fn write(app: &App, batch: Vec<Request>) {
    let online = app.online_among(batch.iter().map(|request| &request.recipient)).await;
    match persist_patiently(app, &batch, &online).await {
        Ok(outcome) => finish(app, batch, outcome, &online),
        Err(error) if !error.is_transient() && batch.len() > 1 => {
            // One bad row never fails its neighbours.
            tracing::warn!(%error, messages = batch.len(), "a chat batch was refused; one by one now");
            for request in batch {
                let alone = vec![request];
                match persist_patiently(app, &alone, &online).await {
                    Ok(outcome) => finish(app, alone, outcome, &online),
                    Err(error) => refuse(alone, &error),
                }
            }
        }
        Err(error) => refuse(batch, &error),
    }
}

async fn persist_patiently(
    app: &App,
    batch: &[Request],
    online: &Online,
) -> Result<Outcome, store::Error> {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(500))
        .without_max_times()
        .with_jitter()
        .build();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let new: Vec<NewChat> = batch.iter().map(|request| request.new.clone()).collect();
    let retry = app.live().retry;
    // What an attempt gave each message for an id: if its commit was not heard, the next one finds it.
    let mut earlier: Vec<Option<MessageId>> = vec![None; batch.len()];
    loop {
        let attempt = async {
            let mut client = app.store().client_for(Group::Chat).await?;
            chat::append(&mut client, &new, &mut earlier, |party| {
                app.born_leased_until(&retry, online, party, app.clock().now())
            })
            .await
        };
        let error = match tokio::time::timeout_at(deadline, app.timed(attempt)).await {
            Ok(Ok(outcome)) => {
                app.inner.trail.stored();
                return Ok(outcome);
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

fn finish(app: &App, batch: Vec<Request>, outcome: Outcome, online: &Online) {
    let mut accepted = Vec::new();
    let mut answers = Vec::new();
    for (request, appended) in batch.into_iter().zip(outcome.messages) {
        if let Appended::New(message) = &appended {
            app.counters().accepted(1);
            accepted.push((message.clone(), request.said_by));
        }
        answers.push((request.reply, appended));
    }
    app.tell_own(&accepted);
    app.log_accepted(accepted.iter().map(|(message, _)| message));
    let messages = accepted.into_iter().map(|(message, _)| message).collect();
    app.answer_and_wake(messages, online, move || {
        for (reply, appended) in answers {
            // The caller may have gone; the message is accepted all the same.
            let _ = reply.send(Ok(appended));
        }
    });
    for conversation in outcome.conversations {
        app.tell_conversation(conversation);
    }
}

fn refuse(batch: Vec<Request>, error: &store::Error) {
    tracing::error!(%error, messages = batch.len(), "chat messages could not be stored");
    for request in batch {
        let _ = request.reply.send(Err(Error::of_batch(error)));
    }
}
