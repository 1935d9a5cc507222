//! Pages of waiting messages. Each message is encoded once, and a page ends before it is longer than
//! [`MAX_PAGE_BYTES`] in the client's encoding, where the length of a text depends on its characters.

use bytes::Bytes;

use crate::{
    domain::{Message, MessageId, Phone, feed::Feed, message::MAX_PAGE_BYTES},
    server::{
        hub::{
            hubs::{legacy, service::WireFormat},
            protocol::{
                codec::{self, EncodeError, Protocol},
                session::Session,
            },
        },
        pagination::fitting_lengths,
        view::MessageView,
    },
};

/// A page with its framing; each message may be a call of its own.
pub(super) const MAX_PAGE_LEN: usize = MAX_PAGE_BYTES + 16 * 1024;

/// Whether a page may be read. A client that has dealt with all its messages is sent more before its transport
/// acknowledges them.
pub(super) fn may_read(session: &Session, feed: &Feed) -> bool {
    !session.is_full() || feed.head().is_none() && session.has_room(MAX_PAGE_LEN)
}

/// Messages that are sent together.
pub(super) struct EncodedPage<'a> {
    items: Vec<Item<'a>>,
    /// Messages that could not be encoded.
    pub(super) unwritable: Vec<MessageId>,
    /// How many of the messages that were read are in this page.
    pub(super) count: usize,
    /// Whether existing apps get texts without tags.
    sanitizes: bool,
}

struct Item<'a> {
    message: &'a Message,
    body: EncodedBody,
}

enum EncodedBody {
    /// As it stands in a call.
    Current(Vec<u8>),
    /// The target and the text of a live call, and the number of the business user.
    Legacy(&'static str, String, Option<Phone>),
}

impl EncodedBody {
    fn new(
        protocol: Protocol,
        format: WireFormat,
        message: &Message,
        sanitizes: bool,
        account: impl Fn(&Message) -> Option<Phone>,
    ) -> Result<EncodedBody, EncodeError> {
        match format {
            WireFormat::Current => {
                codec::part(protocol, &MessageView::from(message)).map(EncodedBody::Current)
            }
            WireFormat::Legacy => {
                let account = account(message);
                let (target, text) = legacy::message(message, account.as_ref(), sanitizes);
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
    /// Takes as many messages as fit, and at most `most`.
    pub(super) fn new(
        protocol: Protocol,
        format: WireFormat,
        found: &'a [Message],
        most: usize,
        sanitizes: bool,
        account: impl Fn(&Message) -> Option<Phone>,
    ) -> EncodedPage<'a> {
        let mut bodies = Vec::new();
        let lengths = found.iter().take(most).map(|message| {
            let body = EncodedBody::new(protocol, format, message, sanitizes, &account);
            let length = body.as_ref().map_or(0, |body| body.len(protocol));
            bodies.push(body);
            length
        });
        let count = fitting_lengths(lengths, MAX_PAGE_BYTES);
        let mut written = EncodedPage {
            items: Vec::with_capacity(count),
            unwritable: Vec::new(),
            count,
            sanitizes,
        };
        for (message, body) in found.iter().zip(bodies).take(count) {
            match body {
                Ok(body) => written.items.push(Item { message, body }),
                Err(error) => {
                    tracing::error!(%error, message_id = %message.id, "cannot encode a message");
                    written.unwritable.push(message.id);
                }
            }
        }
        written
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &'a Message> {
        self.items.iter().map(|item| item.message)
    }

    /// Keeps the messages that are due on this connection.
    pub(super) fn retain(&mut self, ids: &[MessageId]) {
        self.items.retain(|item| ids.contains(&item.message.id));
    }

    /// One call for the whole page.
    pub(super) fn in_one_call(self, protocol: Protocol) -> Result<Bytes, EncodeError> {
        const TARGET: &str = "ReceivePendingMessages";
        let sanitizes = self.sanitizes;
        let mut parts = Vec::new();
        let mut texts = Vec::new();
        for Item { message, body } in self.items {
            match body {
                EncodedBody::Current(part) => parts.push(part),
                // In a page of the existing system, chat looks like other messages; live chat does not.
                EncodedBody::Legacy(_, _, account) if message.position.is_some() => {
                    texts.push(legacy::waiting(message, account, sanitizes));
                }
                EncodedBody::Legacy(_, text, _) => texts.push(text),
            }
        }
        match texts.is_empty() {
            true => Ok(codec::call_with_list(protocol, TARGET, &parts)),
            false => codec::invocation(protocol, TARGET, &legacy::list(&texts)),
        }
    }

    /// One call for each message.
    pub(super) fn one_by_one(
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
