//! `drain`: empties the serving process for maintenance, without a storm of reconnects.
//!
//! By signals, because whoever may send one to the process may also stop it: nothing new can be done
//! from outside.

use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use super::{
    Setup,
    exit::{Failure, Kind},
    serve::{Whereabouts, whereabouts},
};
use crate::{client, config::duration};

/// How often the connections are counted.
const LOOK_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// How long to wait for the last connection
    #[arg(long, default_value = "2m", value_parser = span)]
    timeout: Duration,
    /// Take connections again
    #[arg(long)]
    undo: bool,
}

fn span(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "a duration is written as 500ms, 10s or 5m".to_owned())
}

#[derive(Serialize)]
struct View {
    state: &'static str,
    connections: Option<u64>,
}

pub(super) async fn run(setup: &Setup, arguments: &DrainArgs) -> Result<(), Failure> {
    let Some(found) = whereabouts(&setup.data_dir) else {
        let what = format!("no esh3ar serves {}", setup.data_dir.display());
        return Err(Failure::new(Kind::NotFound, what).hint("give its folder with --data-dir"));
    };
    let signal = if arguments.undo { Signal::SIGUSR2 } else { Signal::SIGUSR1 };
    send(&found, signal)?;
    if arguments.undo {
        setup.output.record(&View { state: "serving", connections: connections(&found).await });
        return Ok(());
    }
    if found.metrics.is_none() {
        setup.output.note("metrics.listen is off, so that connections cannot be counted");
        setup.output.record(&View { state: "draining", connections: None });
        return Ok(());
    }
    let begun = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    loop {
        let left = connections(&found).await;
        if left == Some(0) {
            break;
        }
        if let Some(left) = left {
            let bar = bar.get_or_insert_with(|| draw(left));
            bar.set_position(bar.length().unwrap_or(left).saturating_sub(left));
        }
        if begun.elapsed() > arguments.timeout {
            setup.output.record(&View { state: "draining", connections: left });
            let left = left.map_or_else(|| "some".to_owned(), |left| left.to_string());
            return Err(Failure::new(Kind::Partly, format!("{left} connections are left")).hint(
                "wait with a longer --timeout, stop it anyway, or take it back with --undo",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    setup.output.record(&View { state: "drained", connections: Some(0) });
    setup.output.note("it takes no connections now: stop it, or take it back with --undo");
    Ok(())
}

fn send(found: &Whereabouts, signal: Signal) -> Result<(), Failure> {
    let pid = i32::try_from(found.pid).map(Pid::from_raw).unwrap_or(Pid::from_raw(0));
    let sent = if pid.as_raw() > 1 { kill(pid, signal) } else { Err(Errno::ESRCH) };
    sent.map_err(|error| match error {
        Errno::EPERM => Failure::new(Kind::Refused, "the serving process belongs to another user")
            .hint("run this as that user, or as root"),
        _ => {
            Failure::new(Kind::NotFound, "the serving process is gone").hint("it needs no draining")
        }
    })
}

/// How many connections the process has, as its page for machines says.
async fn connections(found: &Whereabouts) -> Option<u64> {
    let page = client::fetch(&format!("http://{}/metrics", found.metrics?)).await.ok()?;
    let line = page.lines().find_map(|line| line.strip_prefix("esh3ar_connections "));
    // A gauge that nobody has set yet stands for none.
    line.map_or(Some(0), |number| number.trim().parse::<f64>().ok().map(|n| n as u64))
}

fn draw(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} connections closed") {
        bar.set_style(style);
    }
    bar
}
