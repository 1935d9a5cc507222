//! Who is connected, and the way to their connections.
//!
//! A connection takes a [`Registration`]; whoever has something for a party calls [`Registry::send`]. This
//! room knows neither sockets nor messages' meaning. Nothing that goes through it has to arrive: a
//! connection that is too slow to take a thing is told that it missed something, and reads from the
//! database again.

mod outbox;
mod registry;
mod relay;
mod relay_frame;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use time::OffsetDateTime;

pub use outbox::MissedItems;
pub use registry::{ConnectionLimits, Registration, Registry};
pub use relay::{Relay, RouteOutcome};

use crate::domain::{
    Conversation, ConversationId, Message, MessageId, Party, Status, TokenId, message::Place,
};

/// Who is connected, here and elsewhere. Cheap to clone.
#[derive(Clone)]
pub enum Presence {
    /// This process is alone.
    Solo(Registry),
    /// Others are found by way of Redis.
    Shared(Registry, Relay),
}

impl Presence {
    /// The connections of this process.
    pub fn local(&self) -> &Registry {
        match self {
            Presence::Solo(registry) | Presence::Shared(registry, _) => registry,
        }
    }

    /// The way to other processes, if there are any.
    pub fn relay(&self) -> Option<&Relay> {
        match self {
            Presence::Solo(_) => None,
            Presence::Shared(_, relay) => Some(relay),
        }
    }

    /// Takes a registration here; see [`Registry::register`] and [`Registration::announcement`].
    pub fn register(&self, party: Party, token: TokenId) -> Registration {
        let registration = self.local().register(party, token);
        match self.relay() {
            None => registration,
            Some(relay) => registration.with_relay(relay),
        }
    }

    /// Tells every connection of a party, wherever it is.
    pub fn send(&self, party: &Party, outbound: &Outbound) {
        self.local().send(party, outbound);
        if let Some(relay) = self.relay() {
            relay.tell(party, outbound);
        }
    }

    /// Tells parties things, and says of each whether it has a connection that was told. When this returns,
    /// other processes have what was theirs.
    pub async fn route(&self, told: Vec<(Party, Outbound)>) -> Vec<RouteOutcome> {
        let here = |(party, outbound): &(Party, Outbound)| match self.local().send(party, outbound)
        {
            0 => RouteOutcome::Offline,
            _ => RouteOutcome::Delivered,
        };
        let mut reached: Vec<RouteOutcome> = told.iter().map(here).collect();
        if let Some(relay) = self.relay() {
            for (here, elsewhere) in reached.iter_mut().zip(relay.route(told).await) {
                if *here == RouteOutcome::Offline {
                    *here = elsewhere;
                }
            }
        }
        reached
    }

    /// Which of these parties have a connection anywhere. Those of which nobody can say count as
    /// connected: whoever delivers looks again.
    pub async fn are_online(&self, parties: &[&Party]) -> Vec<bool> {
        let mut online: Vec<bool> =
            parties.iter().map(|party| self.local().is_online(party)).collect();
        let Some(relay) = self.relay() else { return online };
        let absent: Vec<usize> = (0..parties.len()).filter(|place| !online[*place]).collect();
        let asked: Vec<&Party> = absent.iter().map(|place| parties[*place]).collect();
        if !asked.is_empty() {
            let found = relay.are_elsewhere(&asked).await;
            let found = found.unwrap_or_else(|_| vec![true; asked.len()]);
            absent.iter().zip(found).for_each(|(place, found)| online[*place] = found);
        }
        online
    }
}

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
    /// The party acknowledged these, on another connection or by another way.
    Acknowledged(Arc<[MessageId]>),
    /// A message that the party itself sent.
    Own {
        /// The message.
        delivery: Arc<Delivery>,
        /// The connection that sent it, which has no need to be shown it; 0 for none of this process.
        sender_connection: u64,
    },
    /// A conversation of the party's is not what it was.
    ConversationChanged(Arc<Conversation>),
    /// An administrator deleted a message that this party sent or was to get.
    Deleted {
        /// The message.
        id: MessageId,
        /// Where it stood in a conversation.
        place: Option<Place>,
        /// When.
        at: OffsetDateTime,
    },
    /// The other side of a conversation is writing.
    Typing {
        /// Which conversation.
        conversation: ConversationId,
        /// How the other side is shown.
        from: Arc<str>,
    },
    /// Something may have been missed: read again. From this message on, where that is known.
    Nudge(Option<MessageId>),
    /// Close the connection.
    Close {
        /// Whether the client may come back by itself.
        allow_reconnect: bool,
        /// Why, for the client's log.
        reason: Option<&'static str>,
    },
}
