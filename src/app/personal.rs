//! Everything of one phone number: given out, or erased.

use std::time::Duration;

use time::OffsetDateTime;

use super::{App, By, Error};
use crate::{
    cache::Redis,
    domain::{Conversation, ConversationId, Message, MessageId, Party, Phone, audit::Action},
    store::{
        accounts::{self, MobileUser},
        chat, conversations,
        dead_letters::{self, DeadLetter, Filter},
        personal::{self, Device, Trace},
        story::Event,
        tokens::{self, Listed},
    },
};

pub use crate::store::personal::Counts;

/// How many messages are erased in one transaction, or read at once.
const AT_ONCE: i64 = 500;
/// How long a revoked token may still open something: gateways look every half second, and believe for one
/// second what they have read.
const UNSEEN: Duration = Duration::from_secs(2);

impl App {
    /// How much there is of a phone number; idempotency keys are not counted, see [`App::keys_of_phone`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is; failures of the database.
    pub async fn count_of_phone(&self, phone: &Phone) -> Result<Counts, Error> {
        let counts = personal::count(&mut self.store().client().await?, phone).await?;
        if counts == Counts::default() { Err(Error::NotFound("number")) } else { Ok(counts) }
    }

    /// How many idempotency keys name a number or its messages.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn keys_of_phone(&self, phone: &Phone) -> Result<i64, Error> {
        let mut counts = Counts::default();
        self.answers_of_phone(phone, false, &mut counts).await?;
        Ok(counts.idempotency_keys)
    }

    async fn answers_of_phone(
        &self,
        phone: &Phone,
        erase: bool,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        let client = self.store().client().await?;
        let mut after = OffsetDateTime::UNIX_EPOCH;
        while let Some(last) = personal::answers(&client, phone, after, erase, counts).await? {
            after = last;
        }
        Ok(())
    }

    /// Records that everything of a number is about to be written out.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is nothing; failures of the database.
    pub async fn begin_export(&self, by: &By, phone: &Phone) -> Result<(), Error> {
        let found = self.count_of_phone(phone).await;
        let mut entry = self.entry(by, Action::MobileExport);
        // Of a number of which nothing is stored, the log stores nothing either.
        entry = match &found {
            Ok(counts) => {
                let messages = usize::try_from(counts.messages).unwrap_or_default();
                entry.about([phone]).with("messages", messages)
            }
            Err(_) => entry.with("phone", phone.masked()),
        };
        self.record_end(entry, found).await.map(drop)
    }

    /// Erases everything of a phone number that was stored before this was called. That it is about to be is
    /// recorded first, then the phone is shut out: its connections are closed within a second, and only when
    /// nobody lets it in any more is anything deleted. `progress` is told how many messages are gone.
    ///
    /// What is sent to the number meanwhile and later is stored, as for any number that nobody has
    /// registered. Erasing again after a failure goes on where it ended.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn erase_phone(
        &self,
        by: &By,
        phone: &Phone,
        mut progress: impl FnMut(u64),
    ) -> Result<Counts, Error> {
        let mut counts = Counts::default();
        let entry = self.entry(by, Action::MobileErase).about([phone]);
        self.record(entry.with("begun", true)).await?;
        let mut client = self.store().client().await?;
        let began = self.clock().now();
        personal::shut_out(&client, phone, began, &mut counts).await?;
        let unseen = tokio::time::sleep(UNSEEN);
        personal::forget_phone(&mut client, phone, &mut counts).await?;
        // What it says until then would come after what is deleted here.
        unseen.await;
        // While the messages are there by which they are known.
        self.answers_of_phone(phone, true, &mut counts).await?;
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
        let mut entry = self.entry(by, Action::MobileErase).with("phone", phone.masked());
        for (what, count) in counts.named() {
            entry = entry.with(what, usize::try_from(count).unwrap_or_default());
        }
        self.record(entry).await?;
        // Last: whoever gives the reason may have named the number.
        personal::mask_audit_log(&mut client, phone, &mut counts).await?;
        Ok(counts)
    }

    /// Takes a phone number out of Redis: who is connected where, and what it sent lately; and all pages that
    /// are kept. Those of its conversations can be found by nobody any more, and whose they are neither:
    /// so the others go with them, and are read anew. Gives how many of either there were.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis is away.
    pub async fn erase_phone_from(
        &self,
        redis: &Redis,
        phone: &Phone,
    ) -> Result<(u64, u64), Error> {
        let key = Party::Mobile(phone.clone()).key();
        let party = redis.forget_party(&key).await.map_err(|_| Error::Unavailable)?;
        Ok((party, redis.forget_entries().await.map_err(|_| Error::Unavailable)?))
    }

    /// The mobile user of a phone, if there is one.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn mobile_of(&self, phone: &Phone) -> Result<Option<MobileUser>, Error> {
        Ok(accounts::find_mobile(&self.store().client().await?, phone).await?)
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

    /// The conversations of a phone.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn conversations_of_phone(&self, phone: &Phone) -> Result<Vec<Conversation>, Error> {
        let client = self.store().client().await?;
        let mut found = Vec::new();
        for id in personal::conversations(&client, phone).await? {
            found.extend(conversations::get(&client, id).await?);
        }
        Ok(found)
    }

    /// What was said in a conversation after a place, oldest first.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn said_after(&self, id: ConversationId, seq: i64) -> Result<Vec<Message>, Error> {
        let client = self.store().client().await?;
        Ok(chat::history(&client, id, None, Some(seq), AT_ONCE as usize).await?)
    }

    /// The dead letters and tokens of a phone, at most 1,000 of each.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn letters_and_tokens(
        &self,
        phone: &Phone,
    ) -> Result<(Vec<DeadLetter>, Vec<Listed>), Error> {
        const MOST: usize = 1000;
        let client = self.store().client().await?;
        let filter = Filter { recipient: Some(phone.clone()), ..Filter::default() };
        let letters = dead_letters::list(&client, &filter, MOST).await?;
        let party = Party::Mobile(phone.clone());
        Ok((letters, tokens::list(&client, Some(&party), None, MOST).await?))
    }

    /// The events of these messages, each with its message.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn events_of(&self, ids: &[MessageId]) -> Result<Vec<(MessageId, Event)>, Error> {
        Ok(personal::events_of(&self.store().client().await?, ids).await?)
    }
}
