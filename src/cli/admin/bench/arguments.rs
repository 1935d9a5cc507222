//! The options of `bench`.

use std::time::Duration;

use clap::Args;

use crate::{bench::load::Plan, config::duration};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Address of a running server whose database this command can open [default: a temporary server,
    /// started for the run]
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// Process id of the running server, to measure its CPU and memory [default: from the data folder]
    #[arg(long, requires = "url")]
    pub(super) pid: Option<u32>,
    /// Messages per second, sent on schedule even if earlier ones were not answered [default: each
    /// sender waits for an answer before it sends the next]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// Sending connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) senders: u32,
    /// Connected phones
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) recipients: u32,
    /// Share of the phones that acknowledge, 0 to 1
    #[arg(long, default_value_t = 1.0, value_parser = share)]
    pub(super) acknowledge: f64,
    /// Size of a message's content, in bytes
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(32..=10_000))]
    pub(super) payload: u32,
    /// Messages per request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(super) batch: u32,
    /// Priority: low, normal or high
    #[arg(long, default_value = "normal", value_parser = ["low", "normal", "high"])]
    pub(super) priority: String,
    /// Duration of the measurement
    #[arg(long, default_value = "10s", value_parser = span)]
    pub(super) duration: Duration,
    /// Duration of the warm-up, which is not measured
    #[arg(long, default_value = "2s", value_parser = span)]
    pub(super) warmup: Duration,
    /// Instead, measure how long a connecting phone takes to receive this many pending messages
    #[arg(long, value_name = "N", conflicts_with = "idle", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) pending: Option<u32>,
    /// Chat in this many conversations, in both directions, instead of one-way messages
    #[arg(long, value_name = "N", conflicts_with_all = ["idle", "pending", "batch", "recipients"], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) chat: Option<u32>,
    /// Share of the chat messages that phones send, 0 to 1
    #[arg(long, default_value_t = 0.5, requires = "chat", value_parser = share)]
    pub(super) replies: f64,
    /// Share of the chat messages that recipients mark as read, 0 to 1
    #[arg(long, default_value_t = 0.0, requires = "chat", value_parser = share)]
    pub(super) read: f64,
    /// Instead, measure reads of pages of 50 messages from a conversation with this many messages
    #[arg(long, value_name = "N", conflicts_with_all = ["idle", "pending", "chat"], value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) history: Option<u32>,
    /// Instead, measure the server's memory for this many idle connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) idle: Option<u32>,
}

impl BenchArgs {
    pub(super) fn plan(&self) -> Plan {
        Plan {
            senders: self.senders as usize,
            rate: self.rate,
            batch: self.batch as usize,
            payload: self.payload as usize,
            duration: self.duration,
            warmup: self.warmup,
            priority: self.priority.clone(),
            acknowledge: self.acknowledge,
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.1..=1_000_000.0).contains(rate));
    rate.ok_or_else(|| "expected a number from 0.1 to 1000000".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(24 * 3600);
    duration::parse(text)
        .filter(|span| *span <= most)
        .ok_or_else(|| "expected a duration such as 500ms, 10s or 5m, at most 1d".to_owned())
}
