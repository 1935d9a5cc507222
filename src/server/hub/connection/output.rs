//! What one connection writes: messages that are gathered in a frame, and the frame to the transport.

use bytes::Bytes;

use super::{Driver, event_loop::next_reconnect};
use crate::server::hub::{
    protocol::codec::{self, Protocol},
    transport::Transport,
};

impl Driver {
    /// Writes a message of the server's own accord.
    pub(super) fn enqueue(&mut self, message: &Bytes) {
        self.session.count(message);
        self.output.extend_from_slice(message);
    }

    pub(super) fn enqueue_call<T: serde::Serialize>(
        &mut self,
        protocol: Protocol,
        target: &str,
        argument: &T,
    ) {
        match codec::invocation(protocol, target, argument) {
            Ok(bytes) => self.enqueue(&bytes),
            Err(error) => tracing::error!(%error, target, "a call could not be written"),
        }
    }

    /// Sends what is to go out. An error says why the transport is lost.
    pub(super) async fn flush(&mut self, transport: &mut Transport) -> Result<(), &'static str> {
        while !self.output.is_empty() && (self.hold_until.is_none() || self.ended.is_some()) {
            // Some clients take for a part of the answer to the handshake what comes with it.
            let alone = self.handshake_len > 0;
            let bytes = match std::mem::take(&mut self.handshake_len) {
                0 => std::mem::take(&mut self.output),
                answer => self.output.split_to(answer.min(self.output.len())),
            };
            let bytes = bytes.freeze();
            // The answer to the handshake is text under every protocol, as are all messages of JSON.
            let text = self.protocol.is_none_or(Protocol::is_text);
            self.app.failpoint("socket_before_write");
            let back = tokio::select! {
                sent = transport.send(bytes, text, alone) => {
                    sent?;
                    None
                }
                // It must not wait until its old socket counts as stuck.
                back = next_reconnect(&mut self.reconnects), if self.ended.is_none() => Some(back),
            };
            self.app.failpoint("socket_after_write");
            if let Some(back) = back {
                self.resume(transport, back);
                self.apply_actions();
            }
        }
        if !self.output.is_empty() {
            return Ok(());
        }
        if !self.unwritten.is_empty() {
            self.app.trace_written(std::mem::take(&mut self.unwritten));
        }
        self.probe(transport).await
    }
}
