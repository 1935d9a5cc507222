//! The body of an answer: it counts for its party until the last byte is sent, and is given to the connection in small
//! pieces, so that one sees whether the client takes them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, SizeHint};

use super::{budget::Reserved, streams::Progress};

/// The most bytes that are given to the connection at once: a frame of HTTP/2.
const PIECE: usize = 16 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub struct AnswerBody {
    inner: UnsyncBoxBody<Bytes, Failure>,
    /// What was given by `inner`, and not to the connection yet.
    left: Bytes,
    /// What it holds of the budget, until its bytes hold that themselves.
    reserved: Option<Reserved>,
    progress: Option<Arc<Progress>>,
}

/// Bytes that count until the last of them is dropped, wherever that is.
struct Counted {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer that is given in pieces, and counts as `reserved` does: with its exact size, if that is known.
pub fn answer<B>(response: Response<B>, reserved: Option<Reserved>) -> Response<AnswerBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Failure>,
{
    response.map(|body| {
        let reserved = reserved.map(|mut reserved| {
            if let Some(exact) = body.size_hint().exact() {
                reserved.set(usize::try_from(exact).unwrap_or(usize::MAX));
            }
            reserved
        });
        let inner = body.map_err(Into::into).boxed_unsync();
        AnswerBody { inner, left: Bytes::new(), reserved, progress: Progress::of_this_stream() }
    })
}

impl AnswerBody {
    fn next_piece(&mut self) -> Frame<Bytes> {
        if let Some(progress) = &self.progress {
            progress.give();
        }
        Frame::data(self.left.split_to(self.left.len().min(PIECE)))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let body = self.get_mut();
        if !body.left.is_empty() {
            return Poll::Ready(Some(Ok(body.next_piece())));
        }
        let polled = Pin::new(&mut body.inner).poll_frame(context);
        let frame = match polled {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => {
                if let Some(progress) = &body.progress {
                    progress.take();
                }
                return other;
            }
        };
        let bytes = match frame.into_data() {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Ok(empty) => return Poll::Ready(Some(Ok(Frame::data(empty)))),
            Err(other) => return Poll::Ready(Some(Ok(other))),
        };
        // Of a body in several parts each counts as long as the body is there.
        let is_last = body.inner.is_end_stream();
        body.left = match body.reserved.take_if(|_| is_last) {
            Some(reserved) => Bytes::from_owner(Counted { bytes, _reserved: reserved }),
            None => bytes,
        };
        Poll::Ready(Some(Ok(body.next_piece())))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, left) = (self.inner.size_hint(), self.left.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + left);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::server::{
        budget::{Bounds, Budget, Full as NoRoom},
        principal::Principal,
    };

    #[tokio::test]
    async fn an_answer_counts_until_its_last_byte_is_dropped() {
        let party = Bounds::ANSWERS.party;
        let budget = Budget::new(Bounds::ANSWERS);
        let stranger = Principal::Anyone { peer: "203.0.113.9".parse().unwrap() };
        let mut reserved = budget.of(&stranger);
        reserved.grow(party).unwrap();
        let size = 3 * PIECE + 1;
        let response = Response::new(Full::new(Bytes::from(vec![7; size])));
        let mut response = answer(response, Some(reserved));
        let mut room = budget.of(&stranger);
        room.grow(party - size).expect("what it does not need is free");
        assert_eq!(response.body().size_hint().exact(), Some(size as u64));
        let mut pieces = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert!(response.body().is_end_stream());
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE, PIECE, PIECE, 1]);
        drop(response);
        assert_eq!(room.grow(1), Err(NoRoom::Party));
        pieces.truncate(1);
        assert_eq!(room.grow(1), Err(NoRoom::Party), "a piece of it keeps the whole");
        drop(pieces);
        room.grow(size).unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_is_not_sent_counts_no_longer() {
        let budget = Budget::new(Bounds::ANSWERS);
        let stranger = Principal::Anyone { peer: "203.0.113.9".parse().unwrap() };
        let mut reserved = budget.of(&stranger);
        reserved.grow(PIECE).unwrap();
        drop(answer(Response::new(Full::new(Bytes::from_static(b"x"))), Some(reserved)));
        budget.of(&stranger).grow(Bounds::ANSWERS.party).unwrap();
    }
}
