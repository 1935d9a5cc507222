//! The output of one connection: messages are gathered in a frame, and frames sent to the transport.

use bytes::Bytes;

use super::{Driver, event_loop::next_reconnect};
use crate::server::hub::{
    protocol::codec::{self, Protocol},
    transport::Transport,
};

impl Driver {
    /// Adds a message of the server's own.
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
            Err(error) => tracing::error!(%error, target, "cannot encode a call"),
        }
    }

    /// Sends the output. The error is the reason for the loss of the transport.
    pub(super) async fn flush(&mut self, transport: &mut Transport) -> Result<(), &'static str> {
        while !self.output.is_empty() && (self.hold_until.is_none() || self.ended.is_some()) {
            // Some clients take messages in the same frame for a part of the handshake response.
            let separate = self.handshake_len > 0;
            let bytes = match std::mem::take(&mut self.handshake_len) {
                0 => std::mem::take(&mut self.output),
                length => self.output.split_to(length.min(self.output.len())),
            };
            let bytes = bytes.freeze();
            // The handshake response is text under every protocol.
            let text = self.protocol.is_none_or(Protocol::is_text);
            self.app.failpoint("socket_before_write");
            let reconnect = tokio::select! {
                sent = transport.send(bytes, text, separate) => {
                    sent?;
                    None
                }
                // A reconnect must not wait for the send timeout of the old socket.
                reconnect = next_reconnect(&mut self.reconnects), if self.ended.is_none() => {
                    Some(reconnect)
                }
            };
            self.app.failpoint("socket_after_write");
            if let Some(reconnect) = reconnect {
                self.resume(transport, reconnect);
                self.apply_actions();
            }
        }
        if !self.output.is_empty() {
            return Ok(());
        }
        if !self.unwritten.is_empty() {
            self.app.delivery.trace_written(std::mem::take(&mut self.unwritten));
        }
        self.probe(transport).await
    }
}
