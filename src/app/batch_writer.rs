//! Stores requests that arrive together in one transaction.
//!
//! Each kind of request has one task that writes. It takes what has queued up while the last transaction
//! was committing, so a single request waits for nobody and many share a commit. A caller is answered
//! after COMMIT only, and everything that was queued before the stop is still stored.
//!
//! Batches are put together in turn by party: what one party has queued delays another by one batch, and not by all
//! of it. See [`FairQueue`](crate::domain::FairQueue).
//!
//! A statement costs Postgres some 200 to 400 µs whatever it carries, and 10 to 20 µs a row. At an
//! idle moment nobody waits; when many arrive, a short wait makes one statement of several.

mod queue;

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Error, database_outages::DatabaseOutages};
use crate::{domain::Party, store};

/// When a caller that found the queue full should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The waits between attempts with [`Retry::For`].
const MIN_RETRY_DELAY: Duration = Duration::from_millis(20);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(500);

/// One kind of request, as far as it differs from the others.
pub(super) trait Batch: Sized + Send + Sync + 'static {
    /// What a caller brings; stored all or not at all.
    type Request: Send + Sync + 'static;
    /// What a caller is told.
    type Answer: Send + 'static;
    /// What is looked up once for a batch and used by every attempt at it.
    type Context: Send + Sync;
    /// What an attempt tells of what it stored.
    type Stored: Send;

    /// Requests that may wait, half of them of one party; see [`BatchWriter`] for what happens past that.
    const QUEUE_CAPACITY: usize;
    /// The most rows in one batch, unless a single request brings more.
    const BATCH_SIZE: usize;
    /// What follows from failures that may pass.
    const RETRY: Retry;
    /// What the log says when a batch is given up.
    const GIVEN_UP: &'static str;

    /// How many rows a request brings.
    fn rows(_request: &Self::Request) -> usize {
        1
    }

    /// Who brings a request: parties get their turns, and each keeps its order. `None` is the process itself.
    fn party(_request: &Self::Request) -> Option<&Party> {
        None
    }

    /// Runs before each batch; holds up the requests while that is better than taking them.
    fn before_batch(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Records the size of a batch.
    fn record_size(_rows: usize) {}

    /// Looks up what every attempt needs.
    fn context(&self, requests: &[Self::Request]) -> impl Future<Output = Self::Context> + Send;

    /// One attempt. It may be repeated with the same requests after any failure, also when its commit
    /// went through and was not heard of: storing a request a second time must change nothing. What a
    /// later attempt needs to know of this one is written into the requests.
    fn persist(
        &self,
        requests: &mut [Self::Request],
        context: &Self::Context,
    ) -> impl Future<Output = Result<Self::Stored, store::Error>> + Send;

    /// Answers the callers, and does what follows from what was stored. `requests`, `replies` and what
    /// `stored` says of them have the same order.
    fn finish(
        &self,
        requests: Vec<Self::Request>,
        replies: Vec<Reply<Self::Answer>>,
        stored: Self::Stored,
        context: &Self::Context,
    );
}

/// What follows from failures that may pass. Failures that will not pass are never tried again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Retry {
    /// The callers are told of the first one.
    Never,
    /// So many further attempts, with the same wait before each; none has a time limit.
    Times {
        /// Attempts after the first.
        retries: usize,
        /// The wait before each.
        wait: Duration,
    },
    /// Further attempts with growing waits for this long; an attempt that is not done by then is cancelled.
    For(Duration),
}

impl Retry {
    fn waits(self) -> Box<dyn Iterator<Item = Duration> + Send> {
        match self {
            Retry::Never => Box::new(std::iter::empty()),
            Retry::Times { retries, wait } => Box::new(std::iter::repeat_n(wait, retries)),
            Retry::For(_) => Box::new(
                ExponentialBuilder::default()
                    .with_min_delay(MIN_RETRY_DELAY)
                    .with_max_delay(MAX_RETRY_DELAY)
                    .without_max_times()
                    .with_jitter()
                    .build(),
            ),
        }
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Retry::Never | Retry::Times { .. } => None,
            Retry::For(time) => Some(Instant::now() + time),
        }
    }
}

/// Where the answer to a request goes, if anybody waits for one.
pub(super) struct Reply<A>(Option<oneshot::Sender<Result<A, Error>>>);

