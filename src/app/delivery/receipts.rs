//! What became of messages, written in batches by one writer.
//!
//! One writer, because two batches that touch the same rows in another order would wait for each
//! other. What it writes is guarded in the statements: repeats and late comers change nothing.

mod backlog;

use std::{collections::HashMap, time::Duration};

use time::OffsetDateTime;
use uuid::Uuid;

use super::DeliveryService;
use crate::{
    app::{
        Error,
        batch_writer::{Batch, BatchTask, BatchWriter, Reply, Retry},
        clock::new_id,
    },
    domain::{
        DeadLetterClass, MessageId, Party, Status, feed::DeliveryAttempt, poison, retry::AfterMiss,
    },
    presence::Outbound,
    store::{
        self, Client, StatementGroup,
        message_status::{self, Changed, GivenUp, Missed, Receipt, WrittenAt},
    },
};

/// The most entries in one batch.
const BATCH_SIZE: usize = 500;
/// Why a message is given up when nobody acknowledged it.
const NOT_ACKNOWLEDGED: &str = "the recipient's device was connected and did not acknowledge";

/// Why a message is given up whose row cannot be read.
const UNREADABLE: &str = "what is stored of it cannot be read";

/// Why a message is given up on which the recipient's app failed as often as [`poison::MAX_FAILURES`].
const REFUSED: &str =
    "the recipient's app ended 5 connections with an error when it was sent this message";
const _: () = assert!(poison::MAX_FAILURES == 5, "the text above says how many");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptKind {
    Delivered,
    Read,
}

/// What is to be written.
pub(super) enum Entry {
    Receipts { kind: ReceiptKind, receipts: Vec<Receipt> },
    Written(Vec<WrittenAt>),
    Missed(Vec<(DeliveryAttempt, OffsetDateTime)>),
    Park(Vec<MessageId>),
    Unreadable(Vec<MessageId>),
    Refused(Vec<(DeliveryAttempt, OffsetDateTime)>),
}

impl Entry {
    fn weight(&self) -> usize {
        match self {
            Entry::Receipts { receipts, .. } => receipts.len(),
            Entry::Written(written) => written.len(),
            Entry::Missed(attempts) | Entry::Refused(attempts) => attempts.len(),
            Entry::Park(ids) | Entry::Unreadable(ids) => ids.len(),
        }
    }

    /// The recipient whose receipts they are; what the process noted is its own.
    fn party(&self) -> Option<&Party> {
        match self {
            Entry::Receipts { receipts, .. } => receipts.first().map(|receipt| &receipt.by),
            _ => None,
        }
    }
}

/// Writes what became of messages.
pub(super) struct ReceiptWriter {
    writer: BatchWriter<ReceiptBatch>,
    backlog: backlog::Backlog,
}

impl ReceiptWriter {
    pub(super) fn new() -> (ReceiptWriter, BatchTask<ReceiptBatch>) {
        let (writer, task) = BatchWriter::new();
        (ReceiptWriter { writer, backlog: backlog::Backlog::default() }, task)
    }

    /// Writes a recipient's receipts and tells which messages they changed.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; then the recipient has to say it again.
    pub(super) async fn record(
        &self,
        kind: ReceiptKind,
        receipts: Vec<Receipt>,
    ) -> Result<Vec<MessageId>, Error> {
        let _waits = receipts.first().map(|receipt| self.backlog.add(&receipt.by, receipts.len()));
        self.writer.write_when_free(Entry::Receipts { kind, receipts }).await
    }

    /// Returns when few receipts wait, or after a moment. The message writer waits for this before each
    /// batch: messages accepted faster than they are acknowledged only take longer, and one that is still
    /// unacknowledged after a second costs another write.
    pub(super) async fn wait_for_backlog(&self) {
        if self.backlog.shrinks().await.is_err() {
            metrics::counter!("esh3ar_ledger_behind_total").increment(1);
        }
    }

    /// Notes what was written to a connection and is not acknowledged yet.
    pub(super) fn note_written(&self, written: Vec<WrittenAt>) {
        self.note(Entry::Written(written));
    }

    /// Notes attempts that were not acknowledged in time, with the times of writing.
    pub(super) fn note_missed(&self, missed: Vec<(DeliveryAttempt, OffsetDateTime)>) {
        self.note(Entry::Missed(missed));
    }

    /// Notes messages whose recipient has no connection.
    pub(super) fn note_offline(&self, ids: Vec<MessageId>) {
        self.note(Entry::Park(ids));
    }

