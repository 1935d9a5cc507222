//! `reload`: makes the processes of a data folder reload their configuration, and prints the outcome.
//!
//! By a signal, as `drain`; the process answers in its state file.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use clap::Args;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::state_file::ReloadOutcome;
use crate::{
    cli::{
        io::exit::{ExitStatus, Failure},
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Runnable, Scope, Spec},
    },
    config::duration,
};

/// Between two looks into the state file.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// State files, and the processes that write them.
const PROCESSES: [(&str, &str); 2] = [("serve.json", "serve"), ("worker.json", "worker")];

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// How long to wait for each process
    #[arg(long, default_value = "30s", value_parser = span)]
    timeout: Duration,
}

impl Runnable for ReloadArgs {
    fn spec(&self) -> Spec {
        Spec { scope: Scope::THIS_MACHINE_WRITES, ..Spec::LOCAL }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, &self).await })
    }
}

fn span(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "expected a duration such as 500ms, 10s or 5m".to_owned())
}

/// What this command reads of a state file.
#[derive(Deserialize)]
struct Found {
    pid: i32,
    reload: Option<ReloadOutcome>,
}

fn find(path: &Path) -> Option<Found> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

#[derive(Serialize)]
struct View {
    process: &'static str,
    pid: i32,
    state: &'static str,
    changed: Vec<String>,
    waiting: Vec<String>,
}

const COLUMNS: &[&str] = &["process", "pid", "state", "changed", "waiting"];

async fn run(setup: &Setup, arguments: &ReloadArgs) -> Result<(), Failure> {
    let mut views = Vec::new();
    let mut failure: Option<Failure> = None;
    for (file, process) in PROCESSES {
        let path = setup.data_dir.join(file);
        let Some(found) = find(&path).filter(|found| is_this_program(found.pid)) else { continue };
        match ask(&path, process, &found, arguments.timeout).await {
            Ok(reloaded) => {
                let state = if reloaded.taken_up { "taken up" } else { "refused" };
                if let Some(why) = &reloaded.why {
                    let kind =
                        if reloaded.taken_up { ExitStatus::Partly } else { ExitStatus::Config };
                    let told = Failure::new(kind, why.clone()).hint(if reloaded.taken_up {
                        "everything else was applied; see its log"
                    } else {
                        "nothing was changed; run: esh3ar config check"
                    });
                    failure.get_or_insert(told);
                }
                let ReloadOutcome { changed, waiting, .. } = reloaded;
                views.push(View { process, pid: found.pid, state, changed, waiting });
            }
            Err(other) => {
                failure.get_or_insert(other);
            }
        }
    }
    if views.is_empty() && failure.is_none() {
        let what = format!("no process is running on {}", setup.data_dir.display());
        return Err(Failure::new(ExitStatus::NotFound, what)
            .hint("set its data folder with --data-dir; a process that is not running reads its configuration when it starts"));
    }
    setup.output.records(COLUMNS, &views);
    if views.iter().any(|view| !view.waiting.is_empty()) {
        setup.output.note("waiting keys take effect after a restart");
    }
    failure.map_or(Ok(()), Err)
}

/// Whether the process is this program, and not another one that reuses its id: SIGHUP ends most other
/// programs.
fn is_this_program(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).into_owned();
    let own = std::env::args().next().unwrap_or_default();
    let name = |path: &str| Path::new(path).file_name().map(ToOwned::to_owned);
    pid > 1 && command.split('\0').next().and_then(name).is_some_and(|it| Some(it) == name(&own))
}

async fn ask(
    path: &Path,
    process: &str,
    found: &Found,
    timeout: Duration,
) -> Result<ReloadOutcome, Failure> {
    let before = found.reload.as_ref().map_or(0, |reload| reload.number);
    let gone = || Failure::new(ExitStatus::NotFound, format!("the {process} process has stopped"));
    kill(Pid::from_raw(found.pid), Signal::SIGHUP).map_err(|error| match error {
        Errno::EPERM => {
            Failure::new(ExitStatus::Refused, format!("the {process} process runs as another user"))
                .hint("run this as that user or as root")
        }
        _ => gone(),
    })?;
    let until = Instant::now() + timeout;
    loop {
        let now = find(path).filter(|now| now.pid == found.pid).ok_or_else(gone)?;
        if let Some(reloaded) = now.reload.filter(|reload| reload.number > before) {
            return Ok(reloaded);
        }
        if Instant::now() > until {
            let what = format!("the {process} process did not answer within {timeout:?}");
            return Err(
                Failure::new(ExitStatus::Failed, what).hint("see its log, or raise --timeout")
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
