//! The file in the data folder with a running process's pid, addresses and last reload.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a running server can be found; commands and scripts read it from `serve.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct RunningServer {
    pub(crate) pid: u32,
    pub(crate) http: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    /// Of the admin API, if it has a listener of its own.
    pub(crate) admin: Option<SocketAddr>,
}

/// The server of a data folder, if it runs.
pub(crate) fn running_server(data_dir: &Path) -> Option<RunningServer> {
    let text = std::fs::read_to_string(data_dir.join("serve.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// The outcome of a reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReloadOutcome {
    /// Counts the reloads of the process, from 1.
    pub(crate) number: u64,
    /// Whether the configuration was applied; if not, nothing was changed.
    pub(crate) taken_up: bool,
    /// Keys that this reload changed.
    pub(crate) changed: Vec<String>,
    /// Keys that were changed since the process started, and need a restart.
    pub(crate) waiting: Vec<String>,
    /// What failed.
    pub(crate) why: Option<String>,
}

/// The state file of this process; removed on drop.
pub(crate) struct StateFile {
    path: PathBuf,
    content: Value,
}

impl StateFile {
    /// Writes it. A folder that cannot be written is only logged.
    pub(crate) fn new<T: Serialize>(path: PathBuf, found: &T) -> StateFile {
        let content = serde_json::to_value(found).unwrap_or_default();
        let file = StateFile { path, content };
        file.write();
        file
    }

    /// Adds the outcome of a reload.
    pub(crate) fn record_reload(&mut self, reloaded: &ReloadOutcome) {
        if let (Value::Object(content), Ok(reload)) =
            (&mut self.content, serde_json::to_value(reloaded))
        {
            content.insert("reload".to_owned(), reload);
        }
        self.write();
    }

    fn write(&self) {
        let half = self.path.with_extension("json.new");
        // Atomically: others read it at any time.
        let written = std::fs::write(&half, self.content.to_string())
            .and_then(|()| std::fs::rename(&half, &self.path));
        if let Err(error) = written {
            tracing::warn!(%error, "commands will not find this process");
        }
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
