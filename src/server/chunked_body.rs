//! The body of a response as the connection sends it: in small chunks, so that the timeouts see whether the
//! client reads.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::{connection::InFlight, stream_timeout::StreamProgress};

/// A frame of HTTP/2.
const MAX_CHUNK_LEN: usize = 16 * 1024;

/// The request stays in flight until the whole body has been passed to the connection.
pub(super) struct ChunkedBody<B> {
    body: B,
    /// Bytes of `body` that are not passed on yet.
    left: Bytes,
    progress: Option<Arc<StreamProgress>>,
    _request: InFlight,
}

impl<B> ChunkedBody<B> {
    pub(super) fn new(body: B, request: InFlight) -> ChunkedBody<B> {
        let progress = StreamProgress::of_this_stream();
        ChunkedBody { body, left: Bytes::new(), progress, _request: request }
    }

    fn next_chunk(&mut self) -> Frame<Bytes> {
        if let Some(progress) = &self.progress {
            progress.give();
        }
        Frame::data(self.left.split_to(self.left.len().min(MAX_CHUNK_LEN)))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ChunkedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let body = self.get_mut();
        if !body.left.is_empty() {
            return Poll::Ready(Some(Ok(body.next_chunk())));
        }
        let frame = match Pin::new(&mut body.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => {
                if let Some(progress) = &body.progress {
                    progress.take();
                }
                return other;
            }
        };
        match frame.into_data() {
            Ok(bytes) if bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Ok(bytes) => {
                body.left = bytes;
                Poll::Ready(Some(Ok(body.next_chunk())))
            }
            Err(other) => Poll::Ready(Some(Ok(other))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, left) = (self.body.size_hint(), self.left.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(left));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;
    use crate::server::connection::{
        OpenConnection,
        tests::{address, connections},
    };

    #[tokio::test]
    async fn a_large_answer_is_passed_on_in_pieces_and_is_in_flight_until_its_end() {
        let open = OpenConnection::new(&connections(10), address(1));
        let answer = Bytes::from(vec![7; 2 * MAX_CHUNK_LEN + 1]);
        let mut body = ChunkedBody::new(Full::new(answer.clone()), open.handle().begin());
        let mut seen = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((answer.len() - seen.len()) as u64));
            assert!(open.handle().is_in_flight());
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() <= MAX_CHUNK_LEN);
            seen.extend_from_slice(&piece);
        }
        assert_eq!(seen, answer);
        assert!(body.frame().await.is_none());
        drop(body);
        assert!(!open.handle().is_in_flight());
    }
}