impl<A> Reply<A> {
    /// The caller may have gone; what is stored stays stored.
    pub(super) fn send(self, answer: Result<A, Error>) {
        if let Some(sender) = self.0 {
            let _ = sender.send(answer);
        }
    }
}

type Queued<B> = (<B as Batch>::Request, Reply<<B as Batch>::Answer>);

/// Hands requests to the task that stores them.
pub(super) struct BatchWriter<B: Batch> {
    queue: queue::Sender<Queued<B>>,
}

/// The task that stores requests.
pub(super) struct BatchTask<B: Batch> {
    queue: queue::Receiver<Queued<B>>,
}

impl<B: Batch> BatchWriter<B> {
    pub(super) fn new() -> (BatchWriter<B>, BatchTask<B>) {
        let (sender, receiver) = queue::new(B::QUEUE_CAPACITY);
        (BatchWriter { queue: sender }, BatchTask { queue: receiver })
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Stores a request and waits until it is durable.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full or the party has used its share of it,
    /// [`Error::Unavailable`] when the outcome cannot be known; and what [`Batch::finish`] answers.
    pub(super) async fn write(&self, request: B::Request) -> Result<B::Answer, Error> {
        let (reply, answer) = oneshot::channel();
        self.try_send(request, Reply(Some(reply)))
            .map_err(|()| Error::Overloaded { retry_after: RETRY_AFTER })?;
        // The task is gone only when the process stops.
        answer.await.unwrap_or(Err(Error::Unavailable))
    }

    /// As [`BatchWriter::write`], but waits for room in the queue.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the outcome cannot be known; and what [`Batch::finish`] answers.
    pub(super) async fn write_when_free(&self, request: B::Request) -> Result<B::Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let (party, rows) = (B::party(&request).cloned(), B::rows(&request));
        let queued = (request, Reply(Some(reply)));
        let sent = self.queue.send(party.as_ref(), rows, queued).await;
        sent.map_err(|_| Error::Unavailable)?;
        answer.await.unwrap_or(Err(Error::Unavailable))
    }

    /// Queues a request whose outcome nobody waits for. `false` when the queue is full: it is dropped.
    pub(super) fn note(&self, request: B::Request) -> bool {
        self.try_send(request, Reply(None)).is_ok()
    }

    fn try_send(&self, request: B::Request, reply: Reply<B::Answer>) -> Result<(), ()> {
        let (party, rows) = (B::party(&request).cloned(), B::rows(&request));
        self.queue.try_send(party.as_ref(), rows, (request, reply)).map_err(|_| ())
    }
}

impl<B: Batch> BatchTask<B> {
    /// Runs until `stop` is cancelled and everything that was queued before is stored. `kind` knows how its
    /// requests are stored.
    pub(super) async fn run(mut self, outages: DatabaseOutages, kind: B, stop: CancellationToken) {
        loop {
            kind.before_batch().await;
            let Some(batch) = self.queue.batch(B::BATCH_SIZE, &stop).await else { return };
            B::record_size(batch.iter().map(|(request, _)| B::rows(request)).sum());
            let (requests, replies) = batch.into_iter().unzip();
            store_batch(&outages, &kind, requests, replies).await;
        }
    }
}

async fn store_batch<B: Batch>(
    outages: &DatabaseOutages,
    kind: &B,
    mut requests: Vec<B::Request>,
    replies: Vec<Reply<B::Answer>>,
) {
    let context = kind.context(&requests).await;
    match persist(outages, kind, &mut requests, &context).await {
        Ok(stored) => kind.finish(requests, replies, stored, &context),
        Err(error) if !error.is_transient() && requests.len() > 1 => {
            // One bad row never fails its neighbours.
            let count = requests.len();
            tracing::warn!(%error, requests = count, "a batch was refused; one by one now");
            let mut left = requests.into_iter().zip(replies);
            while let Some((request, reply)) = left.next() {
                let (mut request, mut reply) = (vec![request], vec![reply]);
                match persist(outages, kind, &mut request, &context).await {
                    Ok(stored) => kind.finish(request, reply, stored, &context),
                    // The others would wait for the database one after the other.
                    Err(error) if error.is_transient() => {
                        reply.extend(left.map(|(_, reply)| reply));
                        return give_up::<B>(reply, &error);
                    }
                    Err(error) => give_up::<B>(reply, &error),
                }
            }
        }
        Err(error) => give_up::<B>(replies, &error),
    }
}

