//! `bench`: measures throughput and latency of an installation on this machine.

mod arguments;
mod chat;
mod progress;
mod report;
mod server;

use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    bench::load::{self, LoadProgress, LoadTarget},
    cli::{
        io::exit::{ExitStatus, Failure},
        privilege::OpenFiles,
        process::signals::StopSignals,
        setup::Setup,
        spec::{CommandFuture, ConfigAccess, Runnable, Scope, Spec},
    },
};
pub(crate) use arguments::BenchArgs;
use progress::Bar;
use report::{report, round};

impl Runnable for BenchArgs {
    fn spec(&self) -> Spec {
        let spec =
            Spec { scope: Scope::OwnOption, configuration: ConfigAccess::Lenient, ..Spec::LOCAL };
        // Without an address it starts a temporary server.
        match self.url {
            Some(_) => spec,
            None => Spec { default_data_dir: server::folder, ..spec },
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { Box::pin(run(setup, &self)).await })
    }
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
    let server = server::BenchServer::open(setup, arguments).await?;
    let result = async {
        if let Some(messages) = arguments.history {
            return chat::read(setup, arguments, &server, messages, &stop).await;
        }
        if let Some(talks) = arguments.chat {
            return chat::talk(setup, arguments, &server, talks as usize, &stop).await;
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

impl From<load::Error> for Failure {
    fn from(error: load::Error) -> Self {
        let kind = match &error {
            load::Error::Url(_) => ExitStatus::Usage,
            load::Error::Connect(_) => ExitStatus::Unavailable,
            load::Error::Refused(_) => ExitStatus::Refused,
        };
        Failure::new(kind, error.to_string())
            .hint("check that a server of esh3ar is running at this address")
    }
}
