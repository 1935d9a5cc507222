//! Long polling: output waits in a buffer until the client polls; input comes in posts.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::{PostedInput, TransportEvent};

/// How long a poll is held without output (reference: the official server's poll timeout; clients time out
/// after 100 s).
pub const POLL_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a client may go without a poll (reference: the official server's disconnect timeout).
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the last output may wait to be fetched.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same while the process stops: an active client has a poll in flight.
const SHUTDOWN_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Past this length, no output is accepted until the client has fetched it all. A single longer write is
/// accepted into an empty buffer.
const MAX_BUFFERED_LEN: usize = 64 * 1024;

/// The output between the connection and the client's polls.
pub struct PollBuffer {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    output: BytesMut,
    /// This many bytes are a response of their own.
    first_response_len: usize,
    /// The number of the latest poll. An earlier one that is still held ends.
    turn: u64,
    held: bool,
    /// When the client's last poll ended.
    last_request: Instant,
    /// The expiry of the token of the latest poll.
    expires_at: Option<OffsetDateTime>,
    /// The connection has ended; remaining output may still be fetched.
    closed: bool,
    /// The client sent DELETE.
    deleted: bool,
    /// A poll was answered with the end of the connection.
    end_delivered: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum PollResponse {
    /// All output; empty after the poll timeout.
    Bytes(Bytes),
    /// The connection has ended, or a newer poll has replaced this one.
    Ended,
}

/// A poll in flight; dropping it starts the disconnect timeout.
struct HeldRequest<'a> {
    buffer: &'a PollBuffer,
    turn: u64,
}

impl Drop for HeldRequest<'_> {
    fn drop(&mut self) {
        let mut state = self.buffer.state();
        if state.turn == self.turn {
            state.held = false;
            state.last_request = Instant::now();
        }
        drop(state);
        self.buffer.changed.notify_waiters();
    }
}

