//! The body of an answer: it counts for its party until the last byte is sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, SizeHint};

use super::budget::Reserved;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub struct AnswerBody {
    inner: UnsyncBoxBody<Bytes, Failure>,
    /// What it holds of the budget, until its bytes hold that themselves.
    reserved: Option<Reserved>,
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

/// An answer that counts as `reserved` does: with its exact size, if that is known.
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
        AnswerBody { inner: body.map_err(Into::into).boxed_unsync(), reserved }
    })
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let body = self.get_mut();
        let frame = match Pin::new(&mut body.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other,
        };
        // Of a body in several parts each counts as long as the body is there.
        let is_last = body.inner.is_end_stream();
        Poll::Ready(Some(Ok(frame.map_data(|bytes| {
            match body.reserved.take_if(|_| is_last && !bytes.is_empty()) {
                Some(reserved) => Bytes::from_owner(Counted { bytes, _reserved: reserved }),
                None => bytes,
            }
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
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
        let size = 3000;
        let response = Response::new(Full::new(Bytes::from(vec![7; size])));
        let mut response = answer(response, Some(reserved));
        let mut room = budget.of(&stranger);
        room.grow(party - size).expect("what it does not need is free");
        assert_eq!(response.body().size_hint().exact(), Some(size as u64));
        let mut bytes = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(response.body().is_end_stream() && bytes.len() == size);
        drop(response);
        let piece = bytes.split_to(100);
        drop(bytes);
        assert_eq!(room.grow(1), Err(NoRoom::Party), "a piece of it keeps the whole");
        drop(piece);
        room.grow(size).unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_is_not_sent_counts_no_longer() {
        let budget = Budget::new(Bounds::ANSWERS);
        let stranger = Principal::Anyone { peer: "203.0.113.9".parse().unwrap() };
        let mut reserved = budget.of(&stranger);
        reserved.grow(1000).unwrap();
        drop(answer(Response::new(Full::new(Bytes::from_static(b"x"))), Some(reserved)));
        budget.of(&stranger).grow(Bounds::ANSWERS.party).unwrap();
    }
}
