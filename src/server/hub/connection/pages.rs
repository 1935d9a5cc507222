//! Pages of waiting messages, as the client of a connection reads them. Each message is written once, and a
//! page ends before it is longer than [`PAGE_BYTES`] in the client's encoding: what a text becomes there
//! depends on its characters.

use bytes::Bytes;

use crate::{
    domain::{Message, MessageId, Phone, feed::Feed, message::PAGE_BYTES},
    server::{
        hub::{
            hubs::{legacy, service::WireFormat},
            protocol::{
                codec::{self, EncodeError, Protocol},
                session::Session,
            },
        },
        pages::fitting_lengths,
        view::MessageView,
    },
};

/// What a page takes with what frames its messages, each of which may come in a call of its own.
pub(super) const MAX_PAGE_LEN: usize = PAGE_BYTES + 16 * 1024;

/// Whether a page may be read for a connection. One whose client has dealt with all that it was sent is sent
/// more before its transport says that it came.
pub(super) fn may_read(session: &Session, feed: &Feed) -> bool {
    !session.is_full() || feed.head().is_none() && session.has_room(MAX_PAGE_LEN)
}

/// Messages that go out together.
pub(super) struct EncodedPage<'a> {
    items: Vec<Item<'a>>,
    /// Those of which nothing can be made.
    pub(super) unwritable: Vec<MessageId>,
    /// How many of what was found this has.
    pub(super) count: usize,
}

struct Item<'a> {
    message: &'a Message,
    body: EncodedBody,
}

enum EncodedBody {
    /// As it stands in a call.
    Current(Vec<u8>),
    /// The call of a live message and the text that it brings, with the number of the business user.
    Legacy(&'static str, String, Option<Phone>),
}

impl EncodedBody {
    fn new(
        protocol: Protocol,
        format: WireFormat,
        message: &Message,
        account: impl Fn(&Message) -> Option<Phone>,
    ) -> Result<EncodedBody, EncodeError> {
        match format {
            WireFormat::Current => {
                codec::part(protocol, &MessageView::from(message)).map(EncodedBody::Current)
            }
            WireFormat::Legacy => {
                let account = account(message);
                let (target, text) = legacy::message(message, account.as_ref());
                Ok(EncodedBody::Legacy(target, text, account))
            }
        }
    }

    fn len(&self, protocol: Protocol) -> usize {
        match self {
            EncodedBody::Current(part) => part.len(),
            EncodedBody::Legacy(_, text, _) => codec::text_len(protocol, text),
        }
    }
}

impl<'a> EncodedPage<'a> {
    /// As many of these as go out together, and no more than `most`.
    pub(super) fn new(
        protocol: Protocol,
        format: WireFormat,
        found: &'a [Message],
        most: usize,
        account: impl Fn(&Message) -> Option<Phone>,
    ) -> EncodedPage<'a> {
        let mut bodies = Vec::new();
        let lengths = found.iter().take(most).map(|message| {
            let body = EncodedBody::new(protocol, format, message, &account);
            let length = body.as_ref().map_or(0, |body| body.len(protocol));
            bodies.push(body);
            length
        });
        let count = fitting_lengths(lengths, PAGE_BYTES);
        let mut written =
            EncodedPage { items: Vec::with_capacity(count), unwritable: Vec::new(), count };
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
                EncodedBody::Current(part) => parts.push(part),
                // A page knows no chat, whose messages look otherwise when they are live.
                EncodedBody::Legacy(_, _, account) if message.place.is_some() => {
                    texts.push(legacy::waiting(message, account));
                }
                EncodedBody::Legacy(_, text, _) => texts.push(text),
            }
        }
        match texts.is_empty() {
            true => Ok(codec::call_with_list(protocol, TARGET, &parts)),
            false => codec::invocation(protocol, TARGET, &legacy::list(&texts)),
        }
    }

    /// A call for each.
    pub(super) fn singly(
        self,
        protocol: Protocol,
    ) -> impl Iterator<Item = (&'a Message, Result<Bytes, EncodeError>)> {
        self.items.into_iter().map(move |Item { message, body }| {
            let call = match body {
                EncodedBody::Current(part) => {
                    Ok(codec::call_with(protocol, "ReceiveMessage", &part))
                }
                EncodedBody::Legacy(target, text, _) => codec::invocation(protocol, target, &text),
            };
            (message, call)
        })
    }
}

#[cfg(test)]
mod tests;
