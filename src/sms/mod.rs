//! SMS through the gateways of the configuration: in their order, with a circuit breaker each.
//!
//! This room knows how a message reaches a gateway and what the answer means, not what the message says or
//! when to try again.

mod gateway_client;
mod json_answer;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use uuid::Uuid;

use self::gateway_client::GatewayClient;
pub use self::{gateway_client::SmsTrial, json_answer::check_body};
use crate::{
    domain::{
        Phone,
        sms::{SmsGateway, SmsVerdict, in_order},
    },
    outbound::OutboundLimits,
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The additional certificates are unusable.
    #[error("{0}")]
    Certificates(String),
}

/// A message to one phone.
#[derive(Clone, Copy)]
pub struct SmsRequest<'a> {
    pub to: &'a Phone,
    /// The whole text, with the code.
    pub text: &'a str,
    /// The code alone, for gateways that have a text of their own.
    pub code: &'a str,
    /// `en` or `ar`.
    pub locale: &'a str,
    /// Of the registration.
    pub id: Uuid,
    /// Which of the gateways that serve the country is tried first, from 0; counted modulo their number.
    pub first: usize,
}

/// How a send ended. Reasons contain no number, text or secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SmsOutcome {
    Sent {
        gateway: Arc<str>,
        /// The gateway's id of the message.
        message_id: Option<String>,
    },
    /// The gateway refused the message for good.
    Permanent { gateway: Arc<str>, reason: String },
    /// No gateway took the message this time.
    Passing {
        /// Of the last gateway that was tried.
        reason: String,
        /// How many gateways were called.
        tried: usize,
    },
}

/// All gateways. Cheap to clone; clones share connections and breakers. `Debug` shows names only.
#[derive(Clone, Default)]
pub struct SmsGateways(Option<Arc<Gateways>>);

struct Gateways {
    clients: Vec<GatewayClient>,
    /// The breakers count from here.
    started: Instant,
}

impl SmsGateways {
    /// The gateways, in the order in which they are tried. `extra_roots` are certificates in PEM that are
    /// trusted in addition to the system's.
    ///
    /// # Errors
    /// [`Error::Certificates`]
    pub fn new(
        gateways: Vec<SmsGateway>,
        extra_roots: Option<&[u8]>,
    ) -> Result<SmsGateways, Error> {
        if gateways.is_empty() {
            return Ok(SmsGateways::default());
        }
        let limits = gateway_client::limits(extra_roots);
        if extra_roots.is_some() {
            gateway_client::check(&limits)
                .map_err(|error| Error::Certificates(error.to_string()))?;
        }
        let client = |gateway: SmsGateway| {
            let timeout = gateway.timeout();
            let connect_timeout = limits.connect_timeout.min(timeout);
            let limits = OutboundLimits { timeout, connect_timeout, ..limits.clone() };
            GatewayClient::new(gateway, limits)
        };
        let clients = gateways.into_iter().map(client).collect();
        Ok(SmsGateways(Some(Arc::new(Gateways { clients, started: Instant::now() }))))
    }

    /// Whether none is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one serves a country, given by its two-letter code.
    pub fn for_country(&self, country: &str) -> bool {
        self.clients().iter().any(|client| client.gateway().serves(Some(country)))
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.clients().iter().map(|client| client.gateway().name())
    }

    /// The names of those that serve a country, in order.
    pub fn serving(&self, country: Option<&str>) -> impl Iterator<Item = &str> {
        let serving = self.clients().iter().filter(move |client| client.gateway().serves(country));
        serving.map(|client| client.gateway().name())
    }

    /// Tries each gateway of the country once until one takes the message or refuses it for good. A gateway
    /// whose breaker is open is skipped.
    pub async fn send(&self, request: &SmsRequest<'_>) -> SmsOutcome {
        let country = request.to.country();
        let serving: Vec<&GatewayClient> =
            self.clients().iter().filter(|client| client.gateway().serves(country)).collect();
        let (mut last, mut tried) = (None, 0);
        for client in in_order(serving.len(), request.first).filter_map(|at| serving.get(at)) {
            if !client.acquire(self.now()) {
                continue;
            }
            tried += 1;
            let trial = client.attempt(request).await;
            client.report(trial.verdict, self.now());
            let reason = trial.reason();
            match trial.verdict {
                SmsVerdict::Sent => {
                    return SmsOutcome::Sent {
                        gateway: client.name(),
                        message_id: trial.message_id,
                    };
                }
                SmsVerdict::Permanent => {
                    return SmsOutcome::Permanent { gateway: client.name(), reason };
                }
                SmsVerdict::Passing => {
                    let gateway = client.gateway().name();
                    tracing::warn!(gateway, reason, "SMS gateway failed");
                    last = Some(format!("{gateway}: {reason}"));
                }
            }
        }
        let reason = last.unwrap_or_else(|| match serving.is_empty() {
            true => "no gateway serves this country".to_owned(),
            false => "all gateways are paused after failures".to_owned(),
        });
        SmsOutcome::Passing { reason, tried }
    }

    /// Sends a message through the gateway of this name, and tells everything about it. `None` if there is no
    /// such gateway. Its breaker is neither asked nor told.
    pub async fn test(&self, request: &SmsRequest<'_>, name: &str) -> Option<SmsTrial> {
        let client = self.clients().iter().find(|client| client.gateway().name() == name)?;
        Some(client.attempt(request).await)
    }

    fn clients(&self) -> &[GatewayClient] {
        self.0.as_ref().map_or(&[], |gateways| &gateways.clients)
    }

    /// A time that only moves forward; its date means nothing.
    fn now(&self) -> OffsetDateTime {
        let elapsed = self.0.as_ref().map_or(Duration::ZERO, |g| g.started.elapsed());
        OffsetDateTime::UNIX_EPOCH + elapsed
    }
}

impl fmt::Debug for SmsGateways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}
