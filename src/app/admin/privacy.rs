//! Everything of one phone number: given out, or erased.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AdminService;
use crate::app::{By, Error};
use crate::{
    cache::Cache,
    domain::{Conversation, ConversationId, Message, MessageId, Party, Phone, audit::AuditAction},
    redis::{self, Redis},
    store::{
        accounts::{self, MobileUser},
        chat, conversations,
        dead_letters::{self, DeadLetter, DeadLetterFilter},
        privacy,
        tokens::{self, TokenInfo},
    },
};

pub use crate::store::{
    privacy::{ErasureCounts, ExportedDevice, ExportedRegistration, PresenceRecord},
    timeline::TimelineEvent,
};

/// How many messages are erased in one transaction, or read at once.
const BATCH_SIZE: i64 = 500;
/// How long a revoked token may still open something: gateways look every half second, and believe for one
/// second what they have read.
const REVOCATION_DELAY: Duration = Duration::from_secs(2);
/// How long Redis may take to answer before anything is begun.
const REDIS_TIMEOUT: Duration = Duration::from_secs(3);

/// Erasures that run at once in a process. Each may hold a connection of the pool, which others need as well.
const MAX_CONCURRENCY: usize = 2;
/// How long another one waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(3);

/// Whose turn it is to erase.
pub(in crate::app) struct Erasures {
    turns: Arc<Semaphore>,
}

impl Default for Erasures {
    fn default() -> Self {
        Erasures { turns: Arc::new(Semaphore::new(MAX_CONCURRENCY)) }
    }
}

impl Erasures {
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Error> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned());
        match turn.await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::Overloaded { retry_after: TURN_TIMEOUT }),
        }
    }
}

/// The erasure of a number: that it is about to be is recorded, and nothing is erased yet.
pub struct Erasure {
    admin: AdminService,
    by: By,
    phone: Phone,
    found: ErasureCounts,
    /// Given back when it has ended.
    turn: OwnedSemaphorePermit,
}

/// What an erasure took away.
#[derive(Debug)]
pub struct Erased {
    /// Of the database.
    pub counts: ErasureCounts,
    /// Keys of Redis, where there is one: the number's own, and pages that were kept, everybody's. A failure
    /// if it went away meanwhile.
    pub redis: Option<Result<(u64, u64), Error>>,
}

impl AdminService {
    /// How much there is of a phone number; idempotency keys are not counted.
    async fn count_of_phone(&self, phone: &Phone) -> Result<ErasureCounts, Error> {
        let counts = privacy::count(&mut self.core.store().client().await?, phone).await?;
        if counts == ErasureCounts::default() { Err(Error::NotFound("number")) } else { Ok(counts) }
    }

    /// How much an erasure of a phone number would take away. That somebody asked is recorded.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is stored of it; failures of the database.
    pub async fn preview_erasure(&self, by: &By, phone: &Phone) -> Result<ErasureCounts, Error> {
        let found = async {
            let mut counts = self.count_of_phone(phone).await?;
            self.answers_of_phone(phone, false, &mut counts).await?;
            Ok(counts)
        }
        .await;
        let entry = self.core.entry(by, AuditAction::MobileErase).with("dryRun", true);
        let entry = match &found {
            Ok(_) => entry.about([phone]),
            // Of a number of which nothing is stored, the log stores nothing either.
            Err(_) => entry.with("phone", phone.masked()),
        };
        self.core.record_end(entry, found).await
    }

    async fn answers_of_phone(
        &self,
        phone: &Phone,
        erase: bool,
        counts: &mut ErasureCounts,
    ) -> Result<(), Error> {
        let client = self.core.store().client().await?;
        let mut after = OffsetDateTime::UNIX_EPOCH;
        while let Some(last) =
            privacy::erase_stored_responses(&client, phone, after, erase, counts).await?
        {
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
        let mut entry = self.core.entry(by, AuditAction::MobileExport);
        // Of a number of which nothing is stored, the log stores nothing either.
        entry = match &found {
            Ok(counts) => {
                let messages = usize::try_from(counts.messages).unwrap_or_default();
                entry.about([phone]).with("messages", messages)
            }
            Err(_) => entry.with("phone", phone.masked()),
        };
        self.core.record_end(entry, found).await.map(drop)
    }

    /// Begins to erase a phone number: looks how much there is and whether everything that has some of it
    /// can be reached, which must not be found out half way, and records that it is about to be.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is stored of it; [`Error::Away`] without Redis where there is to be
    /// one; [`Error::Overloaded`] while others are erased; failures of the database.
    pub async fn begin_erasure(&self, by: &By, phone: &Phone) -> Result<Erasure, Error> {
        let found = async {
            let counts = self.count_of_phone(phone).await?;
            let turn = self.state.erasures.turn().await?;
            match self.redis() {
                Some(redis) if redis.ready(REDIS_TIMEOUT).await.is_err() => {
                    Err(Error::Away("Redis"))
                }
                _ => Ok((counts, turn)),
            }
        }
        .await;
        let entry = self.core.entry(by, AuditAction::MobileErase);
        let entry = match &found {
            Ok(_) => entry.about([phone]).with("begun", true),
            Err(_) => entry.with("phone", phone.masked()),
        };
        let (found, turn) = self.core.record_end(entry, found).await?;
        Ok(Erasure { admin: self.clone(), by: by.clone(), phone: phone.clone(), found, turn })
    }

    /// Waits for the erasures that were begun; none begins any more.
    pub async fn finish_erasures(&self) {
        let turns = &self.state.erasures.turns;
        // All turns are taken: nobody else has one.
        let all = turns.acquire_many(MAX_CONCURRENCY as u32).await;
        turns.close();
        drop(all);
    }

    fn redis(&self) -> Option<&Redis> {
        match self.core.cache() {
            Cache::Redis(redis) => Some(redis),
            Cache::Local(_) => None,
        }
    }

    /// The mobile user of a phone, if there is one.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn mobile_of(&self, phone: &Phone) -> Result<Option<MobileUser>, Error> {
        Ok(accounts::find_mobile(&self.core.store().client().await?, phone).await?)
    }

