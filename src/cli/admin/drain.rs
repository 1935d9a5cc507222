//! `drain`: moves the connections off a server for maintenance, without a reconnect storm.
//!
//! On this machine by signals: who may send them may stop the process anyway. A process of another machine
//! is drained over the admin API.

use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;
use serde_json::json;

use super::{audit_reason::AuditReason, transport::AdminClient};
use crate::{
    cli::{
        io::{
            answer::{ResponsePage, read},
            exit::{ExitStatus, Failure},
        },
        privilege::OpenFiles,
        process::state_file::{RunningServer, running_server},
        setup::Setup,
        spec::{CommandFuture, Runnable, Spec},
    },
    client::{self, encode},
    config::duration,
    server::view::stats::NodeView,
};

/// Between two counts of the connections.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// A process looks for requests every two seconds.
const DRAIN_START_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// How long to wait for the last connection to close
    #[arg(long, default_value = "2m", value_parser = span)]
    timeout: Duration,
    /// Accept connections again
    #[arg(long)]
    undo: bool,
    /// Process to drain, by id or host name (esh3ar top shows both); optional with --url if there is only
    /// one gateway
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    why: AuditReason,
}

impl Runnable for DrainArgs {
    fn spec(&self) -> Spec {
        // Without a name it is this machine's process, which gets a signal.
        Spec { needs_installation: self.node.is_some(), ..Spec::ADMIN }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, &self).await })
    }
}

fn span(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "expected a duration such as 500ms, 10s or 5m".to_owned())
}

#[derive(Serialize)]
struct View {
    state: &'static str,
    connections: Option<u64>,
}

async fn run(setup: &Setup, arguments: &DrainArgs) -> Result<(), Failure> {
    if setup.remote.url.is_some() || arguments.node.is_some() {
        let admin = AdminClient::open(setup).await?;
        let result = asked(setup, &admin, arguments).await;
        return admin.close(result).await;
    }
    if arguments.why.text().is_some() {
        let what =
            "--reason has no effect: a local drain is a signal, which the audit log does not see";
        return Err(
            Failure::new(ExitStatus::Usage, what).hint("use --node to drain over the admin API")
        );
    }
    let Some(found) = running_server(&setup.data_dir) else {
        let what = format!("no server is running on {}", setup.data_dir.display());
        return Err(
            Failure::new(ExitStatus::NotFound, what).hint("set its data folder with --data-dir")
        );
    };
    let signal = if arguments.undo { Signal::SIGUSR2 } else { Signal::SIGUSR1 };
    send(&found, signal)?;
    if arguments.undo {
        setup.output.record(&View { state: "serving", connections: connections(&found).await });
        return Ok(());
    }
    if found.metrics.is_none() {
        setup.output.note("metrics.listen is off: connections cannot be counted");
        setup.output.record(&View { state: "draining", connections: None });
        return Ok(());
    }
    until_empty(setup, arguments, async || Ok((true, connections(&found).await))).await
}

