//! The word of clients that have none: the existing programs of businesses show what they are told and
//! acknowledge nothing. That a message has come to them is seen by a ping that was sent after it and
//! answered; over other transports, where nothing is answered, by its having been written.

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};

use super::Driver;
use crate::{
    domain::MessageId,
    server::hub::{method::Done, methods, services::Service, wire::Wire},
};

/// What is known of the messages told on one connection. There are no more than a window holds.
#[derive(Default)]
pub(super) struct Receipts {
    /// Told, after the last ping.
    told: Vec<MessageId>,
    /// Told before the ping that is not answered yet.
    probed: Vec<MessageId>,
    ping: u64,
    saying: Option<BoxFuture<'static, Done>>,
}

/// Kept where clients give none.
pub(super) fn receipts(service: Service) -> Option<Box<Receipts>> {
    (service == Service::LegacyBusiness).then(Box::default)
}

/// The end of what is being said for the client.
pub(super) async fn said(receipts: &mut Option<Box<Receipts>>) -> Done {
    match receipts.as_mut().map(|receipts| &mut receipts.saying) {
        Some(saying) => super::finished(saying).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    pub(super) fn note_told(&mut self, id: MessageId) {
        if let Some(receipts) = &mut self.receipts {
            receipts.told.push(id);
        }
    }

    /// Everything has been written: asks whether it has come.
    pub(super) async fn probe(&mut self, wire: &mut Wire) -> Result<(), &'static str> {
        let Some(receipts) = &mut self.receipts else { return Ok(()) };
        let waits = receipts.saying.is_some() || !receipts.probed.is_empty();
        if waits || receipts.told.is_empty() || self.session.is_away() {
            return Ok(());
        }
        receipts.probed = std::mem::take(&mut receipts.told);
        receipts.ping += 1;
        let ping = Bytes::copy_from_slice(&receipts.ping.to_be_bytes());
        if !wire.ping(ping).await? {
            self.vouch();
        }
        Ok(())
    }

    /// A ping was answered. Some clients send answers that nothing asked for.
    pub(super) fn on_pong(&mut self, payload: &[u8]) {
        if self.receipts.as_ref().is_some_and(|receipts| receipts.ping.to_be_bytes() == payload) {
            self.vouch();
        }
    }

    fn vouch(&mut self) {
        let Some(receipts) = &mut self.receipts else { return };
        let ids = std::mem::take(&mut receipts.probed);
        if ids.is_empty() {
            return;
        }
        let invocation = self.invocation(&ids, 0);
        if let Some(feed) = &mut self.feed {
            feed.on_ack_received(&ids);
        }
        let saying = methods::acknowledging(ids).run(invocation).boxed();
        if let Some(receipts) = &mut self.receipts {
            receipts.saying = Some(saying);
        }
    }

    pub(super) fn on_vouched(&mut self, done: &Done) {
        if let Some(receipts) = &mut self.receipts {
            receipts.saying = None;
        }
        self.on_word(done);
    }

    /// The transport was lost with what was on it.
    pub(super) fn forget_ping(&mut self) {
        if let Some(receipts) = &mut self.receipts {
            receipts.told.append(&mut receipts.probed);
        }
    }
}
