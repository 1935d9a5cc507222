//! The part of the configuration that may change while the process runs, in one value: whoever looks sees
//! all of the old or all of the new.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use super::App;
use crate::{
    domain::{limits::Limits, retention::Retention, retry::RetryPolicy, trace::TraceSampler},
    mail::Mailer,
};

/// What may change.
#[derive(Clone, Debug)]
pub struct Live {
    /// What to do about deliveries that are not acknowledged. How long an acknowledgement may take counts
    /// for connections that are made from then on.
    pub retry: RetryPolicy,
    /// How much is taken on.
    pub limits: Limits,
    /// How long an access token of a phone is valid unless it is made otherwise.
    pub access_token_ttl: Duration,
    /// How long things are kept.
    pub retention: Retention,
    /// The way to the administrators.
    pub mailer: Mailer,
    /// How often they are told of dead letters at most.
    pub alert_interval: Duration,
    /// Of which messages it is logged what goes well.
    pub log_sample: TraceSampler,
}

/// What is in effect now. Cheap to clone; all clones change together.
#[derive(Clone)]
pub(super) struct Current(Arc<RwLock<Arc<Live>>>);

impl Current {
    pub(super) fn new(live: Live) -> Current {
        Current(Arc::new(RwLock::new(Arc::new(live))))
    }

    pub(super) fn get(&self) -> Arc<Live> {
        // It is only ever replaced whole, so a panic elsewhere has spoiled nothing.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, live: Live) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }
}

impl App {
    /// What is in effect now of what may change. To be asked once for a batch.
    pub fn live(&self) -> Arc<Live> {
        self.inner.live.get()
    }

    /// From now on this is in effect.
    pub fn take_up(&self, live: Live) {
        self.presence().local().allow(live.limits);
        self.bystanders().allow(live.limits);
        self.inner.live.set(live);
    }
}
