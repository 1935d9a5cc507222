//! What is read most, from the cache where it still holds: the newest messages of a conversation, the
//! first page of a list, a count.
//!
//! The version comes from the database first, with the same look that decides whether the caller may
//! see it; a miss reads the page and its version in one snapshot. What is kept is what the caller's
//! border wrote, so that a hit costs no reading of rows.

use std::time::Duration;

use bytes::Bytes;

use super::ChatService;
use crate::app::{Caller, Error};
use crate::{
    cache::{CacheKey, CacheKind},
    domain::{Conversation, ConversationId, ConversationStatus, Message, Party},
    store::{ListPage, versions},
};

/// How long a value is kept that nobody asks for in another version.
const PAGE_TTL: Duration = Duration::from_secs(300);
/// Pages up to this length are kept.
pub const MAX_CACHED_PAGE_LEN: usize = 50;

impl ChatService {
    /// The newest messages of a conversation, newest first, as `render` writes them. `render` is always
    /// the same function: what it wrote for one caller is shown to the other.
    ///
    /// # Errors
    /// Not permitted, not found.
    pub async fn latest_page(
        &self,
        caller: &Caller,
        id: ConversationId,
        limit: usize,
        render: fn(&[Message]) -> Vec<u8>,
    ) -> Result<Bytes, Error> {
        let party = caller.chat_party()?;
        let client = self.core.conversations_client(&party).await?;
        let found = versions::conversation(&client, id).await?;
        let seen = found.filter(|(conversation, _)| conversation.side(&party).is_some());
        let (_, version) = seen.ok_or(Error::NotFound("conversation"))?;
        drop(client);
        let key = |version: &str| {
            CacheKey::new(CacheKind::History, format_args!("{id}/{limit}"), version)
        };
        if limit <= MAX_CACHED_PAGE_LEN
            && let Some(kept) = self.core.cache().get(&key(&version)).await
        {
            return Ok(kept);
        }
        let latest = |client| async move { versions::latest(&client, id, limit).await };
        let (messages, version) = self.core.store().of(&party).read(latest).await?;
        let page = Bytes::from(render(&messages));
        if let Some(version) = version.filter(|_| limit <= MAX_CACHED_PAGE_LEN) {
            self.core.cache().put(key(&version), page.clone(), PAGE_TTL).await;
        }
        Ok(page)
    }

    /// The first page of the caller's conversations, as `render` writes it for that party: those with the
    /// newest messages first, one more than `limit` if there are more.
    ///
    /// # Errors
    /// Not permitted; failures of the database.
    pub async fn first_page(
        &self,
        caller: &Caller,
        status: Option<ConversationStatus>,
        limit: usize,
        render: fn(&ListPage<Conversation>, usize, &Party) -> Vec<u8>,
    ) -> Result<Bytes, Error> {
        let party = caller.chat_party()?;
        let key = |version: &str| {
            let status = status.map_or("all", ConversationStatus::name);
            let of = format_args!("{}/{status}/{limit}", name(&party)).to_string();
            CacheKey::new(CacheKind::Conversations, of, version)
        };
        if limit <= MAX_CACHED_PAGE_LEN {
            let client = self.core.conversations_client(&party).await?;
            let version = versions::list_version(&client, &party).await?;
            drop(client);
            if let Some(version) = version
                && let Some(kept) = self.core.cache().get(&key(&version)).await
            {
                return Ok(kept);
            }
        }
        let of = &party;
        let list = |client| async move { versions::list(&client, of, status, limit + 1).await };
        let (found, version) = self.core.store().of(&party).read(list).await?;
        let page = Bytes::from(render(&found, limit, &party));
        if let Some(version) = version.filter(|_| limit <= MAX_CACHED_PAGE_LEN) {
            self.core.cache().put(key(&version), page.clone(), PAGE_TTL).await;
        }
        Ok(page)
    }

    /// How many of the caller's conversations have messages that it has not read.
    ///
    /// # Errors
    /// Not permitted; failures of the database.
    pub async fn count_unread(&self, caller: &Caller) -> Result<i64, Error> {
        let party = caller.chat_party()?;
        let client = self.core.conversations_client(&party).await?;
        let Party::Business(id) = party else {
            // A phone's few are counted as quickly as their version is read.
            return Ok(versions::unread(&client, &party).await?.0);
        };
        let key = |version: &str| CacheKey::new(CacheKind::Unread, id, version);
        let version = versions::list_version(&client, &party).await?;
        drop(client);
        if let Some(version) = version {
            let kept = self.core.cache().get(&key(&version)).await;
            let kept = kept.and_then(|kept| std::str::from_utf8(&kept).ok()?.parse().ok());
            if let Some(count) = kept {
                return Ok(count);
            }
        }
        let client = self.core.conversations_client(&party).await?;
        let (count, version) = versions::unread(&client, &party).await?;
        drop(client);
        if let Some(version) = version {
            self.core.cache().put(key(&version), count.to_string().into(), PAGE_TTL).await;
        }
        Ok(count)
    }
}

/// A party in a key.
fn name(party: &Party) -> String {
    match party {
        Party::Business(id) => id.to_string(),
        Party::Mobile(phone) => phone.as_str().to_owned(),
    }
}