    /// The devices of a phone, and when it was here last.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn devices_and_trace(
        &self,
        phone: &Phone,
    ) -> Result<(Vec<ExportedDevice>, Option<PresenceRecord>), Error> {
        let client = self.core.store().client().await?;
        Ok((privacy::devices(&client, phone).await?, privacy::presence(&client, phone).await?))
    }

    /// The registrations of a phone that are kept.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn registrations_of_phone(
        &self,
        phone: &Phone,
    ) -> Result<Vec<ExportedRegistration>, Error> {
        let client = self.core.store().client().await?;
        Ok(privacy::registrations(&client, phone).await?)
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
        let client = self.core.store().client().await?;
        Ok(privacy::one_way(&client, phone, after, BATCH_SIZE).await?)
    }

    /// The conversations of a phone.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn conversations_of_phone(&self, phone: &Phone) -> Result<Vec<Conversation>, Error> {
        let client = self.core.store().client().await?;
        let mut found = Vec::new();
        for id in privacy::conversations(&client, phone).await? {
            found.extend(conversations::get(&client, id).await?);
        }
        Ok(found)
    }

    /// What was said in a conversation after a place, oldest first.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn history_after(&self, id: ConversationId, seq: i64) -> Result<Vec<Message>, Error> {
        let client = self.core.store().client().await?;
        Ok(chat::history(&client, id, None, Some(seq), BATCH_SIZE as usize).await?)
    }

    /// The dead letters and tokens of a phone, at most 1,000 of each.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn dead_letters_and_tokens(
        &self,
        phone: &Phone,
    ) -> Result<(Vec<DeadLetter>, Vec<TokenInfo>), Error> {
        const MAX_LISTED: usize = 1000;
        let client = self.core.store().client().await?;
        let filter =
            DeadLetterFilter { recipient: Some(phone.clone()), ..DeadLetterFilter::default() };
        let letters = dead_letters::list_through(&client, filter, MAX_LISTED).await?;
        let party = Party::Mobile(phone.clone());
        Ok((letters, tokens::list(&client, Some(&party), None, MAX_LISTED).await?))
    }

    /// The events of these messages, each with its message.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn events_of(
        &self,
        ids: &[MessageId],
    ) -> Result<Vec<(MessageId, TimelineEvent)>, Error> {
        Ok(privacy::events_of(&self.core.store().client().await?, ids).await?)
    }
}

/// Takes a phone number out of Redis: who is connected where, and what it sent lately; and all pages that are
/// kept. Those of its conversations can be found by nobody any more, and whose they are neither: so the others
/// go with them, and are read anew.
async fn forget(redis: &Redis, phone: &Phone) -> Result<(u64, u64), redis::Error> {
    let party = redis.forget_party(&Party::Mobile(phone.clone()).key()).await?;
    Ok((party, redis.forget_entries().await?))
}

impl Erasure {
    /// How much was found of the number; idempotency keys are not counted.
    pub fn found(&self) -> &ErasureCounts {
        &self.found
    }

    /// Erases everything of the number that was stored before this was called. First the phone is shut out:
    /// its connections are closed within a second, and only when nobody lets it in any more is anything
    /// deleted. `progress` is told how many messages are gone.
    ///
    /// What is sent to the number meanwhile and later is stored, as for any number that nobody has
    /// registered. Erasing again after a failure goes on where it ended.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn run(self, mut progress: impl FnMut(u64)) -> Result<Erased, Error> {
        let Erasure { admin, by, phone, turn: _turn, .. } = self;
        let phone = &phone;
        let mut counts = ErasureCounts::default();
        let mut client = admin.core.store().client().await?;
        let began = admin.core.clock().now();
        privacy::revoke_access(&client, phone, began, &mut counts).await?;
        let revoked = tokio::time::sleep(REVOCATION_DELAY);
        privacy::erase_phone(&mut client, phone, &mut counts).await?;
        // Others need the connection meanwhile.
        drop(client);
        // What it says until then would come after what is deleted here.
        revoked.await;
        // While the messages are there by which they are known.
        admin.answers_of_phone(phone, true, &mut counts).await?;
        let mut client = admin.core.store().client().await?;
        loop {
            let some = privacy::conversations(&client, phone).await?;
            if some.is_empty() {
                break;
            }
            for id in some {
                while !privacy::erase_conversation(&mut client, id, began, BATCH_SIZE, &mut counts)
                    .await?
                {
                    progress(u64::try_from(counts.messages).unwrap_or_default());
                }
            }
        }
        while privacy::erase_one_way(&client, phone, began, BATCH_SIZE, &mut counts).await? {
            progress(u64::try_from(counts.messages).unwrap_or_default());
        }
        privacy::erase_rest(&mut client, phone, &mut counts).await?;
        drop(client);
        let redis = match admin.redis() {
            Some(redis) => Some(forget(redis, phone).await.map_err(|_| Error::Away("Redis"))),
            None => None,
        };
        let mut entry =
            admin.core.entry(&by, AuditAction::MobileErase).with("phone", phone.masked());
        for (what, count) in counts.named() {
            entry = entry.with(what, usize::try_from(count).unwrap_or_default());
        }
        admin.core.record(entry).await?;
        // Last: the reason that was given may contain the number.
        let mut client = admin.core.store().client().await?;
        privacy::mask_audit_log(&mut client, phone, &mut counts).await?;
        Ok(Erased { counts, redis })
    }
}
