//! Whether the appliance can do its work.

use std::time::{Duration, Instant};

use super::App;
use crate::domain::Priority;

/// How long a dependency may take to answer before it counts as down.
const PATIENCE: Duration = Duration::from_secs(2);

/// One dependency.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// `database` or `realtime`.
    pub name: &'static str,
    /// Whether it answers.
    pub up: bool,
    /// How long it took.
    pub latency: Duration,
    /// What is wrong with it.
    pub fault: Option<String>,
}

impl App {
    /// The state of every dependency there is.
    pub async fn health(&self) -> Vec<Dependency> {
        let begun = Instant::now();
        let fault = match tokio::time::timeout(PATIENCE, self.store().ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer in {} s", PATIENCE.as_secs())),
        };
        let database =
            Dependency { name: "database", up: fault.is_none(), latency: begun.elapsed(), fault };
        let realtime =
            Dependency { name: "realtime", up: true, latency: Duration::ZERO, fault: None };
        vec![database, realtime]
    }

    /// How many wake-ups wait in each lane: low, normal, high.
    pub fn queue_depths(&self) -> [(Priority, usize); 3] {
        [Priority::Low, Priority::Normal, Priority::High]
            .map(|lane| (lane, self.queue().depth(lane)))
    }
}
