//! What waits to be told to one connection. Small: most connections are idle, and nothing waits for them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::Outbound;

/// How many things may wait for one connection before it counts as having missed some.
pub(super) const WAITING: usize = 256;

/// Between whoever tells and the connection.
#[derive(Default)]
pub(super) struct Waiting {
    inner: Mutex<Inner>,
    told: Notify,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Outbound>,
    /// Beside the queue: who is to go must hear it however much waits for it.
    goodbye: Option<Box<Outbound>>,
    missed: bool,
    /// Nobody tells it anything any more.
    closed: bool,
}

impl Waiting {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, outbound: Outbound) {
        let mut inner = self.inner();
        if let Outbound::Close { allow_reconnect, .. } = outbound {
            // Who is to stay away is not called back by a later goodbye.
            if inner.goodbye.is_none() || !allow_reconnect {
                inner.goodbye = Some(Box::new(outbound));
            }
        } else if inner.queue.len() < WAITING {
            inner.queue.push_back(outbound);
        } else {
            // It is busy with what it has; when that is done it looks at this.
            inner.missed = true;
        }
        drop(inner);
        self.told.notify_one();
    }

    pub(super) fn close(&self) {
        self.inner().closed = true;
        self.told.notify_one();
    }

    /// The next thing, a goodbye before all else; `None` at the end. For one connection, which may drop
    /// it while it waits.
    pub(super) async fn next(&self) -> Option<Outbound> {
        loop {
            {
                let mut inner = self.inner();
                if let Some(goodbye) = &inner.goodbye {
                    return Some((**goodbye).clone());
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

    /// The goodbye, and nothing but that; for ever without one.
    pub(super) async fn goodbye(&self) -> Outbound {
        loop {
            if let Some(goodbye) = &self.inner().goodbye {
                return (**goodbye).clone();
            }
            self.told.notified().await;
        }
    }

    pub(super) fn try_next(&self) -> Option<Outbound> {
        self.inner().take()
    }

    pub(super) fn take_missed(&self) -> bool {
        std::mem::take(&mut self.inner().missed)
    }
}

impl Inner {
    fn take(&mut self) -> Option<Outbound> {
        let outbound = self.queue.pop_front()?;
        if self.queue.is_empty() {
            // An idle connection holds no buffer.
            self.queue = VecDeque::new();
        }
        Some(outbound)
    }
}
