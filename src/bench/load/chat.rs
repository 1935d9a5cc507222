//! Chat load: who writes in which conversation, and a check of the unread counts at the end.

use serde::Deserialize;
use uuid::Uuid;

use super::{plan::LoadTarget, receive::Arrival, send::Sender, server_address::ServerAddress};
use crate::bench::checker::Tag;

/// Conversations whose unread counts are checked.
const MAX_COMPARED: usize = 50;
/// How often a count is read again while it is changing.
const MAX_ATTEMPTS: usize = 20;

#[derive(Clone, Copy, Debug)]
pub struct ChatConversation {
    pub id: Uuid,
    /// The business user, by index in [`ChatLoad::shops`].
    pub shop: usize,
    /// The phone, by index in the recipients of the target.
    pub phone: usize,
}

#[derive(Clone, Debug)]
pub struct ChatLoad {
    /// Tokens of business users.
    pub shops: Vec<String>,
    pub talks: Vec<ChatConversation>,
    /// The share of messages that phones write, 0 to 1.
    pub replies: f64,
    /// The share of messages after which the recipient marks the conversation as read, 0 to 1.
    pub read: f64,
}

/// Sender and recipient of one message.
pub(super) struct Route {
    pub(super) conversation: Uuid,
    pub(super) recipient: u32,
    from_phone: bool,
    talk: ChatConversation,
}

/// A pseudo-random number from 0 to 999.
fn chance(tag: Tag, salt: u64) -> f64 {
    (tag.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 % 1000.0
}

impl ChatLoad {
    /// Depends on the tag alone, so that a receiver can compute it. Business users are numbered after the
    /// phones.
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

    /// The conversation and `seq` that these arrivals make their recipient mark as read.
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

/// Compares unread counts with the messages, on both sides, over the API. Returns conversation, count as shown
/// and count of messages. Conversations that cannot be read are skipped.
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
        // A receipt may be in flight: only counts that do not change can be compared.
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