    /// Notes messages whose rows cannot be read: they are given up, so that they stand in nobody's way.
    pub(super) fn note_unreadable(&self, ids: Vec<MessageId>) {
        self.note(Entry::Unreadable(ids));
    }

    /// Notes attempts on which the recipient's app failed, with the times of writing: they are given up.
    pub(super) fn note_refused(&self, refused: Vec<(DeliveryAttempt, OffsetDateTime)>) {
        self.note(Entry::Refused(refused));
    }

    fn note(&self, entry: Entry) {
        if !self.writer.note(entry) {
            metrics::counter!("esh3ar_ledger_dropped_total").increment(1);
        }
    }
}

/// How receipts, and what the process noted of deliveries, are written.
pub(super) struct ReceiptBatch {
    delivery: DeliveryService,
}

impl ReceiptBatch {
    pub(super) fn new(delivery: DeliveryService) -> ReceiptBatch {
        ReceiptBatch { delivery }
    }
}

impl Batch for ReceiptBatch {
    type Request = Entry;
    /// The messages that a recipient's receipts changed.
    type Answer = Vec<MessageId>;
    type Context = ();
    type Stored = Vec<Changed>;

    // A recipient's receipt waits for room; what the system notes for itself is dropped when there is none,
    // because the sweeper finds it.
    const QUEUE_CAPACITY: usize = 8192;
    const BATCH_SIZE: usize = BATCH_SIZE;
    const RETRY: Retry = Retry::Times { retries: 9, wait: Duration::from_millis(300) };
    const GIVEN_UP: &'static str = "changes of status could not be stored";

    fn rows(entry: &Entry) -> usize {
        entry.weight()
    }

    fn party(entry: &Entry) -> Option<&Party> {
        entry.party()
    }

    fn record_size(rows: usize) {
        metrics::histogram!("esh3ar_ledger_batch_entries").record(rows as f64);
    }

    async fn context(&self, _entries: &[Entry]) {}

    async fn persist(&self, entries: &mut [Entry], _: &()) -> Result<Vec<Changed>, store::Error> {
        self.delivery.core.outages().timed(persist(&self.delivery, &Rows::of(entries))).await
    }

    fn finish(
        &self,
        entries: Vec<Entry>,
        replies: Vec<Reply<Vec<MessageId>>>,
        changed: Vec<Changed>,
        _: &(),
    ) {
        self.delivery.core.failpoint("ledger_after_commit");
        answer(&self.delivery, entries.into_iter().zip(replies), &changed);
        self.delivery.notify_senders(&changed);
    }
}

/// The rows of a batch, by what is done with them.
#[derive(Default)]
struct Rows {
    acknowledged: Vec<Receipt>,
    opened: Vec<Receipt>,
    written: Vec<WrittenAt>,
    missed: Vec<(DeliveryAttempt, OffsetDateTime)>,
    park: Vec<MessageId>,
    unreadable: Vec<MessageId>,
    refused: Vec<(DeliveryAttempt, OffsetDateTime)>,
}

impl Rows {
    fn of(entries: &[Entry]) -> Rows {
        let mut rows = Rows::default();
        for entry in entries {
            match entry {
                Entry::Receipts { kind: ReceiptKind::Delivered, receipts } => {
                    rows.acknowledged.extend_from_slice(receipts);
                }
                Entry::Receipts { kind: ReceiptKind::Read, receipts } => {
                    rows.opened.extend_from_slice(receipts)
                }
                Entry::Written(written) => rows.written.extend_from_slice(written),
                Entry::Missed(missed) => rows.missed.extend_from_slice(missed),
                Entry::Park(ids) => rows.park.extend_from_slice(ids),
                Entry::Unreadable(ids) => rows.unreadable.extend_from_slice(ids),
                Entry::Refused(refused) => rows.refused.extend_from_slice(refused),
            }
        }
        rows
    }
}

