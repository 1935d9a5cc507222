//! `bench`: what an installation on this machine can do.

mod conversing;
mod server;

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Setup,
    exit::{Failure, Kind},
    privilege::Given,
    serve::StopSignals,
    spec::{Configuration, Location, Run, Running, Spec},
};
use crate::{
    bench::load::{self, LoadProgress, LoadTarget, Plan, results::LoadResults},
    config::duration,
};

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Address of a running server whose database this command can open; without it a server is
    /// started for the run, in a temporary folder
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Process of the running server, to read what it costs [default: from the data folder]
    #[arg(long, requires = "url")]
    pid: Option<u32>,
    /// Messages a second, sent when they are due whether the last was answered or not; without it
    /// each sender sends one after the other
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Connections that send
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    senders: u32,
    /// Phones that are connected
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    recipients: u32,
    /// Which share of the phones acknowledges, 0 to 1
    #[arg(long, default_value_t = 1.0, value_parser = share)]
    acknowledge: f64,
    /// Bytes of content in each message
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(32..=10_000))]
    payload: u32,
    /// Messages in one request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=500))]
    batch: u32,
    /// low, normal or high
    #[arg(long, default_value = "normal", value_parser = ["low", "normal", "high"])]
    priority: String,
    /// How long messages are sent
    #[arg(long, default_value = "10s", value_parser = span)]
    duration: Duration,
    /// How long before that what is sent does not count
    #[arg(long, default_value = "2s", value_parser = span)]
    warmup: Duration,
    /// Instead: the time in which a phone that connects gets this many waiting messages
    #[arg(long, value_name = "N", conflicts_with = "idle", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pending: Option<u32>,
    /// Instead of one-way messages: talk in this many conversations, in both ways
    #[arg(long, value_name = "N", conflicts_with_all = ["idle", "pending", "batch", "recipients"], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    chat: Option<u32>,
    /// Which share of the talk phones write, 0 to 1
    #[arg(long, default_value_t = 0.5, requires = "chat", value_parser = share)]
    replies: f64,
    /// After which share of the talk a recipient marks it as read, 0 to 1
    #[arg(long, default_value_t = 0.0, requires = "chat", value_parser = share)]
    read: f64,
    /// Instead: the time in which pages of 50 come from a conversation of this many messages
    #[arg(long, value_name = "N", conflicts_with_all = ["idle", "pending", "chat"], value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    history: Option<u32>,
    /// Instead: the server's memory for this many idle connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    idle: Option<u32>,
}

