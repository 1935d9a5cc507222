//! Accepting chat messages: those that arrive together become one transaction, under the locks of their
//! conversations. One writer, so that a process never waits for itself.

use std::time::Duration;

use crate::{
    app::{
        Core,
        batch_writer::{Batch, BatchWriter, Reply, Retry},
        delivery::{DeliveryService, online::Online},
        process::ProcessService,
    },
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

pub(super) type ChatWriter = BatchWriter<ChatBatch>;

/// How chat messages are stored.
pub(super) struct ChatBatch {
    pub(super) core: Core,
    pub(super) process: ProcessService,
    pub(super) delivery: DeliveryService,
}

impl Batch for ChatBatch {
    type Request = Request;
    type Answer = AppendResult;
    /// Who of the recipients is connected.
    type Context = Online;
    type Stored = AppendOutcome;

    const QUEUE_CAPACITY: usize = 4096;
    const BATCH_SIZE: usize = 300;
    const RETRY: Retry = Retry::For(Duration::from_secs(5));
    const GIVEN_UP: &'static str = "chat messages could not be stored";

    fn party(request: &Request) -> Option<&Party> {
        Some(&request.writer)
    }

    async fn before_batch(&self) {
        self.delivery.wait_for_backlog().await;
    }

    async fn context(&self, requests: &[Request]) -> Online {
        self.delivery.online_among(requests.iter().map(|request| &request.recipient)).await
    }

    async fn persist(
        &self,
        requests: &mut [Request],
        online: &Online,
    ) -> Result<AppendOutcome, store::Error> {
        let new: Vec<NewChat> = requests.iter().map(|request| request.new.clone()).collect();
        let mut earlier: Vec<Option<MessageId>> =
            requests.iter().map(|request| request.earlier).collect();
        let retry = self.core.runtime_settings().retry;
        let attempt = async {
            let mut client = self.core.store().client_for(StatementGroup::Chat).await?;
            chat::append(&mut client, &new, &mut earlier, |party| {
                self.delivery.born_leased_until(&retry, online, party, self.core.clock().now())
            })
            .await
        };
        let result = self.core.outages().timed(attempt).await;
        for (request, earlier) in requests.iter_mut().zip(earlier) {
            request.earlier = earlier;
        }
        let outcome = result?;
        self.core.outages().stored();
        Ok(outcome)
    }

    fn finish(
        &self,
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
                self.process.counters().accepted(1);
                accepted.push((message.clone(), request.said_by));
            }
            answers.push((reply, appended));
        }
        self.delivery.notify_own_connections(&accepted);
        self.delivery.log_accepted(accepted.iter().map(|(message, _)| message));
        let messages = accepted.into_iter().map(|(message, _)| message).collect();
        self.delivery.answer_and_wake(messages, online, move || {
            answers.into_iter().for_each(|(reply, appended)| reply.send(Ok(appended)));
        });
        for conversation in outcome.conversations {
            self.delivery.notify_conversation(conversation);
        }
    }
}
