//! Long polling: output waits in a mailbox until the client asks for it; what it says comes in posts.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::{Heard, Posted};

/// How long a request is held without anything to tell (reference: the official server's poll
/// timeout; clients give up after 100 s).
pub const HOLD: Duration = Duration::from_secs(90);
/// How long a client may be without a request (reference: the official server's disconnect timeout).
const GONE_AFTER: Duration = Duration::from_secs(15);
/// How long the last of it may wait to be fetched.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// … while the process stops: a client that asks is there by then.
const HURRIED: Duration = Duration::from_secs(1);
/// With more waiting than this, nothing more is taken in until the client has fetched it: at most this, or what was sent
/// at once.
const ROOM: usize = 64 * 1024;

/// What waits for the client, between its requests and the connection.
pub struct Mailbox {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    waiting: BytesMut,
    /// So much of it is an answer of its own.
    alone: usize,
    /// Which request is the client's last: an earlier one that is still held has lost its turn.
    turn: u64,
    held: bool,
    /// When the client was last without a request.
    asked: Instant,
    /// Until when the token of the last request is valid.
    expires_at: Option<OffsetDateTime>,
    /// The connection is over: what waits may still be fetched.
    over: bool,
    /// The client said goodbye.
    goodbye: bool,
    /// The client was told that it is over.
    told: bool,
}

/// What a request is answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Poll {
    /// All that waited; empty when nothing came in time.
    Bytes(Bytes),
    /// The connection is over, or another request has taken this one's turn.
    Over,
}

/// A request that is held; dropping it tells that the client is without one.
struct Held<'a> {
    mailbox: &'a Mailbox,
    turn: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.mailbox.state();
        if state.turn == self.turn {
            state.held = false;
            state.asked = Instant::now();
        }
        drop(state);
        self.mailbox.changed.notify_waiters();
    }
}

impl Mailbox {
    /// An empty mailbox of a client that has just asked for the first time.
    pub fn new(expires_at: Option<OffsetDateTime>) -> Arc<Mailbox> {
        let state = State {
            waiting: BytesMut::new(),
            alone: 0,
            turn: 0,
            held: false,
            asked: Instant::now(),
            expires_at,
            over: false,
            goodbye: false,
            told: false,
        };
        Arc::new(Mailbox { state: Mutex::new(state), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a request until there is something to tell, at most for `hold`. What was not fetched by a request that broke
    /// off waits for the next.
    pub async fn poll(&self, expires_at: Option<OffsetDateTime>, hold: Duration) -> Poll {
        let turn = {
            let mut state = self.state();
            state.turn += 1;
            state.held = true;
            state.expires_at = expires_at;
            state.turn
        };
        let held = Held { mailbox: self, turn };
        self.changed.notify_waiters();
        let until = tokio::time::Instant::now() + hold;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if state.turn != turn {
                    return Poll::Over;
                }
                if !state.waiting.is_empty() {
                    let bytes = match std::mem::take(&mut state.alone) {
                        0 => state.waiting.split().freeze(),
                        alone => state.waiting.split_to(alone).freeze(),
                    };
                    drop(state);
                    drop(held);
                    return Poll::Bytes(bytes);
                }
                if state.over || state.goodbye {
                    state.told = true;
                    return Poll::Over;
                }
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until) => return Poll::Bytes(Bytes::new()),
            }
        }
    }

    /// The client has asked, and was answered with nothing.
    pub fn note_asked(&self) {
        self.state().asked = Instant::now();
    }

    /// The client says goodbye.
    pub fn end(&self) {
        self.state().goodbye = true;
        self.changed.notify_waiters();
    }

    /// Until when the client may stay, by the token of its last request.
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.state().expires_at
    }

    /// Waits until the client has gone: with a goodbye, or without a request for too long.
    async fn gone(&self) -> Heard {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = {
                let state = self.state();
                if state.goodbye {
                    return Heard::Ended("client_closed");
                }
                (!state.held).then(|| state.asked + GONE_AFTER)
            };
            match until {
                Some(until) if Instant::now() >= until => return Heard::Ended("client_timeout"),
                Some(until) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(&self.state()) {
                return;
            }
            changed.await;
        }
    }
}

/// The connection's end of a mailbox.
pub struct Polls {
    posted: Posted,
    mailbox: Arc<Mailbox>,
}

impl Polls {
    /// The connection's end.
    pub fn new(posted: Posted, mailbox: Arc<Mailbox>) -> Polls {
        Polls { posted, mailbox }
    }

