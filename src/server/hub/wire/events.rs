//! Server-Sent Events: one long answer to the client; what it says comes in posts.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::sync::mpsc;

use super::{Heard, Posted};

/// The first line, which makes the client's `onopen` fire.
const OPENING: &[u8] = b":\r\n";

/// The connection's end of an event stream.
pub struct Events {
    posted: Posted,
    out: mpsc::Sender<Bytes>,
}

/// A stream of events: the connection's end, and the body of the answer.
pub fn event_stream(posted: Posted) -> (Events, impl Stream<Item = Result<Bytes, Infallible>>) {
    let (out, body) = mpsc::channel(1);
    let body = stream::unfold((true, body), |(first, mut body)| async move {
        let next = if first { Some(Bytes::from_static(OPENING)) } else { body.recv().await };
        next.map(|bytes| (Ok(bytes), (false, body)))
    });
    (Events { posted, out }, body)
}

impl Events {
    pub(super) async fn receive(&mut self) -> Heard {
        tokio::select! {
            posted = self.posted.recv() => match posted {
                Some(bytes) => Heard::Bytes(bytes),
                None => Heard::Ended("abandoned"),
            },
            // The client dropped the answer, which is how it says goodbye.
            () = self.out.closed() => Heard::Ended("socket_closed"),
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        self.out.send(event(bytes)).await.map_err(|_| "socket_broken")
    }
}

/// One event. A line feed would end it, so each line of the payload is a line of data.
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
    use super::*;

    #[test]
    fn a_payload_is_one_event_whatever_its_lines() {
        assert_eq!(event(b"{}\x1e"), Bytes::from_static(b"data: {}\x1e\r\n\r\n"));
        assert_eq!(
            event(b"a\r\nb\nc"),
            Bytes::from_static(b"data: a\r\ndata: b\r\ndata: c\r\n\r\n")
        );
    }
}
