//! Whether the appliance can do its work.

use std::time::{Duration, Instant};

use super::ProcessService;
use crate::domain::{Priority, replica::ReplicaHealth};
use crate::queue::{Queue, rabbit::BrokerState};

/// How often every dependency is looked at, for those who want to know how it was.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// How long a dependency may take to answer before it counts as down.
const DEPENDENCY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer of the database is shown to all who ask: however many they are, it is asked once.
const HEALTH_TTL: Duration = Duration::from_secs(1);

/// What there is to say of a full disk: whose it is, the database's own log knows.
const DISK_FULL: &str =
    "the disk of the database is full, and nothing new can be stored: make room on it";

#[derive(Clone, Debug)]
pub struct Dependency {
    /// `database`, `disk`, `realtime`, `rabbitmq`, `redis` or `mail`.
    pub name: &'static str,
    pub up: bool,
    pub latency: Duration,
    pub fault: Option<String>,
    /// What does not work without it.
    pub stops: Stops,
}

/// What a dependency that is down takes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stops {
    /// Everything: the process can take no requests.
    Everything,
    /// Whatever stores something, on this process as on any other: what is there can be read.
    Storing,
    /// Nothing; it comes later.
    Nothing,
}

/// A copy of the database that lists are read from.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its host and port.
    pub name: std::sync::Arc<str>,
    /// Whether it is read from.
    pub standing: ReplicaHealth,
    /// How far it lagged when last measured.
    pub lag: Option<Duration>,
    /// Why it is left out.
    pub fault: Option<String>,
}

/// What the database and the other processes' ways answered last. While one asks, the others wait for it.
pub(super) type HealthCache = tokio::sync::Mutex<Option<(Instant, Vec<Dependency>)>>;

/// Mail waits for its server; nothing else does.
fn mail(latency: Duration, fault: Option<String>) -> Dependency {
    Dependency { name: "mail", up: fault.is_none(), latency, fault, stops: Stops::Nothing }
}

impl ProcessService {
    /// The state of every dependency there is; without `details` only of those without which nothing
    /// works, because a probe that comes every second should not connect to a mail server each time.
    pub async fn health(&self, details: bool) -> Vec<Dependency> {
        let full = self.is_disk_full();
        let fault = full.then(|| DISK_FULL.to_owned());
        let latency = Duration::ZERO;
        let disk = Dependency { name: "disk", up: !full, latency, fault, stops: Stops::Storing };
        let mut all = self.asked_dependencies().await;
        all.insert(1, disk);
        all.splice(2..2, self.realtime());
        if !details {
            return all;
        }
        let begun = Instant::now();
        match tokio::time::timeout(DEPENDENCY_TIMEOUT, self.core.runtime_settings().mailer.check())
            .await
        {
            Ok(None) => {}
            Ok(Some(result)) => {
                all.push(mail(begun.elapsed(), result.err().map(|e| e.to_string())))
            }
            Err(_) => {
                let fault = format!("no answer in {} s", DEPENDENCY_TIMEOUT.as_secs());
                all.push(mail(begun.elapsed(), Some(fault)));
            }
        }
        all
    }

    /// The database first, then the ways to other processes: those that are asked over a connection.
    async fn asked_dependencies(&self) -> Vec<Dependency> {
        let mut last = self.state.health.lock().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < HEALTH_TTL
        {
            return found.clone();
        }
        let begun = Instant::now();
        let fault = match tokio::time::timeout(DEPENDENCY_TIMEOUT, self.core.store().ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer in {} s", DEPENDENCY_TIMEOUT.as_secs())),
        };
        let (up, latency) = (fault.is_none(), begun.elapsed());
        let stops = Stops::Everything;
        let mut found = vec![Dependency { name: "database", up, latency, fault, stops }];
        found.extend(self.check_backends().await);
        *last = Some((Instant::now(), found.clone()));
        found
    }

    /// Whether the database had no room for something new in the last minute.
    pub fn is_disk_full(&self) -> bool {
        self.core.outages().is_disk_full()
    }

    /// How the copies of the database stand; without any, everything is read from the database itself.
    pub fn replicas(&self) -> Vec<Replica> {
        let states = self.core.store().replicas().into_iter();
        states
            .map(|state| Replica {
                name: state.name,
                standing: state.standing,
                lag: state.lag,
                fault: state.fault,
            })
            .collect()
    }

    /// The ways to other processes. Without them messages come later, and none is lost: they
    /// stop nothing.
    pub async fn check_backends(&self) -> Vec<Dependency> {
        let mut ways = Vec::new();
        if let Queue::Rabbit(rabbit) = self.core.queue() {
            let fault = match &*rabbit.state().borrow() {
                BrokerState::Connected { .. } => None,
                BrokerState::Down { why, .. } => Some(why.clone()),
                BrokerState::Blocked { why, .. } => Some(format!("it takes no publishes: {why}")),
            };
            let (up, latency) = (fault.is_none(), Duration::ZERO);
            ways.push(Dependency { name: "rabbitmq", up, latency, fault, stops: Stops::Nothing });
        }
        if let Some(relay) = self.core.presence().relay() {
            let begun = Instant::now();
            let fault = match relay.redis().ping().await {
                Ok(()) => None,
                Err(_) => Some(relay.redis().why_down()),
            };
            let (up, latency) = (fault.is_none(), begun.elapsed());
            ways.push(Dependency { name: "redis", up, latency, fault, stops: Stops::Nothing });
        }
        for way in &ways {
            let name = match way.name {
                "rabbitmq" => "esh3ar_rabbitmq_up",
                _ => "esh3ar_redis_up",
            };
            metrics::gauge!(name).set(f64::from(u8::from(way.up)));
        }
        ways
    }

    /// How many wake-ups wait in each lane: low, normal, high.
    pub fn queue_depths(&self) -> [(Priority, usize); 3] {
        [Priority::Low, Priority::Normal, Priority::High]
            .map(|lane| (lane, self.core.queue().depth(lane)))
    }
}