    /// Until when the client may stay.
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.mailbox.expires_at()
    }

    pub(super) async fn receive(&mut self) -> Heard {
        tokio::select! {
            posted = self.posted.recv() => match posted {
                Some(bytes) => Heard::Bytes(bytes),
                None => Heard::Ended("abandoned"),
            },
            gone = self.mailbox.gone() => gone,
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8], alone: bool) -> Result<(), &'static str> {
        let waiting = self.mailbox.state().waiting.len();
        if waiting > 0 && waiting + bytes.len() > ROOM {
            self.mailbox.until(|state| state.waiting.is_empty()).await;
        }
        {
            let mut state = self.mailbox.state();
            state.waiting.extend_from_slice(bytes);
            if alone {
                state.alone = state.waiting.len();
            }
        }
        self.mailbox.changed.notify_waiters();
        Ok(())
    }

    /// What waits may still be fetched for a moment; `hurried` for no longer than that takes.
    pub(super) async fn close(self, hurried: bool) {
        self.mailbox.state().over = true;
        self.mailbox.changed.notify_waiters();
        let fetched = self.mailbox.until(|state| {
            state.told || state.goodbye || hurried && state.waiting.is_empty() && !state.held
        });
        let patience = if hurried { HURRIED } else { CLOSE_TIMEOUT };
        let _ = tokio::time::timeout(patience, fetched).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Inbox;
    use super::*;

    fn pair() -> (Arc<Mailbox>, Polls, Inbox) {
        let (inbox, posted) = Inbox::new();
        let mailbox = Mailbox::new(None);
        (Arc::clone(&mailbox), Polls::new(posted, mailbox), inbox)
    }

    #[tokio::test]
    async fn a_request_gets_all_that_waits_and_a_newer_one_takes_its_turn() {
        let (mailbox, mut polls, _inbox) = pair();
        polls.send(b"a", false).await.unwrap();
        polls.send(b"b", false).await.unwrap();
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Bytes(Bytes::from_static(b"ab")));
        let first = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.poll(None, HOLD).await }
        });
        while !mailbox.state().held {
            tokio::task::yield_now().await;
        }
        let second = mailbox.poll(None, HOLD);
        let (second, first) = tokio::join!(second, async {
            let first = first.await.unwrap();
            polls.send(b"c", false).await.unwrap();
            first
        });
        assert_eq!(first, Poll::Over);
        assert_eq!(second, Poll::Bytes(Bytes::from_static(b"c")));
    }

    #[tokio::test]
    async fn what_is_sent_alone_is_an_answer_of_its_own() {
        let (mailbox, mut polls, _inbox) = pair();
        polls.send(b"{}", true).await.unwrap();
        polls.send(b"page", false).await.unwrap();
        polls.send(b"live", false).await.unwrap();
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Bytes(Bytes::from_static(b"{}")));
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Bytes(Bytes::from_static(b"pagelive")));
    }

    #[tokio::test]
    async fn what_has_no_room_waits_until_everything_was_fetched() {
        let (mailbox, mut polls, _inbox) = pair();
        let long = vec![b'a'; 2 * ROOM];
        polls.send(&long, false).await.unwrap();
        let short = Duration::from_millis(10);
        assert!(tokio::time::timeout(short, polls.send(b"b", false)).await.is_err());
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Bytes(long.into()));
        polls.send(b"b", false).await.unwrap();
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Bytes(Bytes::from_static(b"b")));
    }

    #[tokio::test]
    async fn what_a_broken_request_did_not_fetch_waits_for_the_next() {
        let (mailbox, mut polls, _inbox) = pair();
        let broken =
            tokio::time::timeout(Duration::from_millis(10), mailbox.poll(None, HOLD)).await;
        assert!(broken.is_err());
        polls.send(b"x", false).await.unwrap();
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Bytes(Bytes::from_static(b"x")));
    }

    #[tokio::test]
    async fn nothing_in_time_is_an_empty_answer_and_not_the_end() {
        let (mailbox, mut polls, _inbox) = pair();
        let short = Duration::from_millis(10);
        assert_eq!(mailbox.poll(None, short).await, Poll::Bytes(Bytes::new()));
        polls.send(b"x", false).await.unwrap();
        assert_eq!(mailbox.poll(None, short).await, Poll::Bytes(Bytes::from_static(b"x")));
    }

    #[tokio::test]
    async fn after_the_end_what_waits_is_fetched_first() {
        let (mailbox, mut polls, _inbox) = pair();
        polls.send(b"goodbye", false).await.unwrap();
        let closing = tokio::spawn(polls.close(false));
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Bytes(Bytes::from_static(b"goodbye")));
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Over);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn a_hurried_end_waits_only_until_the_last_was_fetched() {
        let (mailbox, mut polls, _inbox) = pair();
        let held = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.poll(None, HOLD).await }
        });
        while !mailbox.state().held {
            tokio::task::yield_now().await;
        }
        polls.send(b"goodbye", false).await.unwrap();
        let begun = Instant::now();
        polls.close(true).await;
        assert!(begun.elapsed() < HURRIED / 2, "{:?}", begun.elapsed());
        assert_eq!(held.await.unwrap(), Poll::Bytes(Bytes::from_static(b"goodbye")));
        // A client that does not ask is not waited for longer than a moment.
        let (_mailbox, mut polls, _inbox) = pair();
        polls.send(b"goodbye", false).await.unwrap();
        let begun = Instant::now();
        polls.close(true).await;
        assert!(begun.elapsed() >= HURRIED && begun.elapsed() < CLOSE_TIMEOUT);
    }

    #[tokio::test]
    async fn a_goodbye_ends_the_held_request_and_the_connection() {
        let (mailbox, mut polls, _inbox) = pair();
        mailbox.end();
        assert_eq!(mailbox.poll(None, HOLD).await, Poll::Over);
        assert!(matches!(polls.receive().await, Heard::Ended("client_closed")));
    }
}
