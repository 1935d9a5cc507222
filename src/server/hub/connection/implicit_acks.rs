//! Acknowledgements for clients that send none: the existing programs of businesses show messages and
//! acknowledge nothing. A WebSocket ping sent after a message and answered confirms it; over other
//! transports, which have no pings, the write itself does.

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};

use super::{Driver, running::finished};
use crate::{
    domain::MessageId,
    server::hub::{
        hubs::{messages, method::InvocationResult, service::Service},
        transport::Transport,
    },
};

/// At most a window of messages.
#[derive(Default)]
pub(super) struct ImplicitAcks {
    /// Sent after the last ping.
    sent: Vec<MessageId>,
    /// Sent before the ping that is in flight.
    probed: Vec<MessageId>,
    ping: u64,
    acknowledging: Option<BoxFuture<'static, InvocationResult>>,
}

/// `None` for hubs whose clients acknowledge.
pub(super) fn for_service(service: Service) -> Option<Box<ImplicitAcks>> {
    (service == Service::LegacyBusiness).then(Box::default)
}

/// The result of the implicit acknowledgement that is running.
pub(super) async fn stored(implicit_acks: &mut Option<Box<ImplicitAcks>>) -> InvocationResult {
    match implicit_acks.as_mut().map(|acks| &mut acks.acknowledging) {
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

    /// Everything has been written: pings the client.
    pub(super) async fn probe(&mut self, transport: &mut Transport) -> Result<(), &'static str> {
        let Some(acks) = &mut self.implicit_acks else { return Ok(()) };
        let waits = acks.acknowledging.is_some() || !acks.probed.is_empty();
        if waits || acks.sent.is_empty() || self.session.is_detached() {
            return Ok(());
        }
        acks.probed = std::mem::take(&mut acks.sent);
        acks.ping += 1;
        let ping = Bytes::copy_from_slice(&acks.ping.to_be_bytes());
        if !transport.ping(ping).await? {
            self.acknowledge_probed();
        }
        Ok(())
    }

    /// Some clients send pongs that answer no ping.
    pub(super) fn on_pong(&mut self, payload: &[u8]) {
        if self.implicit_acks.as_ref().is_some_and(|acks| acks.ping.to_be_bytes() == payload) {
            self.acknowledge_probed();
        }
    }

    fn acknowledge_probed(&mut self) {
        let Some(acks) = &mut self.implicit_acks else { return };
        let ids = std::mem::take(&mut acks.probed);
        if ids.is_empty() {
            return;
        }
        let invocation = self.invocation(&ids, 0);
        if let Some(feed) = &mut self.feed {
            feed.on_ack_received(&ids);
        }
        let acknowledging = messages::acknowledging(ids).run(invocation).boxed();
        if let Some(acks) = &mut self.implicit_acks {
            acks.acknowledging = Some(acknowledging);
        }
    }

    pub(super) fn on_implicit_ack_stored(&mut self, result: &InvocationResult) {
        if let Some(acks) = &mut self.implicit_acks {
            acks.acknowledging = None;
        }
        self.on_acknowledge_stored(result);
    }

    /// The transport was lost with the messages in flight.
    pub(super) fn reset_probe(&mut self) {
        if let Some(acks) = &mut self.implicit_acks {
            acks.sent.append(&mut acks.probed);
        }
    }
}