async fn persist<B: Batch>(
    outages: &DatabaseOutages,
    kind: &B,
    requests: &mut [B::Request],
    context: &B::Context,
) -> Result<B::Stored, store::Error> {
    let mut waits = B::RETRY.waits();
    let deadline = B::RETRY.deadline();
    loop {
        let attempt = kind.persist(requests, context);
        let result = match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline, attempt).await {
                Ok(result) => result,
                Err(_) => return Err(store::Error::Unavailable("no answer in time".to_owned())),
            },
            None => attempt.await,
        };
        let error = match result {
            Err(error) if error.is_transient() => error,
            done => return done,
        };
        let Some(wait) = waits.next() else { return Err(error) };
        outages.failed(&error);
        if deadline.is_some_and(|deadline| Instant::now() + wait >= deadline) {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
    }
}

fn give_up<B: Batch>(replies: Vec<Reply<B::Answer>>, error: &store::Error) {
    tracing::error!(%error, requests = replies.len(), "{}", B::GIVEN_UP);
    for reply in replies {
        reply.send(Err(Error::of_batch(error)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers;

    impl Batch for Numbers {
        type Request = usize;
        type Answer = usize;
        type Context = ();
        type Stored = ();

        const QUEUE_CAPACITY: usize = 2;
        const BATCH_SIZE: usize = 10;
        const RETRY: Retry = Retry::Never;
        const GIVEN_UP: &'static str = "numbers could not be stored";

        async fn context(&self, _numbers: &[usize]) {}

        async fn persist(&self, _: &mut [usize], _: &()) -> Result<(), store::Error> {
            Ok(())
        }

        fn finish(&self, numbers: Vec<usize>, replies: Vec<Reply<usize>>, _: (), _: &()) {
            numbers.into_iter().zip(replies).for_each(|(number, reply)| reply.send(Ok(number)));
        }
    }

    #[tokio::test]
    async fn a_full_queue_takes_nothing_and_everybody_who_waits_is_told_of_the_end() {
        let (writer, mut task) = BatchWriter::<Numbers>::new();
        assert!(writer.note(1) && writer.note(2));
        assert_eq!(writer.waiting(), 2);
        assert!(!writer.note(3));
        assert!(matches!(writer.write(3).await, Err(Error::Overloaded { .. })));
        let end = async {
            let stop = CancellationToken::new();
            let batch = task.queue.batch(1, &stop).await.expect("one waits");
            assert_eq!(batch[0].0, 1);
            // One more has come in since then, and gets no answer either.
            tokio::task::yield_now().await;
            drop(task);
        };
        let (told, ()) = tokio::join!(writer.write_when_free(3), end);
        assert!(matches!(told, Err(Error::Unavailable)));
        assert!(matches!(writer.write_when_free(4).await, Err(Error::Unavailable)));
        assert!(matches!(writer.write(4).await, Err(Error::Overloaded { .. })));
    }

    #[tokio::test]
    async fn all_of_a_batch_that_is_given_up_are_told_why() {
        let (replies, answers): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| oneshot::channel())
            .map(|(reply, answer)| (Reply(Some(reply)), answer))
            .unzip();
        give_up::<Numbers>(replies, &store::Error::DiskFull("full".to_owned()));
        for answer in answers {
            assert!(matches!(answer.await, Ok(Err(Error::DiskFull))));
        }
        Reply::<usize>(None).send(Ok(1));
    }

    #[test]
    fn attempts_are_repeated_as_often_as_each_kind_says() {
        let wait = Duration::from_millis(300);
        assert_eq!(Retry::Never.waits().count(), 0);
        let fixed: Vec<Duration> = Retry::Times { retries: 9, wait }.waits().collect();
        assert_eq!(fixed, [wait; 9]);
        assert!(Retry::Times { retries: 9, wait }.deadline().is_none());
        let growing = Retry::For(Duration::from_secs(5));
        let waits: Vec<Duration> = growing.waits().take(1000).collect();
        assert_eq!(waits.len(), 1000, "only the deadline ends it");
        assert!(
            waits[0] >= MIN_RETRY_DELAY && waits.iter().all(|wait| *wait <= 2 * MAX_RETRY_DELAY)
        );
        assert!(growing.deadline().is_some());
    }
}