impl PollBuffer {
    /// For a client that has just polled for the first time.
    pub fn new(expires_at: Option<OffsetDateTime>) -> Arc<PollBuffer> {
        let state = State {
            output: BytesMut::new(),
            first_response_len: 0,
            turn: 0,
            held: false,
            last_request: Instant::now(),
            expires_at,
            closed: false,
            deleted: false,
            end_delivered: false,
        };
        Arc::new(PollBuffer { state: Mutex::new(state), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a poll until there is output, at most for `hold`. Output that a broken poll did not fetch waits
    /// for the next one.
    pub async fn poll(&self, expires_at: Option<OffsetDateTime>, hold: Duration) -> PollResponse {
        let turn = {
            let mut state = self.state();
            state.turn += 1;
            state.held = true;
            state.expires_at = expires_at;
            state.turn
        };
        let held = HeldRequest { buffer: self, turn };
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
                    return PollResponse::Ended;
                }
                if !state.output.is_empty() {
                    let bytes = match std::mem::take(&mut state.first_response_len) {
                        0 => state.output.split().freeze(),
                        length => state.output.split_to(length).freeze(),
                    };
                    drop(state);
                    drop(held);
                    return PollResponse::Bytes(bytes);
                }
                if state.closed || state.deleted {
                    state.end_delivered = true;
                    return PollResponse::Ended;
                }
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until) => return PollResponse::Bytes(Bytes::new()),
            }
        }
    }

    /// The client polled, and was answered with nothing.
    pub fn note_request(&self) {
        self.state().last_request = Instant::now();
    }

    /// The client sent DELETE.
    pub fn end(&self) {
        self.state().deleted = true;
        self.changed.notify_waiters();
    }

    /// The expiry of the token of the latest poll.
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.state().expires_at
    }

    /// Waits for the DELETE of the client, or its disconnect timeout.
    async fn gone(&self) -> TransportEvent {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = {
                let state = self.state();
                if state.deleted {
                    return TransportEvent::Ended("client_closed");
                }
                (!state.held).then(|| state.last_request + DISCONNECT_TIMEOUT)
            };
            match until {
                Some(until) if Instant::now() >= until => {
                    return TransportEvent::Ended("client_timeout");
                }
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

/// The connection's side of a [`PollBuffer`].
pub struct LongPollTransport {
    posted: PostedInput,
    buffer: Arc<PollBuffer>,
}

impl LongPollTransport {
    pub fn new(posted: PostedInput, buffer: Arc<PollBuffer>) -> LongPollTransport {
        LongPollTransport { posted, buffer }
    }

    /// The expiry of the token of the latest poll.
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.buffer.expires_at()
    }

    pub(super) async fn receive(&mut self) -> TransportEvent {
        tokio::select! {
            posted = self.posted.recv() => match posted {
                Some(bytes) => TransportEvent::Bytes(bytes),
                None => TransportEvent::Ended("abandoned"),
            },
            gone = self.buffer.gone() => gone,
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8], separate: bool) -> Result<(), &'static str> {
        let output = self.buffer.state().output.len();
        if output > 0 && output + bytes.len() > MAX_BUFFERED_LEN {
            self.buffer.until(|state| state.output.is_empty()).await;
        }
        {
            let mut state = self.buffer.state();
            state.output.extend_from_slice(bytes);
            if separate {
                state.first_response_len = state.output.len();
            }
        }
        self.buffer.changed.notify_waiters();
        Ok(())
    }

    /// Waits until the client has fetched the remaining output, for a bounded time.
    pub(super) async fn close(self, stopping: bool) {
        self.buffer.state().closed = true;
        self.buffer.changed.notify_waiters();
        let fetched = self.buffer.until(|state| {
            state.end_delivered
                || state.deleted
                || stopping && state.output.is_empty() && !state.held
        });
        let timeout = if stopping { SHUTDOWN_CLOSE_TIMEOUT } else { CLOSE_TIMEOUT };
        let _ = tokio::time::timeout(timeout, fetched).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::PostQueue;
    use super::*;

    fn pair() -> (Arc<PollBuffer>, LongPollTransport, PostQueue) {
        let (posts, posted) = PostQueue::new();
        let buffer = PollBuffer::new(None);
        (Arc::clone(&buffer), LongPollTransport::new(posted, buffer), posts)
    }

    #[tokio::test]
    async fn a_request_gets_all_that_waits_and_a_newer_one_takes_its_turn() {
        let (buffer, mut polls, _posts) = pair();
        polls.send(b"a", false).await.unwrap();
        polls.send(b"b", false).await.unwrap();
        assert_eq!(
            buffer.poll(None, POLL_TIMEOUT).await,
            PollResponse::Bytes(Bytes::from_static(b"ab"))
        );
        let first = tokio::spawn({
            let buffer = Arc::clone(&buffer);
            async move { buffer.poll(None, POLL_TIMEOUT).await }
        });
        while !buffer.state().held {
            tokio::task::yield_now().await;
        }
        let second = buffer.poll(None, POLL_TIMEOUT);
        let (second, first) = tokio::join!(second, async {
            let first = first.await.unwrap();
            polls.send(b"c", false).await.unwrap();
            first
        });
        assert_eq!(first, PollResponse::Ended);
        assert_eq!(second, PollResponse::Bytes(Bytes::from_static(b"c")));
    }

    #[tokio::test]
    async fn what_is_sent_alone_is_an_answer_of_its_own() {
        let (buffer, mut polls, _posts) = pair();
        polls.send(b"{}", true).await.unwrap();
        polls.send(b"page", false).await.unwrap();
        polls.send(b"live", false).await.unwrap();
        assert_eq!(
            buffer.poll(None, POLL_TIMEOUT).await,
            PollResponse::Bytes(Bytes::from_static(b"{}"))
        );
        assert_eq!(
            buffer.poll(None, POLL_TIMEOUT).await,
            PollResponse::Bytes(Bytes::from_static(b"pagelive"))
        );
    }

    #[tokio::test]
    async fn what_has_no_room_waits_until_everything_was_fetched() {
        let (buffer, mut polls, _posts) = pair();
        let long = vec![b'a'; 2 * MAX_BUFFERED_LEN];
        polls.send(&long, false).await.unwrap();
        let short = Duration::from_millis(10);
        assert!(tokio::time::timeout(short, polls.send(b"b", false)).await.is_err());
        assert_eq!(buffer.poll(None, POLL_TIMEOUT).await, PollResponse::Bytes(long.into()));
        polls.send(b"b", false).await.unwrap();
        assert_eq!(
            buffer.poll(None, POLL_TIMEOUT).await,
            PollResponse::Bytes(Bytes::from_static(b"b"))
        );
    }

    #[tokio::test]
    async fn what_a_broken_request_did_not_fetch_waits_for_the_next() {
        let (buffer, mut polls, _posts) = pair();
        let broken =
            tokio::time::timeout(Duration::from_millis(10), buffer.poll(None, POLL_TIMEOUT)).await;
        assert!(broken.is_err());
        polls.send(b"x", false).await.unwrap();
        assert_eq!(
            buffer.poll(None, POLL_TIMEOUT).await,
            PollResponse::Bytes(Bytes::from_static(b"x"))
        );
    }

    #[tokio::test]
    async fn nothing_in_time_is_an_empty_answer_and_not_the_end() {
        let (buffer, mut polls, _posts) = pair();
        let short = Duration::from_millis(10);
        assert_eq!(buffer.poll(None, short).await, PollResponse::Bytes(Bytes::new()));
        polls.send(b"x", false).await.unwrap();
        assert_eq!(buffer.poll(None, short).await, PollResponse::Bytes(Bytes::from_static(b"x")));
    }

    #[tokio::test]
    async fn after_the_end_what_waits_is_fetched_first() {
        let (buffer, mut polls, _posts) = pair();
        polls.send(b"goodbye", false).await.unwrap();
        let closing = tokio::spawn(polls.close(false));
        assert_eq!(
            buffer.poll(None, POLL_TIMEOUT).await,
            PollResponse::Bytes(Bytes::from_static(b"goodbye"))
        );
        assert_eq!(buffer.poll(None, POLL_TIMEOUT).await, PollResponse::Ended);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn a_hurried_end_waits_only_until_the_last_was_fetched() {
        let (buffer, mut polls, _posts) = pair();
        let held = tokio::spawn({
            let buffer = Arc::clone(&buffer);
            async move { buffer.poll(None, POLL_TIMEOUT).await }
        });
        while !buffer.state().held {
            tokio::task::yield_now().await;
        }
        polls.send(b"goodbye", false).await.unwrap();
        let begun = Instant::now();
        polls.close(true).await;
        assert!(begun.elapsed() < SHUTDOWN_CLOSE_TIMEOUT / 2, "{:?}", begun.elapsed());
        assert_eq!(held.await.unwrap(), PollResponse::Bytes(Bytes::from_static(b"goodbye")));
        // A client that does not poll is waited for only briefly.
        let (_buffer, mut polls, _posts) = pair();
        polls.send(b"goodbye", false).await.unwrap();
        let begun = Instant::now();
        polls.close(true).await;
        assert!(begun.elapsed() >= SHUTDOWN_CLOSE_TIMEOUT && begun.elapsed() < CLOSE_TIMEOUT);
    }

    #[tokio::test]
    async fn a_goodbye_ends_the_held_request_and_the_connection() {
        let (buffer, mut polls, _posts) = pair();
        buffer.end();
        assert_eq!(buffer.poll(None, POLL_TIMEOUT).await, PollResponse::Ended);
        assert!(matches!(polls.receive().await, TransportEvent::Ended("client_closed")));
    }
}
