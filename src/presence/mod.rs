//! Who is connected, and the route to their connections.
//!
//! A connection takes a [`Registration`]; [`Registry::send`] reaches all connections of a party. This room
//! knows neither sockets nor the meaning of messages. Everything sent through it may be lost: a connection
//! that is too slow for an item is told that it missed something, and reads from the database again.
//!
//! Imports go one way: `outbound` ← `outbox`, `relay_frame`, `absence` ← `relay` ← `relay_sender`, `registry` ←
//! `presence_sync`.

// Public only for tests of the whole crate: items whose name says everything need no comment.

mod absence;
mod outbound;
mod outbox;
mod presence_sync;
mod registry;
mod relay;
mod relay_frame;
mod relay_sender;

pub use outbound::{Delivery, Outbound};
pub use outbox::MissedItems;
pub use registry::{PartyLimits, Registration, Registry};
pub use relay::{Relay, RouteOutcome};

use crate::domain::{Party, TokenId};

/// Who is connected, on this process and on others. Cheap to clone.
#[derive(Clone)]
pub enum Presence {
    /// This is the only process.
    Solo(Registry),
    /// Other processes are found through Redis.
    Shared(Registry, Relay),
}

impl Presence {
    /// The connections of this process.
    pub fn local(&self) -> &Registry {
        match self {
            Presence::Solo(registry) | Presence::Shared(registry, _) => registry,
        }
    }

    /// The route to other processes, if there are any.
    pub fn relay(&self) -> Option<&Relay> {
        match self {
            Presence::Solo(_) => None,
            Presence::Shared(_, relay) => Some(relay),
        }
    }

    /// Registers a connection here; see [`Registry::register`] and [`Registration::announcement`].
    pub fn register(&self, party: Party, token: TokenId) -> Registration {
        let registration = self.local().register(party, token);
        match self.relay() {
            None => registration,
            Some(relay) => registration.with_relay(relay),
        }
    }

    /// Sends to every connection of a party, on all processes, without waiting.
    pub fn send(&self, party: &Party, outbound: &Outbound) {
        self.local().send(party, outbound);
        if let Some(relay) = self.relay() {
            relay.send(party, outbound);
        }
    }

    /// Sends items to parties; one outcome for each. When this returns, other processes have their items.
    pub async fn route(&self, addressed: Vec<(Party, Outbound)>) -> Vec<RouteOutcome> {
        let here = |(party, outbound): &(Party, Outbound)| match self.local().send(party, outbound)
        {
            0 => RouteOutcome::Offline,
            _ => RouteOutcome::Delivered,
        };
        let mut outcomes: Vec<RouteOutcome> = addressed.iter().map(here).collect();
        if let Some(relay) = self.relay() {
            for (here, elsewhere) in outcomes.iter_mut().zip(relay.route(addressed).await) {
                if *here == RouteOutcome::Offline {
                    *here = elsewhere;
                }
            }
        }
        outcomes
    }

    /// Which of these parties have a connection anywhere. While Redis is down, or lacks the connections of a
    /// gateway, they count as connected: the delivery looks again.
    pub async fn are_online(&self, parties: &[&Party]) -> Vec<bool> {
        let mut online: Vec<bool> =
            parties.iter().map(|party| self.local().is_online(party)).collect();
        let Some(relay) = self.relay() else { return online };
        let absent: Vec<usize> = (0..parties.len()).filter(|index| !online[*index]).collect();
        let asked: Vec<&Party> = absent.iter().map(|index| parties[*index]).collect();
        if !asked.is_empty() {
            let found = relay.are_elsewhere(&asked).await;
            let found = found.unwrap_or_else(|_| vec![true; asked.len()]);
            absent.iter().zip(found).for_each(|(index, found)| online[*index] = found);
        }
        online
    }
}
