//! Response bodies that hold their memory reservation until the last byte is sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, SizeHint};

use super::budget::Reservation;

type Failure = Box<dyn std::error::Error + Send + Sync>;

pub struct ResponseBody {
    inner: UnsyncBoxBody<Bytes, Failure>,
    /// Moves to the last chunk.
    reserved: Option<Reservation>,
}

/// Bytes that hold a reservation until the last slice of them is dropped.
struct ReservedBytes {
    bytes: Bytes,
    _reserved: Reservation,
}

impl AsRef<[u8]> for ReservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A response that holds a reservation, set to its exact size if that is known.
pub fn with_reservation<B>(
    response: Response<B>,
    reserved: Option<Reservation>,
) -> Response<ResponseBody>
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
        ResponseBody { inner: body.map_err(Into::into).boxed_unsync(), reserved }
    })
}

impl Body for ResponseBody {
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
        // With several chunks, the body holds the reservation until the last one.
        let is_last = body.inner.is_end_stream();
        Poll::Ready(Some(Ok(frame.map_data(|bytes| {
            match body.reserved.take_if(|_| is_last && !bytes.is_empty()) {
                Some(reserved) => Bytes::from_owner(ReservedBytes { bytes, _reserved: reserved }),
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
        budget::{Budget, BudgetExceeded as NoRoom, BudgetLimits},
        principal::Principal,
    };

    #[tokio::test]
    async fn an_answer_counts_until_its_last_byte_is_dropped() {
        let party = BudgetLimits::ANSWERS.party;
        let budget = Budget::new(BudgetLimits::ANSWERS);
        let stranger = Principal::Anyone { peer: "203.0.113.9".parse().unwrap() };
        let mut reserved = budget.of(&stranger);
        reserved.grow(party).unwrap();
        let size = 3000;
        let response = Response::new(Full::new(Bytes::from(vec![7; size])));
        let mut response = with_reservation(response, Some(reserved));
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
        let budget = Budget::new(BudgetLimits::ANSWERS);
        let stranger = Principal::Anyone { peer: "203.0.113.9".parse().unwrap() };
        let mut reserved = budget.of(&stranger);
        reserved.grow(1000).unwrap();
        drop(with_reservation(Response::new(Full::new(Bytes::from_static(b"x"))), Some(reserved)));
        budget.of(&stranger).grow(BudgetLimits::ANSWERS.party).unwrap();
    }
}
