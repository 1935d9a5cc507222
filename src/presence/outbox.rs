//! What waits to be told to one connection. Small: most connections are idle, and nothing waits for them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;
use tokio::sync::Notify;

use super::Outbound;
use crate::domain::MessageId;

/// How many things may wait for one connection before it counts as having missed some.
pub(super) const QUEUE_CAPACITY: usize = 256;

/// What there was no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MissedItems {
    /// Messages, from this one on: the connection reads them.
    pub from: Option<MessageId>,
    /// Words about messages, from this one on, that may be more than it was sent.
    pub about: Option<MessageId>,
    /// Messages of which nobody can say which.
    pub some: bool,
    /// Something that cannot be read again, since then: what the party said itself, a change of status.
    pub told_since: Option<OffsetDateTime>,
}

impl MissedItems {
    fn add(&mut self, outbound: &Outbound) {
        let earlier = |known: Option<MessageId>, id| Some(known.map_or(id, |known| known.min(id)));
        let since = match outbound {
            Outbound::Deliver(delivery) => {
                self.from = earlier(self.from, delivery.message.id);
                return;
            }
            Outbound::Nudge(Some(id)) => {
                self.about = earlier(self.about, *id);
                return;
            }
            Outbound::Acknowledged(ids) => {
                self.about = ids.iter().fold(self.about, |about, id| earlier(about, *id));
                return;
            }
            Outbound::Nudge(None) => {
                self.some = true;
                return;
            }
            Outbound::Own { delivery, .. } => delivery.message.created_at,
            Outbound::StatusChanged { at, .. } | Outbound::Deleted { at, .. } => *at,
            Outbound::ConversationChanged(conversation) => conversation.last_at,
            Outbound::Typing { .. } | Outbound::Close { .. } => return,
        };
        self.told_since = Some(self.told_since.map_or(since, |known| known.min(since)));
    }
}

/// Between whoever tells and the connection.
#[derive(Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    told: Notify,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Outbound>,
    /// Beside the queue: who is to go must hear it however much waits for it.
    close_notice: Option<Box<Outbound>>,
    missed: Option<Box<MissedItems>>,
    /// Nobody tells it anything any more.
    closed: bool,
}

impl Outbox {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, outbound: Outbound) {
        let mut inner = self.inner();
        if let Outbound::Close { allow_reconnect, .. } = outbound {
            // Who is to stay away is not called back by a later close_notice.
            if inner.close_notice.is_none() || !allow_reconnect {
                inner.close_notice = Some(Box::new(outbound));
            }
        } else if inner.queue.len() < QUEUE_CAPACITY && !inner.must_skip(&outbound) {
            inner.queue.push_back(outbound);
        } else {
            // It is busy with what it has; when that is done it looks at this.
            inner.missed.get_or_insert_default().add(&outbound);
        }
        drop(inner);
        self.told.notify_one();
    }

    pub(super) fn close(&self) {
        self.inner().closed = true;
        self.told.notify_one();
    }

    /// The next thing, a close_notice before all else; `None` at the end. For one connection, which may drop
    /// it while it waits.
    pub(super) async fn next(&self) -> Option<Outbound> {
        loop {
            {
                let mut inner = self.inner();
                if let Some(close_notice) = &inner.close_notice {
                    return Some((**close_notice).clone());
                }
                if let Some(outbound) = inner.take() {
                    return Some(outbound);
                }
                if inner.closed {
                    return None;
                }
            }
            self.told.notified().await;
        }
    }

    /// The close_notice, and nothing but that; for ever without one.
    pub(super) async fn close_notice(&self) -> Outbound {
        loop {
            if let Some(close_notice) = &self.inner().close_notice {
                return (**close_notice).clone();
            }
            self.told.notified().await;
        }
    }

    pub(super) fn try_next(&self) -> Option<Outbound> {
        self.inner().take()
    }

    pub(super) fn take_missed(&self) -> Option<MissedItems> {
        self.inner().missed.take().map(|missed| *missed)
    }
}

impl Inner {
    /// Once a message has found no room, those after it must not overtake it.
    fn must_skip(&self, outbound: &Outbound) -> bool {
        self.missed.is_some() && matches!(outbound, Outbound::Deliver(_))
    }

    fn take(&mut self) -> Option<Outbound> {
        let outbound = self.queue.pop_front()?;
        if self.queue.is_empty() {
            // An idle connection holds no buffer.
            self.queue = VecDeque::new();
        }
        Some(outbound)
    }
}
