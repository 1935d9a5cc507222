//! Accepting chat messages: those that arrive together become one transaction, under the locks of their
//! conversations. One writer, so that a process never waits for itself.

use std::time::Duration;

use super::{
    App,
    batch_writer::{Batch, BatchWriter, Reply, Retry},
    delivery::Online,
};
use crate::{
    domain::{MessageId, Party},
    store::{
        self, StatementGroup,
        chat::{self, AppendOutcome, AppendResult, NewChat},
    },
};

/// A message to be stored.
pub(super) struct Request {
    new: NewChat,
    writer: Party,
    /// The sender's connection, which is not shown its own message; 0 for none.
    said_by: u64,
    recipient: Party,
    /// What an attempt gave it for an id: if the commit of that was not heard, the next attempt finds it.
    earlier: Option<MessageId>,
}

impl Request {
    pub(super) fn new(new: NewChat, writer: Party, recipient: Party, said_by: u64) -> Request {
        Request { new, writer, said_by, recipient, earlier: None }
    }
}

/// Stores chat messages.
pub(super) type ChatIntake = BatchWriter<Chats>;

/// Chat messages.
pub(super) struct Chats;

impl Batch for Chats {
    type Request = Request;
    type Answer = AppendResult;
    /// Who of the recipients is connected.
    type Context = Online;
    type Stored = AppendOutcome;

    const CAPACITY: usize = 4096;
    const MAX_ROWS: usize = 300;
    const RETRY: Retry = Retry::For(Duration::from_secs(5));
    const GIVEN_UP: &'static str = "chat messages could not be stored";

    fn party(request: &Request) -> Option<&Party> {
        Some(&request.writer)
    }

    async fn before_batch(app: &App) {
        app.inner.ledger.keeps_up().await;
    }

    async fn context(app: &App, requests: &[Request]) -> Online {
        app.online_among(requests.iter().map(|request| &request.recipient)).await
    }

    async fn persist(
        app: &App,
        requests: &mut [Request],
        online: &Online,
    ) -> Result<AppendOutcome, store::Error> {
        let new: Vec<NewChat> = requests.iter().map(|request| request.new.clone()).collect();
        let mut earlier: Vec<Option<MessageId>> =
            requests.iter().map(|request| request.earlier).collect();
        let retry = app.live().retry;
        let attempt = async {
            let mut client = app.store().client_for(StatementGroup::Chat).await?;
            chat::append(&mut client, &new, &mut earlier, |party| {
                app.born_leased_until(&retry, online, party, app.clock().now())
            })
            .await
        };
        let result = app.timed(attempt).await;
        for (request, earlier) in requests.iter_mut().zip(earlier) {
            request.earlier = earlier;
        }
        let outcome = result?;
        app.inner.trail.stored();
        Ok(outcome)
    }

    fn finish(
        app: &App,
        requests: Vec<Request>,
        replies: Vec<Reply<AppendResult>>,
        outcome: AppendOutcome,
        online: &Online,
    ) {
        let mut accepted = Vec::new();
        let mut answers = Vec::new();
        for ((request, reply), appended) in requests.into_iter().zip(replies).zip(outcome.messages)
        {
            if let AppendResult::New(message) = &appended {
                app.counters().accepted(1);
                accepted.push((message.clone(), request.said_by));
            }
            answers.push((reply, appended));
        }
        app.tell_own(&accepted);
        app.log_accepted(accepted.iter().map(|(message, _)| message));
        let messages = accepted.into_iter().map(|(message, _)| message).collect();
        app.answer_and_wake(messages, online, move || {
            answers.into_iter().for_each(|(reply, appended)| reply.send(Ok(appended)));
        });
        for conversation in outcome.conversations {
            app.tell_conversation(conversation);
        }
    }
}
