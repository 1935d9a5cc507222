//! One gateway: its connections, its breaker, and one attempt.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use time::OffsetDateTime;

use super::{SmsRequest, json_answer};
use crate::{
    domain::{
        breaker::{Breaker, BreakerPermit},
        provider::SMS_BREAKER,
        sms::{GatewayRequest, SmsGateway, SmsValues, SmsVerdict},
    },
    outbound::{self, AddressPolicy, OutboundClient, OutboundLimits},
};

/// The rest of a longer answer is not read.
const MAX_ANSWER_LEN: usize = 64 * 1024;
/// The rest of a gateway's longer id is dropped.
const MAX_MESSAGE_ID_LEN: usize = 200;

pub(super) fn limits(extra_roots: Option<&[u8]>) -> OutboundLimits {
    OutboundLimits {
        policy: AddressPolicy::Anywhere,
        max_response_len: MAX_ANSWER_LEN,
        truncate: true,
        extra_roots: extra_roots.map(<[u8]>::to_vec),
        ..OutboundLimits::default()
    }
}

/// Whether a client can be made with these limits.
pub(super) fn check(limits: &OutboundLimits) -> Result<(), outbound::Error> {
    OutboundClient::new(limits.clone()).map(|_| ())
}

/// One attempt, with everything that can be told about it. Secrets in it are masked.
#[derive(Clone)]
pub struct SmsTrial {
    pub gateway: Arc<str>,
    pub request: GatewayRequest,
    /// Status and body; an error if there was no answer.
    pub answer: Result<(u16, String), String>,
    pub verdict: SmsVerdict,
    /// The gateway's id of the message.
    pub message_id: Option<String>,
}

impl SmsTrial {
    /// Why it ended so; without the body, which may repeat the number.
    pub(super) fn reason(&self) -> String {
        match &self.answer {
            Ok((status, _)) => format!("the gateway answered {status}"),
            Err(why) => why.clone(),
        }
    }
}

pub(super) struct GatewayClient {
    gateway: SmsGateway,
    name: Arc<str>,
    basic: String,
    limits: OutboundLimits,
    /// Made for the first message: most commands send none.
    client: OnceLock<Result<OutboundClient, String>>,
    breaker: Mutex<Breaker>,
}

impl GatewayClient {
    pub(super) fn new(gateway: SmsGateway, limits: OutboundLimits) -> GatewayClient {
        let (threshold, pause) = SMS_BREAKER;
        GatewayClient {
            name: gateway.name().into(),
            basic: STANDARD.encode(format!("{}:{}", gateway.user(), gateway.secret())),
            gateway,
            limits,
            client: OnceLock::new(),
            breaker: Mutex::new(Breaker::new(threshold, pause)),
        }
    }

    pub(super) fn gateway(&self) -> &SmsGateway {
        &self.gateway
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Whether the breaker lets a call through; the caller reports how it ended.
    pub(super) fn acquire(&self, now: OffsetDateTime) -> bool {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(breaker.acquire(now), BreakerPermit::DenyUntil(_))
    }

    pub(super) fn report(&self, verdict: SmsVerdict, now: OffsetDateTime) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        match verdict {
            // A gateway that refuses one message works.
            SmsVerdict::Sent | SmsVerdict::Permanent => breaker.succeeded(),
            SmsVerdict::Passing => breaker.failed(now),
        }
    }

    /// Calls the gateway once.
    pub(super) async fn attempt(&self, request: &SmsRequest<'_>) -> SmsTrial {
        let id = request.id.to_string();
        let values = SmsValues {
            to: request.to,
            text: request.text,
            code: request.code,
            locale: request.locale,
            id: &id,
            sender: self.gateway.sender(),
            user: self.gateway.user(),
            secret: self.gateway.secret(),
            basic: &self.basic,
            masked: false,
        };
        let answer = self.call(self.gateway.render(&values)).await;
        let (verdict, message_id) = match &answer {
            Ok((status, body)) => {
                let json = json_answer::parse(body);
                let at = |pointer: &str| json_answer::text_at(json.as_ref(), pointer);
                let id = self.gateway.id_pointer().and_then(at);
                let id = id.map(|id| id.chars().take(MAX_MESSAGE_ID_LEN).collect());
                (self.gateway.judge(*status, body, &at), id)
            }
            Err(_) => (SmsVerdict::Passing, None),
        };
        let labels = [("gateway", self.name.to_string()), ("result", verdict.name().to_owned())];
        metrics::counter!("esh3ar_sms_sent_total", &labels).increment(1);
        SmsTrial {
            gateway: self.name(),
            request: self.gateway.render(&SmsValues { masked: true, ..values }),
            answer: answer.map(|(status, body)| (status, self.masked(&body))),
            verdict,
            message_id,
        }
    }

    async fn call(&self, request: GatewayRequest) -> Result<(u16, String), String> {
        let client = self.client.get_or_init(|| {
            OutboundClient::new(self.limits.clone()).map_err(|error| error.to_string())
        });
        let client = client.as_ref().map_err(Clone::clone)?;
        let mut built = Request::builder().method(request.method.name()).uri(&request.url);
        for (name, value) in &request.headers {
            // Of a value that no header can have, the error would say nothing more.
            let name = HeaderName::try_from(name.as_str()).map_err(|_| unusable())?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| unusable())?;
            built = built.header(name, value);
        }
        let body = Bytes::from(request.body.unwrap_or_default());
        let request = built.body(body).map_err(|_| unusable())?;
        let answer = client.send(request).await.map_err(|error| error.to_string())?;
        Ok((answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// An answer without the gateway's secrets: some repeat the request.
    fn masked(&self, body: &str) -> String {
        let mut masked = body.to_owned();
        if !self.gateway.secret().is_empty() {
            for secret in [self.basic.as_str(), self.gateway.secret()] {
                masked = masked.replace(secret, "***");
            }
        }
        masked
    }
}

fn unusable() -> String {
    "the request cannot be written: check the gateway's url and headers".to_owned()
}
