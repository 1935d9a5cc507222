//! Who is connected, and the way to their connections.
//!
//! A connection takes a [`Seat`]; whoever has something for a party calls [`Registry::send`]. This
//! room knows neither sockets nor messages' meaning. Nothing that goes through it has to arrive: a
//! connection that is too slow to take a thing is told that it missed something, and reads from the
//! database again.

mod registry;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use time::OffsetDateTime;

pub use registry::{Registry, Seat};

use crate::domain::{Conversation, ConversationId, Message, MessageId, Status};

/// A message on its way to any number of connections.
#[derive(Debug)]
pub struct Delivery {
    /// What to deliver.
    pub message: Message,
    /// Where the border keeps its encoded forms, so that each is made once for all connections.
    pub encoded: [OnceLock<Bytes>; 3],
}

impl Delivery {
    /// A message to deliver.
    pub fn new(message: Message) -> Arc<Delivery> {
        Arc::new(Delivery { message, encoded: Default::default() })
    }
}

/// What a connection can be told.
#[derive(Clone, Debug)]
pub enum Outbound {
    /// A message has become deliverable.
    Deliver(Arc<Delivery>),
    /// A message that this party sent has changed.
    StatusChanged {
        /// The message.
        id: MessageId,
        /// What it is now.
        status: Status,
        /// Since when.
        at: OffsetDateTime,
    },
    /// The party acknowledged these on another connection.
    Acknowledged(Arc<[MessageId]>),
    /// A message that the party itself sent from elsewhere.
    Own(Arc<Delivery>),
    /// A conversation of the party's is not what it was.
    ConversationChanged(Arc<Conversation>),
    /// The other side of a conversation is writing.
    Typing {
        /// Which conversation.
        conversation: ConversationId,
        /// How the other side is shown.
        from: Arc<str>,
    },
    /// Something may have been missed: read again.
    Nudge,
    /// Close the connection.
    Close {
        /// Whether the client may come back by itself.
        allow_reconnect: bool,
        /// Why, for the client's log.
        reason: Option<&'static str>,
    },
}
