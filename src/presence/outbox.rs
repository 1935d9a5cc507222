//! The outbox of one connection. Small: most connections are idle, and their outboxes empty.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;
use tokio::sync::Notify;

use super::outbound::Outbound;
use crate::domain::{MessageId, Permissions};

/// Past this many items, the connection counts as having missed some.
pub(super) const QUEUE_CAPACITY: usize = 256;

/// The items that did not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MissedItems {
    /// Deliveries, from this message on: the connection reads them.
    pub from: Option<MessageId>,
    /// Acknowledgements and resyncs, from this message on, perhaps of messages it was not sent.
    pub about: Option<MessageId>,
    /// Messages that are not known.
    pub some: bool,
    /// Items that cannot be read again, since then: the party's own messages, changes of status.
    pub unreadable_since: Option<OffsetDateTime>,
}

impl MissedItems {
    fn add(&mut self, outbound: &Outbound) {
        let earlier = |known: Option<MessageId>, id| Some(known.map_or(id, |known| known.min(id)));
        let since = match outbound {
            Outbound::Deliver(delivery) => {
                self.from = earlier(self.from, delivery.message.id);
                return;
            }
            Outbound::Resync(Some(id)) => {
                self.about = earlier(self.about, *id);
                return;
            }
            Outbound::Acknowledged(ids) => {
                self.about = ids.iter().fold(self.about, |about, id| earlier(about, *id));
                return;
            }
            Outbound::Resync(None) => {
                self.some = true;
                return;
            }
            Outbound::Own { delivery, .. } => delivery.message.created_at,
            Outbound::StatusChanged { at, .. } | Outbound::Deleted { at, .. } => *at,
            Outbound::ConversationChanged(conversation) => conversation.last_at,
            Outbound::Typing { .. } | Outbound::Close { .. } => return,
        };
        self.unreadable_since = Some(self.unreadable_since.map_or(since, |known| known.min(since)));
    }
}

#[derive(Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Outbound>,
    /// Outside the queue: a close notice must arrive even when the queue is full.
    close_notice: Option<Box<Outbound>>,
    missed: Option<Box<MissedItems>>,
    /// Outside the queue: it must act even when the queue is full.
    permissions: Option<Permissions>,
    closed: bool,
}

impl Outbox {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, outbound: Outbound) {
        let mut inner = self.inner();
        if let Outbound::Close { allow_reconnect, .. } = outbound {
            // A notice that forbids reconnecting is not replaced by one that allows it.
            if inner.close_notice.is_none() || !allow_reconnect {
                inner.close_notice = Some(Box::new(outbound));
            }
        } else if inner.queue.len() < QUEUE_CAPACITY && !inner.must_skip(&outbound) {
            inner.queue.push_back(outbound);
        } else {
            // The connection looks at this when its queue is empty.
            inner.missed.get_or_insert_default().add(&outbound);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// The permissions that the connection's user has now. Returns whether that is news.
    pub(super) fn set_permissions(&self, permissions: Permissions) -> bool {
        self.inner().permissions.replace(permissions) != Some(permissions)
    }

    pub(super) fn permissions(&self) -> Option<Permissions> {
        self.inner().permissions
    }

    pub(super) fn close(&self) {
        self.inner().closed = true;
        self.changed.notify_one();
    }

    /// The next item, a close notice first; `None` at the end. For one reader. Cancel-safe.
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
            self.changed.notified().await;
        }
    }

    /// Waits for the close notice only.
    pub(super) async fn close_notice(&self) -> Outbound {
        loop {
            if let Some(close_notice) = &self.inner().close_notice {
                return (**close_notice).clone();
            }
            self.changed.notified().await;
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
    /// A message must not overtake an earlier one that did not fit.
    fn must_skip(&self, outbound: &Outbound) -> bool {
        self.missed.is_some() && matches!(outbound, Outbound::Deliver(_))
    }

    fn take(&mut self) -> Option<Outbound> {
        let outbound = self.queue.pop_front()?;
        if self.queue.is_empty() {
            // An idle connection must hold no buffer.
            self.queue = VecDeque::new();
        }
        Some(outbound)
    }
}
