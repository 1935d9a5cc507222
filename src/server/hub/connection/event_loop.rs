//! The event loop of one connection: waits for its transport, registration, invocations, reads and timers.

use std::{pin::Pin, time::Instant};

use tokio::{
    sync::mpsc,
    time::{Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Driver, PendingRead, Reconnect, implicit_acks, running::finished};
use crate::{
    app::Error,
    presence::{Outbound, Registration},
    server::hub::{
        hubs::method::InvocationResult,
        transport::{Transport, TransportEvent},
    },
};

enum Event {
    Transport(TransportEvent),
    Reconnected(Reconnect),
    Outbound(Option<Outbound>),
    Invoked(Option<String>, InvocationResult),
    ImplicitlyAcknowledged(InvocationResult),
    Read(Result<PendingRead, Error>),
    Tick,
    Stop,
}

impl Driver {
    /// Runs until the connection ends. Returns the reason.
    pub(super) async fn run(
        &mut self,
        transport: &mut Transport,
        stop: CancellationToken,
    ) -> &'static str {
        let mut clock: Pin<Box<Sleep>> = Box::pin(sleep_until(self.deadline().into()));
        let mut stopping = false;
        loop {
            if let Err(reason) = self.flush(transport).await
                && !self.detach(transport)
            {
                return reason;
            }
            if let Some(reason) = self.ended {
                return reason.as_str();
            }
            if self.output.is_empty() && self.session.is_paused() {
                self.session.resume_reading(Instant::now(), &mut self.actions);
                self.apply_actions();
                continue;
            }
            self.begin_read();
            self.send_missed();
            if !self.output.is_empty() && self.hold_until.is_none() {
                continue;
            }
            let deadline = tokio::time::Instant::from(self.deadline());
            if clock.deadline() != deadline {
                clock.as_mut().reset(deadline);
            }
            let event = tokio::select! {
                event = transport.receive(), if self.session.wants_input() => {
                    Event::Transport(event)
                }
                outbound = next_outbound(&mut self.registration, self.session.is_full()) => {
                    Event::Outbound(outbound)
                }
                (id, result) = finished(&mut self.running) => Event::Invoked(id, result),
                result = implicit_acks::stored(&mut self.implicit_acks) => {
                    Event::ImplicitlyAcknowledged(result)
                }
                found = finished(&mut self.reading) => Event::Read(found),
                reconnect = next_reconnect(&mut self.reconnects) => Event::Reconnected(reconnect),
                () = clock.as_mut() => Event::Tick,
                () = stop.cancelled(), if !stopping => Event::Stop,
            };
            match event {
                Event::Transport(TransportEvent::Bytes(bytes)) => {
                    self.session.on_bytes(&bytes, Instant::now(), &mut self.actions);
                }
                Event::Transport(TransportEvent::Pong(payload)) => self.on_pong(&payload),
                Event::Transport(TransportEvent::Ended(reason)) => return reason,
                Event::Transport(TransportEvent::Lost(reason)) => {
                    if !self.detach(transport) {
                        return reason;
                    }
                }
                Event::Outbound(outbound) => self.on_outbound(outbound),
                Event::Invoked(id, result) => self.on_invocation_result(id.as_deref(), result),
                Event::ImplicitlyAcknowledged(result) => self.on_implicit_ack_stored(&result),
                Event::Read(found) => self.on_read(found),
                Event::Reconnected(reconnect) => self.resume(transport, reconnect),
                Event::Tick => self.on_tick(transport),
                Event::Stop => {
                    stopping = true;
                    self.wait_for_close_wave().await;
                    self.session.close(None, true, &mut self.actions);
                }
            }
            self.apply_actions();
        }
    }
}

pub(super) async fn next_reconnect(
    reconnects: &mut Option<mpsc::Receiver<Reconnect>>,
) -> Reconnect {
    let next = match reconnects {
        Some(reconnects) => reconnects.recv().await,
        None => None,
    };
    match next {
        Some(reconnect) => reconnect,
        None => std::future::pending().await,
    }
}

/// `only_close_notice` while the client accepts nothing else.
async fn next_outbound(
    registration: &mut Option<Registration>,
    only_close_notice: bool,
) -> Option<Outbound> {
    match registration {
        Some(registration) if only_close_notice => Some(registration.close_notice().await),
        Some(registration) => registration.next().await,
        None => std::future::pending().await,
    }
}
