//! The server under load: a running one, or one that is started for the run as a separate process,
//! so that its CPU and memory can be told from those of the load.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tokio::process::{Child, Command};

use super::arguments::BenchArgs;
use crate::{
    app::{App, identity::tokens::Lifetime},
    bench::load::LoadTarget,
    cli::{
        io::exit::{ExitStatus, Failure},
        process::{database, operator::operator, state_file::running_server},
        setup::Setup,
    },
    domain::{Party, Permission, Permissions, Phone},
    store::accounts::MobileStatus,
};

/// For the server to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For the server to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Of the temporary data folder.
const FOLDER_PREFIX: &str = "esh3ar-bench-";
/// Tokens created at the same time.
const MAX_CONCURRENCY: usize = 8;
/// Rate limits that would slow the load.
const DISABLED_LIMITS: [&str; 11] = [
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

pub(super) enum BenchServer {
    /// A server that runs anyway.
    Running { url: String, pid: Option<u32> },
    /// A temporary one.
    Own { child: Box<Child>, folder: PathBuf, url: String },
}

impl BenchServer {
    pub(super) async fn open(setup: &Setup, arguments: &BenchArgs) -> Result<BenchServer, Failure> {
        let folder = setup.data_dir.clone();
        let found = running_server(&folder);
        if let Some(url) = &arguments.url {
            let here =
                found.filter(|found| url.trim_end_matches('/').ends_with(&found.http.to_string()));
            let pid = arguments.pid.or(here.map(|found| found.pid));
            return Ok(BenchServer::Running { url: url.clone(), pid });
        }
        if let Some(found) = found {
            let url = format!("http://{}", found.http);
            return Ok(BenchServer::Running { url, pid: Some(found.pid) });
        }
        if !is_own(&folder) {
            let what = format!("no server is running on {}", folder.display());
            return Err(Failure::new(ExitStatus::Refused, what).hint(
                "start it with esh3ar serve, or omit --data-dir to measure a temporary server",
            ));
        }
        if setup.loaded.config.database.url.is_some() {
            let what = "a temporary server would not use the configured database.url";
            return Err(Failure::new(ExitStatus::Refused, what).hint(
                "start esh3ar serve with this configuration, and pass its address with --url",
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
        for limit in DISABLED_LIMITS {
            command.env(format!("ESH3AR__LIMITS__{limit}"), "0");
        }
        let mut child = command.spawn().map_err(|error| {
            Failure::new(ExitStatus::Failed, format!("cannot start a server: {error}"))
        })?;
        let begun = Instant::now();
        loop {
            if let Some(found) = running_server(&folder) {
                let url = format!("http://{}", found.http);
                return Ok(BenchServer::Own { child: Box::new(child), folder, url });
            }
            if let Ok(Some(status)) = child.try_wait() {
                let what = format!("the temporary server exited during startup: {status}");
                return Err(Failure::new(ExitStatus::Failed, what).hint("see its output above"));
            }
            if begun.elapsed() > START_TIMEOUT {
                return Err(Failure::new(
                    ExitStatus::Failed,
                    "the temporary server did not start in time",
                ));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The server, with a new sender and recipients.
    pub(super) async fn target(&self, setup: &Setup, people: usize) -> Result<LoadTarget, Failure> {
        let (url, pid) = match self {
            BenchServer::Running { url, pid } => (url.clone(), *pid),
            BenchServer::Own { child, url, .. } => (url.clone(), child.id()),
        };
        let opened = database::open(setup).await?;
        let result = self::people(&opened.app, people).await;
        let (sender, recipients) = opened.close(result).await?;
        Ok(LoadTarget { url, sender, recipients, pid })
    }

    /// Stops a temporary server and removes its data.
    pub(super) async fn close(self) {
        let BenchServer::Own { mut child, folder, .. } = self else { return };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = tokio::time::timeout(STOP_TIMEOUT, child.wait()).await;
        let _ = std::fs::remove_dir_all(&folder);
    }
}

/// Whether a folder was created for a run; after a change of user only the folder tells.
fn is_own(folder: &Path) -> bool {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| name.starts_with(FOLDER_PREFIX))
}

/// A temporary data folder.
pub(super) fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("{FOLDER_PREFIX}{}", std::process::id()))
}

/// A business user and phones, with tokens.
async fn people(app: &App, count: usize) -> Result<(String, Vec<(String, String)>), Failure> {
    let by = &operator().because(Some("for esh3ar bench"))?;
    let name = format!("bench {}", uuid::Uuid::now_v7());
    let may = Permissions::NONE.with(Permission::SendMessages);
    let shop = app.identity.add_user(by, &name, may, None).await?;
    let sender =
        app.identity.issue_token(by, &Party::Business(shop.id), Lifetime::Usual).await?.token;
    // Numbers of an unassigned range do not parse; these are assigned, and real
    // people could have them, so nothing but this command connects with them.
    let phones: Vec<Phone> =
        (0..count).map(|n| Phone::from_stored(&format!("+96770{n:07}"))).collect();
    for chunk in phones.chunks(500) {
        app.identity.put_mobiles(by, chunk, MobileStatus::Verified).await?;
    }
    let lifetime = Lifetime::For(Duration::from_secs(24 * 3600));
    let making = phones.iter().map(|phone| async move {
        let made = app.identity.issue_token(by, &Party::Mobile(phone.clone()), lifetime).await?;
        Ok::<_, crate::app::Error>((phone.as_str().to_owned(), made.token))
    });
    let mut made = futures_util::stream::iter(making).buffered(MAX_CONCURRENCY);
    let mut recipients = Vec::with_capacity(count);
    while let Some(recipient) = made.next().await {
        recipients.push(recipient?);
    }
    Ok((sender, recipients))
}
