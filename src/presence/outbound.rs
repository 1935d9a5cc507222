//! What a connection can be sent.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use time::OffsetDateTime;

use crate::domain::{
    Conversation, ConversationId, Message, MessageId, Status, message::ConversationPosition,
};

/// A message on its way to any number of connections.
#[derive(Debug)]
pub struct Delivery {
    pub message: Message,
    /// The encoded forms, so that each is made once for all connections.
    pub encoded: [OnceLock<Bytes>; 3],
}

impl Delivery {
    pub fn new(message: Message) -> Arc<Delivery> {
        Arc::new(Delivery { message, encoded: Default::default() })
    }
}

#[derive(Clone, Debug)]
pub enum Outbound {
    /// A message has become deliverable.
    Deliver(Arc<Delivery>),
    /// The status of a message that this party sent has changed.
    StatusChanged {
        id: MessageId,
        status: Status,
        at: OffsetDateTime,
    },
    /// The party acknowledged these messages on another connection, or through the API.
    Acknowledged(Arc<[MessageId]>),
    /// A message that the party itself sent.
    Own {
        delivery: Arc<Delivery>,
        /// The connection that sent it, which is not shown it; 0 for none of this process.
        sender_connection: u64,
    },
    ConversationChanged(Arc<Conversation>),
    /// An administrator deleted a message that this party sent or was to receive.
    Deleted {
        id: MessageId,
        place: Option<ConversationPosition>,
        at: OffsetDateTime,
    },
    /// The other side of a conversation is typing.
    Typing {
        conversation: ConversationId,
        /// The display name of the other side.
        from: Arc<str>,
    },
    /// Messages may have been missed: read again, from this message on where that is known.
    Resync(Option<MessageId>),
    /// Close the connection.
    Close {
        allow_reconnect: bool,
        /// For the client's log.
        reason: Option<&'static str>,
    },
}
