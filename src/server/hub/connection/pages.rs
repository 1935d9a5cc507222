//! Pages of waiting messages, as the client of a connection reads them. Each message is written once, and a
//! page ends before it is longer than [`PAGE_BYTES`] in the client's encoding: what a text becomes there
//! depends on its characters.

use bytes::Bytes;

use crate::{
    domain::{Message, MessageId, Phone, feed::Feed, message::PAGE_BYTES},
    server::{
        hub::{
            codec::{self, EncodeError, Protocol},
            methods::Form,
            session::Session,
        },
        legacy,
        pagination::fitting_lengths,
        view::MessageView,
    },
};

/// What a page takes with what frames its messages, each of which may come in a call of its own.
pub(super) const PAGE_ROOM: usize = PAGE_BYTES + 16 * 1024;

/// Whether a page may be read for a connection. One whose client has dealt with all that it was sent is sent
/// more before its transport says that it came.
pub(super) fn may_read(session: &Session, feed: &Feed) -> bool {
    !session.is_full() || feed.head().is_none() && session.has_room(PAGE_ROOM)
}

/// Messages that go out together.
pub(super) struct Written<'a> {
    items: Vec<Item<'a>>,
    /// Those of which nothing can be made.
    pub(super) unwritable: Vec<MessageId>,
    /// How many of what was found this has.
    pub(super) count: usize,
}

struct Item<'a> {
    message: &'a Message,
    body: Body,
}

enum Body {
    /// As it stands in a call.
    Current(Vec<u8>),
    /// The call of a live message and the text that it brings, with the number of the business user.
    Legacy(&'static str, String, Option<Phone>),
}

impl Body {
    fn new(
        protocol: Protocol,
        form: Form,
        message: &Message,
        account: impl Fn(&Message) -> Option<Phone>,
    ) -> Result<Body, EncodeError> {
        match form {
            Form::Current => codec::part(protocol, &MessageView::from(message)).map(Body::Current),
            Form::Legacy => {
                let account = account(message);
                let (target, text) = legacy::hub::message(message, account.as_ref());
                Ok(Body::Legacy(target, text, account))
            }
        }
    }

    fn len(&self, protocol: Protocol) -> usize {
        match self {
            Body::Current(part) => part.len(),
            Body::Legacy(_, text, _) => codec::text_len(protocol, text),
        }
    }
}

impl<'a> Written<'a> {
    /// As many of these as go out together, and no more than `most`.
    pub(super) fn new(
        protocol: Protocol,
        form: Form,
        found: &'a [Message],
        most: usize,
        account: impl Fn(&Message) -> Option<Phone>,
    ) -> Written<'a> {
        let mut bodies = Vec::new();
        let lengths = found.iter().take(most).map(|message| {
            let body = Body::new(protocol, form, message, &account);
            let length = body.as_ref().map_or(0, |body| body.len(protocol));
            bodies.push(body);
            length
        });
        let count = fitting_lengths(lengths, PAGE_BYTES);
        let mut written =
            Written { items: Vec::with_capacity(count), unwritable: Vec::new(), count };
        for (message, body) in found.iter().zip(bodies).take(count) {
            match body {
                Ok(body) => written.items.push(Item { message, body }),
                Err(error) => {
                    tracing::error!(%error, message_id = %message.id, "a message could not be written");
                    written.unwritable.push(message.id);
                }
            }
        }
        written
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &'a Message> {
        self.items.iter().map(|item| item.message)
    }

    /// Leaves those that are due on this connection.
    pub(super) fn retain(&mut self, ids: &[MessageId]) {
        self.items.retain(|item| ids.contains(&item.message.id));
    }

    /// One call that brings all.
    pub(super) fn together(self, protocol: Protocol) -> Result<Bytes, EncodeError> {
        const TARGET: &str = "ReceivePendingMessages";
        let mut parts = Vec::new();
        let mut texts = Vec::new();
        for Item { message, body } in self.items {
            match body {
                Body::Current(part) => parts.push(part),
                // A page knows no chat, whose messages look otherwise when they are live.
                Body::Legacy(_, _, account) if message.place.is_some() => {
                    texts.push(legacy::hub::waiting(message, account));
                }
                Body::Legacy(_, text, _) => texts.push(text),
            }
        }
        match texts.is_empty() {
            true => Ok(codec::call_with_list(protocol, TARGET, &parts)),
            false => codec::invocation(protocol, TARGET, &legacy::hub::list(&texts)),
        }
    }

    /// A call for each.
    pub(super) fn singly(
        self,
        protocol: Protocol,
    ) -> impl Iterator<Item = (&'a Message, Result<Bytes, EncodeError>)> {
        self.items.into_iter().map(move |Item { message, body }| {
            let call = match body {
                Body::Current(part) => Ok(codec::call_with(protocol, "ReceiveMessage", &part)),
                Body::Legacy(target, text, _) => codec::invocation(protocol, target, &text),
            };
            (message, call)
        })
    }
}

#[cfg(test)]
mod tests;
