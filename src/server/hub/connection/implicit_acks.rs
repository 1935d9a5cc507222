//! The word of clients that have none: the existing programs of businesses show what they are sent and
//! acknowledge nothing. That a message has come to them is seen by a ping that was sent after it and
//! answered; over other transports, where nothing is answered, by its having been written.

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};

use super::{Driver, event_loop::finished};
use crate::{
    domain::MessageId,
    server::hub::{
        hubs::{messages, method::InvocationResult, service::Service},
        transport::Transport,
    },
};

/// What is known of the messages sent on one connection. There are no more than a window holds.
#[derive(Default)]
pub(super) struct ImplicitAcks {
    /// Told, after the last ping.
    sent: Vec<MessageId>,
    /// Told before the ping that is not answered yet.
    probed: Vec<MessageId>,
    ping: u64,
    acknowledging: Option<BoxFuture<'static, InvocationResult>>,
}

/// Kept where clients give none.
pub(super) fn for_service(service: Service) -> Option<Box<ImplicitAcks>> {
    (service == Service::LegacyBusiness).then(Box::default)
}

/// The end of what is being said for the client.
pub(super) async fn stored(implicit_acks: &mut Option<Box<ImplicitAcks>>) -> InvocationResult {
    match implicit_acks.as_mut().map(|acks| &mut implicit_acks.acknowledging) {
        Some(acknowledging) => finished(acknowledging).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    pub(super) fn note_sent(&mut self, id: MessageId) {
        if let Some(acks) = &mut self.implicit_acks {
            acks.sent.push(id);
        }
    }

    /// Everything has been written: asks whether it has come.
    pub(super) async fn probe(&mut self, transport: &mut Transport) -> Result<(), &'static str> {
        let Some(acks) = &mut self.implicit_acks else { return Ok(()) };
        let waits = acks.acknowledging.is_some() || !acks.probed.is_empty();
        if waits || acks.sent.is_empty() || self.session.is_detached() {
            return Ok(());
        }
        acks.probed = std::mem::take(&mut implicit_acks.sent);
        acks.ping += 1;
        let ping = Bytes::copy_from_slice(&acks.ping.to_be_bytes());
        if !transport.ping(ping).await? {
            self.acknowledge_probed();
        }
        Ok(())
    }

    /// A ping was answered. Some clients send answers that nothing asked for.
    pub(super) fn on_pong(&mut self, payload: &[u8]) {
        if self.implicit_acks.as_ref().is_some_and(|acks| acks.ping.to_be_bytes() == payload) {
            self.acknowledge_probed();
        }
    }

    fn acknowledge_probed(&mut self) {
        let Some(acks) = &mut self.implicit_acks else { return };
        let ids = std::mem::take(&mut implicit_acks.probed);
        if ids.is_empty() {
            return;
        }
        let invocation = self.invocation(&ids, 0);
        if let Some(feed) = &mut self.feed {
            feed.on_said(&ids);
        }
        let acknowledging = messages::acknowledging(ids).run(invocation).boxed();
        if let Some(acks) = &mut self.implicit_acks {
            acks.acknowledging = Some(acknowledging);
        }
    }

    pub(super) fn on_implicit_ack_stored(&mut self, done: &InvocationResult) {
        if let Some(acks) = &mut self.implicit_acks {
            acks.acknowledging = None;
        }
        self.on_acknowledge_stored(done);
    }

    /// The transport was lost with what was on it.
    pub(super) fn reset_probe(&mut self) {
        if let Some(acks) = &mut self.implicit_acks {
            acks.sent.append(&mut implicit_acks.probed);
        }
    }
}
