//! Acknowledgements: every receipt of a recipient passes here, over the hub and over HTTP.

use time::OffsetDateTime;

use super::{DeliveryService, receipts::ReceiptKind};
use crate::{
    app::{Caller, Error},
    domain::MessageId,
    store::message_status::Receipt,
};

/// The most ids in one acknowledgement.
pub const MAX_IDS: usize = 1000;

impl DeliveryService {
    /// Takes the caller's receipts for messages. Returns the messages that this changed; receipts for
    /// messages of others, and repeats, change nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] with too many ids, [`Error::Unavailable`]; [`Error::RateLimited`] after too many that
    /// changed nothing.
    pub async fn acknowledge(
        &self,
        caller: &Caller,
        kind: ReceiptKind,
        ids: Vec<(MessageId, Option<OffsetDateTime>)>,
    ) -> Result<Vec<MessageId>, Error> {
        if ids.len() > MAX_IDS {
            let message = format!("at most {MAX_IDS} ids in one call");
            return Err(Error::field("ids", "too_many", message));
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // What was written to the caller's connection and is not acknowledged yet can be acknowledged once.
        let counts = ids.iter().all(|(_, written_at)| written_at.is_none());
        let party = caller.party();
        if counts {
            self.limits.count_receipt(&party)?;
        }
        let changed = if kind == ReceiptKind::Read {
            // What was read in a conversation moves its counts.
            let ids: Vec<MessageId> = ids.into_iter().map(|(id, _)| id).collect();
            self.acknowledge_read(caller, &ids).await
        } else {
            self.record_receipts(caller, kind, ids).await
        };
        if counts && !matches!(&changed, Ok(changed) if changed.is_empty()) {
            self.limits.refund_receipt(&party);
        }
        changed
    }

    async fn record_receipts(
        &self,
        caller: &Caller,
        kind: ReceiptKind,
        ids: Vec<(MessageId, Option<OffsetDateTime>)>,
    ) -> Result<Vec<MessageId>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let at = self.core.clock().now();
        let by = caller.party();
        let receipts = ids
            .into_iter()
            .map(|(id, written_at)| Receipt { id, by: by.clone(), at, written_at })
            .collect();
        self.state.receipts.record(kind, receipts).await
    }

    /// The caller has opened these messages, chat or one-way.
    async fn acknowledge_read(
        &self,
        caller: &Caller,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, Error> {
        let (mut changed, one_way) = self.mark_chat_read(caller, ids).await?;
        let receipts = one_way.into_iter().map(|id| (id, None)).collect();
        changed.extend(self.record_receipts(caller, ReceiptKind::Read, receipts).await?);
        Ok(changed)
    }
}
