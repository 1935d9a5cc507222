//! The use cases: what the appliance does, one verb a function.
//!
//! This room decides who may do what and puts the rooms below together. It knows no HTTP, no hub
//! and no command line; those bring a [`Caller`] and values, and map [`Error`] once at their border.
//!
//! It is built of wings, each a folder with a service of its own state: `app.messages.send(..)`,
//! `app.delivery.acknowledge(..)`. All of them share [`Core`]. A wing uses only those above it in this list;
//! `tests/arch.rs` holds them to that:
//!
//! - `identity`: users, tokens, phone numbers, who may do what
//! - `limits`: rate limits and backpressure
//! - `process`: this process among the others: heartbeat, drain, health, counters
//! - `delivery`: from a stored message to its recipient, and the receipts back
//! - `messages`: one-way messages: sending and listing
//! - `chat`: conversations
//! - `admin`: what administrators look at and do
//! - `registration`: phones that prove their number with a code
//! - `jobs`: slow work under a lease, such as mail
//!
//! Files beside them (`core`, `audit_log`, `batch_writer`, `clock`, ...) are used by all wings and use none.

// A name that says what it is needs no sentence that says it again.

pub mod admin;
pub mod audit_log;
mod batch_writer;
pub mod blocking;
pub mod chat;
pub mod clock;
pub mod core;
mod database_outages;
pub mod delivery;
pub mod error;
pub mod failpoints;
pub mod identity;
pub mod jobs;
pub mod limits;
pub mod messages;
pub mod process;
pub mod registration;
pub mod runtime_settings;
pub mod sealed_secrets;
pub mod traces;

use std::{ops::Deref, sync::Arc};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::core::{Backends, Core, NodeSettings, Settings, new_node};
pub use audit_log::By;
pub use clock::Clock;
pub use error::Error;
pub use identity::access::Caller;
pub use runtime_settings::RuntimeSettings;

pub use crate::store::nodes::Role;

use crate::{
    cache::Cache,
    domain::NodeId,
    presence::{Delivery, Presence, Registry},
    queue::Queue,
    secrets::KeyStore,
    store::Store,
};

/// The appliance. Cheap to clone.
#[derive(Clone)]
pub struct App {
    wings: Arc<Wings>,
}

/// The wings of the appliance.
pub struct Wings {
    core: Core,
    /// Users, tokens, phone numbers.
    pub identity: identity::IdentityService,
    /// Rate limits and backpressure.
    pub limits: limits::LimitService,
    /// This process among the others.
    pub process: process::ProcessService,
    /// From a stored message to its recipient, and back.
    pub delivery: delivery::DeliveryService,
    /// One-way messages.
    pub messages: messages::MessageService,
    /// Conversations.
    pub chat: chat::ChatService,
    /// What administrators look at and do.
    pub admin: admin::AdminService,
    /// Phones that prove their number with a code.
    pub registration: registration::RegistrationService,
    /// Slow work under a lease.
    pub jobs: jobs::JobService,
}

impl Deref for App {
    type Target = Wings;

    fn deref(&self) -> &Wings {
        &self.wings
    }
}

impl App {
    /// Puts together an appliance that is all in this process; see [`App::start_with`].
    pub fn start(
        settings: Settings,
        store: Store,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> App {
        let backends = Backends::embedded(&settings);
        App::start_with(settings, store, backends, tracker, stop)
    }

    /// Puts the appliance together and starts its writers, which end when `stop` is cancelled
    /// and everything handed to them is written; `tracker` waits for that.
    pub fn start_with(
        settings: Settings,
        store: Store,
        backends: Backends,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> App {
        let (core, core_tasks) = Core::new(settings, store, backends);
        let identity = identity::IdentityService::new(&core);
        let limits = limits::LimitService::new(&core);
        let process = process::ProcessService::new(&core, &limits);
        let (delivery, delivery_tasks) =
            delivery::DeliveryService::new(&core, &identity, &limits, &process);
        let (messages, message_tasks) =
            messages::MessageService::new(&core, &identity, &limits, &process, &delivery);
        let (chat, chat_tasks) =
            chat::ChatService::new(&core, &identity, &limits, &process, &delivery);
        let admin = admin::AdminService::new(&core, &delivery, &messages);
        let registration = registration::RegistrationService::new(&core, &identity);
        let jobs = jobs::JobService::new(&core, &registration);
        core_tasks.spawn(tracker, stop);
        delivery_tasks.spawn(tracker, stop);
        message_tasks.spawn(tracker, stop);
        chat_tasks.spawn(tracker, stop);
        let wings = Wings {
            core,
            identity,
            limits,
            process,
            delivery,
            messages,
            chat,
            admin,
            registration,
            jobs,
        };
        App { wings: Arc::new(wings) }
    }

    /// The name of this process among those of a cluster.
    pub fn node(&self) -> NodeId {
        self.core.node()
    }

    /// The settings that may change, as they are now.
    pub fn runtime_settings(&self) -> Arc<RuntimeSettings> {
        self.core.runtime_settings()
    }

    pub fn presence(&self) -> &Presence {
        self.core.presence()
    }

    /// Connections to the diagnostic hub: nothing is delivered to them.
    pub fn diagnostic_connections(&self) -> &Registry {
        self.core.diagnostic_connections()
    }

    /// The wake-ups between accepting and delivering.
    pub fn queue(&self) -> &Queue<Arc<Delivery>> {
        self.core.queue()
    }

    /// Where pages are kept that are read often.
    pub fn cache(&self) -> &Cache {
        self.core.cache()
    }

    pub fn clock(&self) -> &Clock {
        self.core.clock()
    }

    /// The keys that seal secrets; `None` without a key file.
    pub fn keys(&self) -> Option<&KeyStore> {
        self.core.keys()
    }

    /// Passes a place at which a test may let the process die.
    pub fn failpoint(&self, name: &'static str) {
        self.core.failpoint(name);
    }
}
