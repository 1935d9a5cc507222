//! The server under load: one that runs, or one that is started for the run as a process of its own,
//! so that what it costs can be told from what the load costs.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tokio::process::{Child, Command};

use super::{BenchArgs, Failure, Kind, Setup};
use crate::{
    app::{App, tokens::Lifetime},
    bench::load::LoadTarget,
    cli::{opened, serve::whereabouts, why},
    domain::{Party, Permission, Permissions, Phone},
    store::accounts::MobileStatus,
};

/// How long the server may take to start.
const START: Duration = Duration::from_secs(60);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(30);
/// How the folder of a run begins.
const OWN: &str = "esh3ar-bench-";
/// Tokens made at once.
const MAKING: usize = 8;
/// What the load would run into; a run is about what the machine can do.
const LIMITS: [&str; 11] = [
    "MESSAGES_PER_MINUTE",
    "MESSAGES_PER_HOUR",
    "MESSAGES_PER_SECOND",
    "QUEUE_DEPTH",
    "CONNECTS_PER_USER_PER_MINUTE",
    "CONNECTS_PER_BUSINESS_USER_PER_MINUTE",
    "CONVERSATIONS_PER_USER_PER_HOUR",
    "CONVERSATIONS_PER_BUSINESS_USER_PER_HOUR",
    "WRITES_PER_USER_PER_MINUTE",
    "WRITES_PER_BUSINESS_USER_PER_MINUTE",
    "ADMIN_REQUESTS_PER_MINUTE",
];

/// The server.
pub(super) enum Server {
    /// Somebody else's.
    Running { url: String, pid: Option<u32> },
    /// Ours.
    Own { child: Box<Child>, folder: PathBuf, url: String },
}

impl Server {
    pub(super) async fn open(setup: &Setup, arguments: &BenchArgs) -> Result<Server, Failure> {
        let folder = setup.data_dir.clone();
        let found = whereabouts(&folder);
        if let Some(url) = &arguments.url {
            let here =
                found.filter(|found| url.trim_end_matches('/').ends_with(&found.http.to_string()));
            let pid = arguments.pid.or(here.map(|found| found.pid));
            return Ok(Server::Running { url: url.clone(), pid });
        }
        if let Some(found) = found {
            let url = format!("http://{}", found.http);
            return Ok(Server::Running { url, pid: Some(found.pid) });
        }
        if !is_own(&folder) {
            let what = format!("no server runs on {}", folder.display());
            return Err(Failure::new(Kind::Refused, what).hint(
                "start it with esh3ar serve, or leave --data-dir out to measure one of its own",
            ));
        }
        if setup.loaded.config.database.url.is_some() {
            let what = "a server of its own would not use the configured database.url";
            return Err(Failure::new(Kind::Refused, what).hint(
                "start esh3ar serve with this configuration and give its address with --url",
            ));
        }
        let mut command = Command::new("/proc/self/exe");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ESH3AR") {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&folder)
            .env("ESH3AR__METRICS__LISTEN", "off")
            .env("ESH3AR__LOG__LEVEL", "warn")
            .env("ESH3AR__HTTP__MAX_CONNECTIONS", "120000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Ctrl-C is for this command, which then stops the server itself.
            .process_group(0)
            .kill_on_drop(true);
        for limit in LIMITS {
            command.env(format!("ESH3AR__LIMITS__{limit}"), "0");
        }
        let mut child = command
            .spawn()
            .map_err(|error| Failure::new(Kind::Failed, format!("no server: {error}")))?;
        let begun = Instant::now();
        loop {
            if let Some(found) = whereabouts(&folder) {
                let url = format!("http://{}", found.http);
                return Ok(Server::Own { child: Box::new(child), folder, url });
            }
            if let Ok(Some(status)) = child.try_wait() {
                let what = format!("the server for the run ended at its start: {status}");
                return Err(Failure::new(Kind::Failed, what).hint("see what it says above"));
            }
            if begun.elapsed() > START {
                return Err(Failure::new(Kind::Failed, "the server for the run did not start"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The server with a sender and recipients of its own.
    pub(super) async fn target(&self, setup: &Setup, people: usize) -> Result<LoadTarget, Failure> {
        let (url, pid) = match self {
            Server::Running { url, pid } => (url.clone(), *pid),
            Server::Own { child, url, .. } => (url.clone(), child.id()),
        };
        let opened = opened::open(setup).await?;
        let result = self::people(&opened.app, people).await;
        let (sender, recipients) = opened.close(result).await?;
        Ok(LoadTarget { url, sender, recipients, pid })
    }

    /// Stops a server of ours and removes its data.
    pub(super) async fn close(self) {
        let Server::Own { mut child, folder, .. } = self else { return };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = tokio::time::timeout(STOP, child.wait()).await;
        let _ = std::fs::remove_dir_all(&folder);
    }
}

/// Whether a folder was made for a run: becoming another user keeps the folder, not the process.
fn is_own(folder: &Path) -> bool {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| name.starts_with(OWN))
}

/// A folder for the run, beside nothing that matters.
pub(in crate::cli) fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("{OWN}{}", std::process::id()))
}

/// A business user and phones, with tokens.
async fn people(app: &App, count: usize) -> Result<(String, Vec<(String, String)>), Failure> {
    let by = &why::operator().because(Some("for esh3ar bench"))?;
    let name = format!("bench {}", uuid::Uuid::now_v7());
    let may = Permissions::NONE.with(Permission::SendMessages);
    let shop = app.add_user(by, &name, may, None).await?;
    let sender = app.issue_token(by, &Party::Business(shop.id), Lifetime::Usual).await?.token;
    // Numbers of a range that no country gives out cannot be read; these are a country's, and real
    // people could have them, which is why nothing but this command ever connects with them.
    let phones: Vec<Phone> =
        (0..count).map(|n| Phone::from_stored(&format!("+96770{n:07}"))).collect();
    for chunk in phones.chunks(500) {
        app.put_mobiles(by, chunk, MobileStatus::Verified).await?;
    }
    let lifetime = Lifetime::For(Duration::from_secs(24 * 3600));
    let making = phones.iter().map(|phone| async move {
        let made = app.issue_token(by, &Party::Mobile(phone.clone()), lifetime).await?;
        Ok::<_, crate::app::Error>((phone.as_str().to_owned(), made.token))
    });
    let mut made = futures_util::stream::iter(making).buffered(MAKING);
    let mut recipients = Vec::with_capacity(count);
    while let Some(recipient) = made.next().await {
        recipients.push(recipient?);
    }
    Ok((sender, recipients))
}