async fn persist(delivery: &DeliveryService, rows: &Rows) -> Result<Vec<Changed>, store::Error> {
    delivery.core.failpoint("ledger_before_write");
    let client = delivery.core.store().client_for(StatementGroup::Statuses).await?;
    let mut changed = Vec::new();
    if !rows.acknowledged.is_empty() {
        changed.extend(message_status::acknowledge(&client, &rows.acknowledged).await?);
    }
    if !rows.opened.is_empty() {
        changed.extend(message_status::mark_read(&client, &rows.opened).await?);
    }
    if !rows.written.is_empty() {
        changed.extend(
            message_status::mark_sent(&client, &rows.written, delivery.core.clock().now()).await?,
        );
        delivery.core.failpoint("ledger_after_sent");
    }
    if !rows.missed.is_empty() {
        changed.extend(judge_missed(delivery, &client, &rows.missed).await?);
    }
    if !rows.refused.is_empty() {
        let at = delivery.core.clock().now();
        let given_up: Vec<GivenUp> = rows
            .refused
            .iter()
            .map(|&(attempt, written_at)| GivenUp {
                dead_letter: new_id(),
                attempt,
                written_at,
                at,
            })
            .collect();
        changed.extend(
            give_up(delivery, &client, &given_up, REFUSED, DeadLetterClass::Content).await?,
        );
    }
    if !rows.park.is_empty() {
        message_status::park(&client, &rows.park).await?;
    }
    if !rows.unreadable.is_empty() {
        let letters: Vec<(Uuid, MessageId)> =
            rows.unreadable.iter().map(|id| (new_id(), *id)).collect();
        let now = delivery.core.clock().now();
        let buried = message_status::bury_unreadable(&client, &letters, UNREADABLE, now).await?;
        delivery.process.counters().failed(buried.len() as u64);
        DeliveryService::log_given_up(buried, UNREADABLE);
    }
    Ok(changed)
}

async fn judge_missed(
    delivery: &DeliveryService,
    client: &Client,
    missed: &[(DeliveryAttempt, OffsetDateTime)],
) -> Result<Vec<Changed>, store::Error> {
    let at = delivery.core.clock().now();
    let retry = delivery.core.runtime_settings().retry;
    let mut again = Vec::new();
    let mut given_up = Vec::new();
    for &(attempt, written_at) in missed {
        match retry.after_miss(attempt.retry_count) {
            AfterMiss::Retry { retry_count, after } => {
                again.push(Missed {
                    attempt,
                    written_at,
                    at,
                    retry_count,
                    next_attempt_at: at + after,
                });
            }
            AfterMiss::GiveUp => {
                let dead_letter = new_id();
                given_up.push(GivenUp { dead_letter, attempt, written_at, at });
            }
        }
    }
    if !again.is_empty() {
        let counted = message_status::retry(client, &again).await?;
        delivery.core.failpoint("ledger_after_retry");
        delivery.trace_retried(&again);
        delivery.process.counters().retried(counted.len() as u64);
        delivery.log_retried(&again, &counted, retry.attempts);
    }
    if given_up.is_empty() {
        return Ok(Vec::new());
    }
    give_up(delivery, client, &given_up, NOT_ACKNOWLEDGED, DeadLetterClass::Recipient).await
}

async fn give_up(
    delivery: &DeliveryService,
    client: &Client,
    given_up: &[GivenUp],
    reason: &'static str,
    class: DeadLetterClass,
) -> Result<Vec<Changed>, store::Error> {
    let failed = message_status::give_up(client, given_up, reason, class).await?;
    delivery.core.failpoint("ledger_after_give_up");
    delivery.trace_given_up(&failed, reason);
    delivery.process.counters().failed(failed.len() as u64);
    DeliveryService::log_given_up(failed.iter().map(|change| change.id), reason);
    Ok(failed)
}

fn answer(
    delivery: &DeliveryService,
    entries: impl Iterator<Item = (Entry, Reply<Vec<MessageId>>)>,
    changed: &[Changed],
) {
    // A message that two connections acknowledged in one batch changed once: the first gets it.
    let mut unclaimed: HashMap<(MessageId, Status), &Changed> =
        changed.iter().map(|change| ((change.id, change.status), change)).collect();
    for (entry, reply) in entries {
        let Entry::Receipts { kind, receipts } = entry else { continue };
        let status = match kind {
            ReceiptKind::Delivered => Status::Delivered,
            ReceiptKind::Read => Status::Read,
        };
        let mine: Vec<MessageId> = receipts
            .iter()
            .map(|receipt| receipt.id)
            .filter(|id| unclaimed.remove(&(*id, status)).is_some())
            .collect();
        if kind == ReceiptKind::Delivered && !mine.is_empty() {
            delivery
                .trace_acknowledged(receipts.iter().filter(|receipt| mine.contains(&receipt.id)));
        }
        if let Some(receipt) = receipts.first() {
            notify_other_connections(delivery, &receipt.by, &mine);
        }
        reply.send(Ok(mine));
    }
}

fn notify_other_connections(delivery: &DeliveryService, party: &Party, ids: &[MessageId]) {
    if !ids.is_empty() {
        delivery.core.presence().send(party, &Outbound::Acknowledged(ids.into()));
    }
}
