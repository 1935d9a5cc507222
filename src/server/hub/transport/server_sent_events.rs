//! Server-Sent Events: one long response carries the output; input comes in posts.

use std::{convert::Infallible, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{PostedInput, TransportEvent};

/// The first line, which triggers the client's `onopen`.
const OPENING_COMMENT: &[u8] = b":\r\n";

/// The connection's side of an event stream.
pub struct SseTransport {
    posted: PostedInput,
    out: mpsc::Sender<Event>,
    /// One event is in flight at a time: the next one is encoded when the response has passed it on.
    turn: Arc<Semaphore>,
}

struct Event {
    bytes: Bytes,
    turn: OwnedSemaphorePermit,
}

/// The connection's side, and the body of the response.
pub fn event_stream(
    posted: PostedInput,
) -> (SseTransport, impl Stream<Item = Result<Bytes, Infallible>>) {
    let (out, body) = mpsc::channel(1);
    let body = stream::unfold((true, None, body), |(first, passed_on, mut body)| async move {
        // The body is polled for the next event when this one has been passed on.
        drop::<Option<OwnedSemaphorePermit>>(passed_on);
        if first {
            return Some((Ok(Bytes::from_static(OPENING_COMMENT)), (false, None, body)));
        }
        let Event { bytes, turn } = body.recv().await?;
        Some((Ok(bytes), (false, Some(turn), body)))
    });
    (SseTransport { posted, out, turn: Arc::new(Semaphore::new(1)) }, body)
}

impl SseTransport {
    pub(super) async fn receive(&mut self) -> TransportEvent {
        tokio::select! {
            posted = self.posted.recv() => match posted {
                Some(bytes) => TransportEvent::Bytes(bytes),
                None => TransportEvent::Ended("abandoned"),
            },
            // The client dropped the response: that is how it disconnects.
            () = self.out.closed() => TransportEvent::Ended("socket_closed"),
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let turn = tokio::select! {
            turn = Arc::clone(&self.turn).acquire_owned() => turn.map_err(|_| "socket_broken")?,
            () = self.out.closed() => return Err("socket_broken"),
        };
        let event = Event { bytes: event(bytes), turn };
        self.out.send(event).await.map_err(|_| "socket_broken")
    }
}

/// A blank line would end an event, so each line of the payload becomes a line of data.
fn event(payload: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(payload.len() + 16);
    for line in payload.split(|byte| *byte == b'\n') {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        event.extend_from_slice(b"\r\n");
    }
    event.extend_from_slice(b"\r\n");
    event.freeze()
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::{super::PostQueue, *};

    #[tokio::test]
    async fn one_event_at_a_time_is_on_its_way() {
        let (_posts, posted) = PostQueue::new();
        let (mut events, body) = event_stream(posted);
        let mut body = Box::pin(body);
        assert_eq!(body.next().await.unwrap().unwrap(), OPENING_COMMENT);
        events.send(b"a").await.unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), Bytes::from_static(b"data: a\r\n\r\n"));
        // It was given to the response, which may not have passed it on.
        assert!(events.send(b"b").now_or_never().is_none());
        let (sent, next) = tokio::join!(events.send(b"b"), body.next());
        sent.unwrap();
        assert_eq!(next.unwrap().unwrap(), Bytes::from_static(b"data: b\r\n\r\n"));
        drop(body);
        assert_eq!(events.send(b"c").await, Err("socket_broken"));
    }

    #[test]
    fn a_payload_is_one_event_whatever_its_lines() {
        assert_eq!(event(b"{}\x1e"), Bytes::from_static(b"data: {}\x1e\r\n\r\n"));
        assert_eq!(
            event(b"a\r\nb\nc"),
            Bytes::from_static(b"data: a\r\ndata: b\r\ndata: c\r\n\r\n")
        );
    }
}
