//! The part of the configuration that may change while the process runs, in one value, so that a reader
//! sees all of the old or all of the new.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use crate::{
    domain::{
        limits::Limits, registration::OtpRules, retention::Retention, retry::RetryPolicy,
        trace::TraceSampler,
    },
    mail::Mailer,
    sms::SmsGateways,
};

#[derive(Clone, Debug)]
pub struct RuntimeSettings {
    /// What to do about deliveries that are not acknowledged. How long an acknowledgement may take counts
    /// for connections that are made from then on.
    pub retry: RetryPolicy,
    /// How much is taken on.
    pub limits: Limits,
    /// How long an access token of a phone is valid unless it is made otherwise.
    pub access_token_ttl: Duration,
    /// The same of a token of an administrator; `None`: it does not expire.
    pub admin_token_ttl: Option<Duration>,
    /// How long things are kept.
    pub retention: Retention,
    /// The way to the administrators.
    pub mailer: Mailer,
    /// The way to phones without the app.
    pub sms: SmsGateways,
    /// How often they are told of dead letters at most.
    pub alert_interval: Duration,
    /// Whether the existing hubs and routes get texts without tags.
    pub sanitize_existing: bool,
    /// The rules of registration by one-time code.
    pub otp: OtpRules,
    /// Of which messages it is logged what goes well.
    pub log_sample: TraceSampler,
}

/// What is in effect now. Cheap to clone; all clones change together.
#[derive(Clone)]
pub(super) struct Reloadable(Arc<RwLock<Arc<RuntimeSettings>>>);

impl Reloadable {
    pub(super) fn new(settings: RuntimeSettings) -> Reloadable {
        Reloadable(Arc::new(RwLock::new(Arc::new(settings))))
    }

    pub(super) fn get(&self) -> Arc<RuntimeSettings> {
        // It is only ever replaced whole, so a panic elsewhere has spoiled nothing.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, settings: RuntimeSettings) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}