impl BenchArgs {
    fn plan(&self) -> Plan {
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

impl Run for BenchArgs {
    fn spec(&self) -> Spec {
        let spec =
            Spec { location: Location::Own, configuration: Configuration::Lenient, ..Spec::LOCAL };
        // Without an address it starts a server of its own.
        match self.url {
            Some(_) => spec,
            None => Spec { default_data_dir: server::folder, ..spec },
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: Given) -> Running<'_> {
        Box::pin(async move { Box::pin(run(setup, &self)).await })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.1..=1_000_000.0).contains(rate));
    rate.ok_or_else(|| "a rate is a number from 0.1 to 1000000".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is a number from 0 to 1".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(24 * 3600);
    duration::parse(text)
        .filter(|span| *span <= most)
        .ok_or_else(|| "a duration is written as 500ms, 10s or 5m, at most 1d".to_owned())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LatencyView {
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CpuView {
    /// Microseconds a message.
    esh3ar: f64,
    postgres: f64,
    total: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    seconds: f64,
    sent: u64,
    accepted: u64,
    received: u64,
    acknowledged: u64,
    refused: BTreeMap<String, u64>,
    messages_per_second: f64,
    delivery_ms: Option<LatencyView>,
    answer_ms: Option<LatencyView>,
    cpu_micros_per_message: Option<CpuView>,
    server_memory_mi_b: Option<f64>,
    /// Unread counts that were compared with what they count.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_counts: Option<u64>,
    history: BTreeMap<&'static str, u64>,
    clean: bool,
    interrupted: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IdleView {
    connections: u32,
    memory_before_mi_b: Option<f64>,
    memory_after_mi_b: Option<f64>,
    ki_b_per_connection: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PendingView {
    messages: u32,
    seconds: f64,
    messages_per_second: f64,
}

async fn run(setup: &Setup, arguments: &BenchArgs) -> Result<(), Failure> {
    let people = match (arguments.idle, arguments.pending) {
        // A phone may have 16 connections.
        (Some(connections), _) => connections.div_ceil(12),
        (_, Some(_)) => 1,
        _ => arguments.recipients,
    };
    let mut signals = StopSignals::listen()?;
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    let watching = tokio::spawn(async move {
        signals.next().await;
        interrupted.cancel();
    });
    let server = server::Server::open(setup, arguments).await?;
    let result = async {
        if let Some(messages) = arguments.history {
            return conversing::read(setup, arguments, &server, messages, &stop).await;
        }
        if let Some(talks) = arguments.chat {
            return conversing::talk(setup, arguments, &server, talks as usize, &stop).await;
        }
        let target = server.target(setup, people as usize).await?;
        measure(setup, arguments, &target, &stop).await
    }
    .await;
    watching.abort();
    server.close().await;
    result
}

async fn measure(
    setup: &Setup,
    arguments: &BenchArgs,
    target: &LoadTarget,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let progress = Arc::new(LoadProgress::default());
    let bar = Bar::start(&progress);
    if let Some(connections) = arguments.idle {
        let memory = load::idle(target, connections as usize, &progress).await?;
        bar.end();
        let mib = |kib: u64| round(kib as f64 / 1024.0, 1);
        setup.output.record(&IdleView {
            connections,
            memory_before_mi_b: memory.map(|(before, _)| mib(before)),
            memory_after_mi_b: memory.map(|(_, after)| mib(after)),
            ki_b_per_connection: memory.map(|(before, after)| {
                round(after.saturating_sub(before) as f64 / f64::from(connections), 2)
            }),
        });
        return Ok(());
    }
    if let Some(messages) = arguments.pending {
        let payload = arguments.payload as usize;
        let took = load::pending(target, messages as usize, payload, &progress).await?;
        bar.end();
        let seconds = took.as_secs_f64();
        setup.output.record(&PendingView {
            messages,
            seconds: round(seconds, 3),
            messages_per_second: round(f64::from(messages) / seconds, 0),
        });
        return Ok(());
    }
    let plan = arguments.plan();
    let figures = load::run(target, &plan, Arc::clone(&progress), stop).await?;
    bar.end();
    report(setup, &figures)
}

fn report(setup: &Setup, figures: &LoadResults) -> Result<(), Failure> {
    let seconds = figures.took.as_secs_f64().max(1e-6);
    let per_message =
        |cpu: Duration| round(cpu.as_secs_f64() * 1e6 / figures.accepted.max(1) as f64, 1);
    let refused = figures.refused.iter().map(|(status, count)| {
        let name = if *status == 0 { "noAnswer".to_owned() } else { status.to_string() };
        (name, *count)
    });
    let view = View {
        seconds: round(seconds, 2),
        sent: figures.sent,
        accepted: figures.accepted,
        received: figures.received,
        acknowledged: figures.acknowledged,
        refused: refused.collect(),
        messages_per_second: round(figures.accepted as f64 / seconds, 0),
        delivery_ms: latencies(&figures.delivery),
        answer_ms: latencies(&figures.answer),
        cpu_micros_per_message: figures.cpu.map(|(own, rest)| CpuView {
            esh3ar: per_message(own),
            postgres: per_message(rest),
            total: per_message(own + rest),
        }),
        server_memory_mi_b: figures.memory_kib.map(|kib| round(kib as f64 / 1024.0, 1)),
        unread_counts: (figures.unread_counts > 0).then_some(figures.unread_counts),
        history: figures.report.counts().collect(),
        clean: figures.report.is_clean(),
        interrupted: figures.interrupted,
    };
    if setup.output.is_table() {
        setup.output.text(&table(&view));
    } else {
        setup.output.record(&view);
    }
    if !figures.report.is_clean() {
        return Err(Failure::new(
            Kind::Failed,
            format!("promises were broken:\n{}", figures.report),
        )
        .hint("the history above names the messages; run: esh3ar message explain ID"));
    }
    if let Some((0, count)) = figures.refused.first() {
        let what = format!("the server gave no answer to {count} messages");
        return Err(Failure::new(Kind::Unavailable, what).hint("run: esh3ar doctor"));
    }
    if figures.accepted == 0 && !figures.interrupted {
        let status = figures.refused.first().map_or(0, |(status, _)| *status);
        let what = format!("no message was accepted; the server answered {status}");
        return Err(Failure::new(Kind::Refused, what).hint("see the server's limits and its log"));
    }
    Ok(())
}

fn latencies(latencies: &load::results::LatencyHistogram) -> Option<LatencyView> {
    let at = |share| round(latencies.quantile_ms(share), 2);
    (!latencies.is_empty()).then(|| LatencyView {
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max: round(latencies.max_ms(), 2),
    })
}

fn table(view: &View) -> String {
    let mut lines = vec![
        format!(
            "messages     {} accepted in {} s, {} received, {} acknowledged",
            view.accepted, view.seconds, view.received, view.acknowledged
        ),
        format!("throughput   {:.0} messages/s", view.messages_per_second),
    ];
    let named = [("delivery", &view.delivery_ms), ("answer", &view.answer_ms)];
    for (name, latency) in named {
        if let Some(l) = latency {
            lines.push(format!(
                "{name:12} p50 {} ms, p90 {}, p95 {}, p99 {}, p99.9 {}, max {}",
                l.p50, l.p90, l.p95, l.p99, l.p999, l.max
            ));
        }
    }
    match &view.cpu_micros_per_message {
        Some(cpu) => lines.push(format!(
            "server CPU   {} µs a message: {} esh3ar, {} Postgres",
            cpu.total, cpu.esh3ar, cpu.postgres
        )),
        None => lines.push("server CPU   not measurable from here".to_owned()),
    }
    if let Some(memory) = view.server_memory_mi_b {
        lines.push(format!("memory       {memory} MiB, without Postgres"));
    }
    for (status, count) in &view.refused {
        lines.push(format!("refused      {count} with {status}"));
    }
    lines.push(format!(
        "history      {}",
        if view.clean { "every promise was kept" } else { "promises were broken" }
    ));
    lines.push(String::new());
    lines.join("\n")
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

impl From<load::Error> for Failure {
    fn from(error: load::Error) -> Self {
        let kind = match &error {
            load::Error::Url(_) => Kind::Usage,
            load::Error::Connect(_) => Kind::Unavailable,
            load::Error::Refused(_) => Kind::Refused,
        };
        Failure::new(kind, error.to_string()).hint("is it the address of a running esh3ar?")
    }
}

/// What is seen while it runs, on a terminal only.
struct Bar {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Bar {
    fn start(progress: &Arc<LoadProgress>) -> Bar {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        let (drawn, progress) = (bar.clone(), Arc::clone(progress));
        let task = tokio::spawn(async move {
            loop {
                let read = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
                drawn.set_message(format!(
                    "{} connected, {} accepted, {} received",
                    read(&progress.connected),
                    read(&progress.accepted),
                    read(&progress.received)
                ));
                drawn.tick();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Bar { bar, task }
    }

    fn end(self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
