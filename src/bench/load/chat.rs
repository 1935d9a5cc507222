//! Talk: who says what in which conversation, and whether the counts are right in the end.

use serde::Deserialize;
use uuid::Uuid;

use super::{plan::LoadTarget, receive::Arrival, send::Sender, server_address::ServerAddress};
use crate::bench::checker::Tag;

/// Conversations whose counts are compared at the end.
const MAX_COMPARED: usize = 50;
/// How often a count is looked at again that something was still changing.
const MAX_ATTEMPTS: usize = 20;

/// One conversation.
#[derive(Clone, Copy, Debug)]
pub struct ChatConversation {
    /// Its id.
    pub id: Uuid,
    /// Which business user, by its place in [`ChatLoad::shops`].
    pub shop: usize,
    /// Which phone, by its place in the target's recipients.
    pub phone: usize,
}

/// Who talks.
#[derive(Clone, Debug)]
pub struct ChatLoad {
    /// Tokens of business users.
    pub shops: Vec<String>,
    /// Conversations.
    pub talks: Vec<ChatConversation>,
    /// The share of messages that phones write, 0 to 1.
    pub replies: f64,
    /// After which share of messages a recipient marks the conversation as read, 0 to 1.
    pub read: f64,
}

/// The way of one message.
pub(super) struct Route {
    pub(super) conversation: Uuid,
    pub(super) recipient: u32,
    from_phone: bool,
    talk: ChatConversation,
}

/// A number from 0 to 999 that looks like chance.
fn chance(tag: Tag, salt: u64) -> f64 {
    (tag.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 % 1000.0
}

impl ChatLoad {
    /// Follows from the message's tag alone: so who gets it can tell whose it is. Business users are
    /// numbered after the phones.
    pub(super) fn route(&self, tag: Tag, phones: usize) -> Route {
        let talk = self.talks[(tag.wrapping_mul(7919) % self.talks.len() as u64) as usize];
        let from_phone = chance(tag, 1) < self.replies * 1000.0;
        let recipient = if from_phone { phones + talk.shop } else { talk.phone };
        let recipient = u32::try_from(recipient).unwrap_or(u32::MAX);
        Route { conversation: talk.id, recipient, from_phone, talk }
    }

    pub(super) fn bearer(&self, route: &Route, target: &LoadTarget) -> String {
        let token = match route.from_phone {
            true => &target.recipients[route.talk.phone].1,
            false => &self.shops[route.talk.shop],
        };
        format!("Bearer {token}")
    }

    /// Up to where these arrivals make their recipient say that it has read.
    pub(super) fn reads(&self, arrivals: &[Arrival]) -> Option<(Uuid, i64)> {
        let chosen = |arrival: &&Arrival| chance(arrival.tag, 2) < self.read * 1000.0;
        arrivals.iter().filter(chosen).filter_map(|arrival| arrival.place).next_back()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    business_user_id: Uuid,
    phone: String,
    unread_count: i64,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    seq: i64,
    to: String,
    status: String,
}

/// Compares the unread counts of conversations with what they count, on both sides, over the API:
/// conversation, count as shown, count as counted. What cannot be read is left out.
pub(super) async fn check_unread(
    place: &ServerAddress,
    target: &LoadTarget,
    chat: &ChatLoad,
) -> Vec<(u64, i64, i64)> {
    let mut found = Vec::new();
    for talk in chat.talks.iter().take(MAX_COMPARED) {
        let tokens = [&target.recipients[talk.phone].1, &chat.shops[talk.shop]];
        for (mobile, token) in [true, false].into_iter().zip(tokens) {
            let mut sender = Sender::new(place.clone(), token);
            let bearer = format!("Bearer {token}");
            if let Some((shown, counted)) = compare(&mut sender, &bearer, talk.id, mobile).await {
                found.push((talk.id.as_u64_pair().1, shown, counted));
            }
        }
    }
    found
}

async fn compare(sender: &mut Sender, bearer: &str, id: Uuid, mobile: bool) -> Option<(i64, i64)> {
    let mut last = None;
    for _ in 0..MAX_ATTEMPTS {
        let before = show(sender, bearer, id).await?;
        let own = if mobile { before.phone } else { before.business_user_id.to_string() };
        let counted = count(sender, bearer, id, &own).await?;
        let after = show(sender, bearer, id).await?.unread_count;
        last = Some((after, counted));
        // A word may still be on its way: only what stands still can be compared.
        if before.unread_count == after && after == counted {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    last
}

async fn show(sender: &mut Sender, bearer: &str, id: Uuid) -> Option<Shown> {
    let path = format!("/api/v1/conversations/{id}");
    let (_, body) = sender.answer("GET", &path, bearer, String::new()).await?;
    serde_json::from_slice(&body).ok()
}

async fn count(sender: &mut Sender, bearer: &str, id: Uuid, own: &str) -> Option<i64> {
    let (mut counted, mut before) = (0, String::new());
    loop {
        let path = format!("/api/v1/conversations/{id}/messages?limit=200{before}");
        let (_, body) = sender.answer("GET", &path, bearer, String::new()).await?;
        let page: Page = serde_json::from_slice(&body).ok()?;
        let Some(last) = page.items.last() else { return Some(counted) };
        before = format!("&before={}", last.seq);
        let unread = page.items.iter().filter(|m| m.to == own && m.status != "read").count();
        counted += i64::try_from(unread).unwrap_or(i64::MAX);
    }
}