/// Waits until the last connection has closed. `look` returns whether the process is draining, and how many
/// connections are left.
async fn until_empty(
    setup: &Setup,
    arguments: &DrainArgs,
    look: impl AsyncFn() -> Result<(bool, Option<u64>), Failure>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    loop {
        let (draining, left) = look().await?;
        if draining && left == Some(0) {
            break;
        }
        if let Some(left) = left {
            let bar = bar.get_or_insert_with(|| draw(left));
            bar.set_position(bar.length().unwrap_or(left).saturating_sub(left));
        }
        if begun.elapsed() > arguments.timeout {
            setup.output.record(&View { state: "draining", connections: left });
            let left = left.map_or_else(|| "some".to_owned(), |left| left.to_string());
            return Err(Failure::new(ExitStatus::Partly, format!("{left} connections left"))
                .hint("raise --timeout, stop the server anyway, or cancel with --undo"));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    setup.output.record(&View { state: "drained", connections: Some(0) });
    setup.output.note("the server accepts no connections now: stop it, or cancel with --undo");
    Ok(())
}

/// Drains a process over the admin API.
async fn asked(setup: &Setup, admin: &AdminClient, arguments: &DrainArgs) -> Result<(), Failure> {
    let id = named(&living(admin, &arguments.why).await?, arguments.node.as_deref())?;
    let place = format!("/nodes/{}/drain", encode(&id));
    let body = json!({ "undo": arguments.undo });
    admin.request(&arguments.why, "POST", &place, Some(&body)).await?;
    let wanted = !arguments.undo;
    let begun = Instant::now();
    // The process sees it with its next heartbeat.
    let node = loop {
        let node = one(admin, &arguments.why, &id).await?;
        if node.draining == wanted {
            break node;
        }
        if begun.elapsed() > DRAIN_START_TIMEOUT {
            let what = format!("process {id} did not start draining");
            return Err(Failure::new(ExitStatus::Failed, what)
                .hint("its esh3ar may be older than this one: run esh3ar drain on its machine"));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    if arguments.undo {
        let connections = Some(node.connections);
        setup.output.record(&View { state: "serving", connections });
        return Ok(());
    }
    until_empty(setup, arguments, async || {
        let node = one(admin, &arguments.why, &id).await?;
        Ok((node.draining, Some(node.connections)))
    })
    .await
}

async fn living(admin: &AdminClient, why: &AuditReason) -> Result<Vec<NodeView>, Failure> {
    let page: ResponsePage = read(&admin.get(why, "/nodes").await?)?;
    page.items.iter().map(read).collect()
}

async fn one(admin: &AdminClient, why: &AuditReason, id: &str) -> Result<NodeView, Failure> {
    let found = living(admin, why).await?.into_iter().find(|node| node.id == id);
    found.ok_or_else(|| {
        Failure::new(ExitStatus::NotFound, format!("process {id} has stopped"))
            .hint("there is nothing to drain")
    })
}

/// The process with this id or host name, or the only one that has connections.
fn named(nodes: &[NodeView], name: Option<&str>) -> Result<String, Failure> {
    // A worker has no connections; the server refuses one that is named.
    let gateways = || nodes.iter().filter(|node| node.role != "worker");
    let found: Vec<&NodeView> = match name {
        Some(name) => match nodes.iter().find(|node| node.id == name) {
            Some(node) => vec![node],
            None => gateways().filter(|node| node.host == name).collect(),
        },
        None => gateways().collect(),
    };
    let ways = || {
        let each = gateways().map(|node| format!("{} on {}", node.id, node.host));
        each.collect::<Vec<_>>().join(", ")
    };
    match (found.as_slice(), name) {
        ([node], _) => Ok(node.id.clone()),
        ([], Some(name)) => {
            Err(Failure::new(ExitStatus::NotFound, format!("no gateway is named {name}"))
                .hint(format!("running gateways: {}", ways())))
        }
        ([], None) => {
            Err(Failure::new(ExitStatus::NotFound, "no gateway is running").hint("run: esh3ar top"))
        }
        _ => Err(Failure::new(ExitStatus::Usage, "several gateways are running")
            .hint(format!("choose one with --node ID: {}", ways()))),
    }
}

fn send(found: &RunningServer, signal: Signal) -> Result<(), Failure> {
    let pid = i32::try_from(found.pid).map(Pid::from_raw).unwrap_or(Pid::from_raw(0));
    let sent = if pid.as_raw() > 1 { kill(pid, signal) } else { Err(Errno::ESRCH) };
    sent.map_err(|error| match error {
        Errno::EPERM => Failure::new(ExitStatus::Refused, "the server runs as another user")
            .hint("run this as that user or as root"),
        _ => Failure::new(ExitStatus::NotFound, "the server has stopped")
            .hint("there is nothing to drain"),
    })
}

/// The number of connections, from the process's metrics.
async fn connections(found: &RunningServer) -> Option<u64> {
    let page = client::fetch(&format!("http://{}/metrics", found.metrics?)).await.ok()?;
    let line = page.lines().find_map(|line| line.strip_prefix("esh3ar_connections "));
    // A gauge that was not set yet means none.
    line.map_or(Some(0), |number| number.trim().parse::<f64>().ok().map(|n| n as u64))
}

fn draw(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} connections closed") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_id_or_machine_or_is_the_only_one() {
        let counts = json!({
            "accepted": 0, "delivered": 0, "failed": 0, "retries": 0, "deliveryMs": null,
        });
        let node = |id: &str, role: &str, host: &str| -> NodeView {
            let node = json!({
                "id": id, "role": role, "host": host, "pid": 1, "version": "0", "draining": false,
                "startedAt": "2026-01-31T12:00:00Z", "connections": 0, "queues": [], "parts": [],
                "sinceStart": counts, "recent": counts,
                "perSecond": { "accepted": 0.0, "delivered": 0.0, "failed": 0.0 },
            });
            read(&node).unwrap()
        };
        let one = [node("a", "gateway", "here"), node("b", "worker", "here")];
        assert_eq!(named(&one, None).unwrap(), "a");
        assert_eq!(named(&one, Some("here")).unwrap(), "a");
        assert_eq!(named(&one, Some("b")).unwrap(), "b");
        assert_eq!(named(&one, Some("c")).unwrap_err().kind, ExitStatus::NotFound);
        let two = [node("a", "gateway", "here"), node("c", "gateway", "here")];
        for name in [None, Some("here")] {
            let failure = named(&two, name).unwrap_err();
            assert_eq!(failure.kind, ExitStatus::Usage);
            assert!(failure.hint.unwrap().contains("c on here"));
        }
        assert_eq!(named(&[], None).unwrap_err().kind, ExitStatus::NotFound);
    }
}
