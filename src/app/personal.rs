//! Everything of one phone number: given out, or erased.

use super::{App, Error};
use crate::{
    cache::Redis,
    domain::{ConversationId, Message, MessageId, Party, Phone},
    store::{
        personal::{self, Device, Trace},
        story::Event,
    },
};

pub use crate::store::personal::Counts;

/// How many messages are erased in one transaction, or read at once.
const AT_ONCE: i64 = 500;

impl App {
    /// How much there is of a phone number.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count_of_phone(&self, phone: &Phone) -> Result<Counts, Error> {
        Ok(personal::count(&mut self.store().client().await?, phone).await?)
    }

    /// Erases everything of a phone number that was stored before this was called. It is shut out first:
    /// its connections are closed within a second. `progress` is told how many messages are gone.
    ///
    /// What is sent to the number meanwhile and later is stored, as for any number that nobody has
    /// registered. Erasing again after a failure goes on where it ended.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn erase_phone(
        &self,
        phone: &Phone,
        mut progress: impl FnMut(u64),
    ) -> Result<Counts, Error> {
        let mut counts = Counts::default();
        let began = self.clock().now();
        let mut client = self.store().client().await?;
        personal::shut_out(&mut client, phone, began, &mut counts).await?;
        loop {
            let some = personal::conversations(&client, phone).await?;
            if some.is_empty() {
                break;
            }
            for id in some {
                while !personal::erase_conversation(&mut client, id, began, AT_ONCE, &mut counts)
                    .await?
                {
                    progress(u64::try_from(counts.messages).unwrap_or_default());
                }
            }
        }
        while personal::erase_one_way(&client, phone, began, AT_ONCE, &mut counts).await? {
            progress(u64::try_from(counts.messages).unwrap_or_default());
        }
        personal::erase_rest(&mut client, phone, &mut counts).await?;
        Ok(counts)
    }

    /// Takes a phone number out of Redis: who is connected where, and what it sent lately. Pages that are
    /// kept of its conversations can be found by nobody any more, and end within five minutes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis is away.
    pub async fn erase_phone_from(&self, redis: &Redis, phone: &Phone) -> Result<u64, Error> {
        let key = Party::Mobile(phone.clone()).key();
        redis.forget_party(&key).await.map_err(|_| Error::Unavailable)
    }

    /// The devices of a phone, and when it was here last.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn devices_and_trace(
        &self,
        phone: &Phone,
    ) -> Result<(Vec<Device>, Option<Trace>), Error> {
        let client = self.store().client().await?;
        Ok((personal::devices(&client, phone).await?, personal::trace(&client, phone).await?))
    }

    /// One-way messages to a phone, oldest first, from after one on; and where to go on.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn one_way_of_phone(
        &self,
        phone: &Phone,
        after: Option<MessageId>,
    ) -> Result<(Vec<Message>, Option<MessageId>), Error> {
        let client = self.store().client().await?;
        Ok(personal::one_way(&client, phone, after, AT_ONCE).await?)
    }

    /// The ids of the conversations of a phone.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn conversations_of_phone(
        &self,
        phone: &Phone,
    ) -> Result<Vec<ConversationId>, Error> {
        Ok(personal::conversations(&self.store().client().await?, phone).await?)
    }

    /// The events of these messages, each with its message.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn events_of(&self, ids: &[MessageId]) -> Result<Vec<(MessageId, Event)>, Error> {
        Ok(personal::events_of(&self.store().client().await?, ids).await?)
    }
}
