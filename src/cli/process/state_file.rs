//! The file beside the data in which a running process says where it is, and what became of a reload.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a running appliance can be found; written beside its data for commands and scripts.
#[derive(Serialize, Deserialize)]
pub(crate) struct RunningServer {
    pub(crate) pid: u32,
    pub(crate) http: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
}

/// Where the appliance of a folder can be found, if it runs.
pub(crate) fn running_server(data_dir: &Path) -> Option<RunningServer> {
    let text = std::fs::read_to_string(data_dir.join("serve.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// What became of a reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReloadOutcome {
    /// Counts the reloads of the process, from 1.
    pub(crate) number: u64,
    /// Whether the configuration was taken up; else all is as it was.
    pub(crate) taken_up: bool,
    /// The keys that are another since the last time, and in effect.
    pub(crate) changed: Vec<String>,
    /// The keys that are another than when the process started, and wait for a restart.
    pub(crate) waiting: Vec<String>,
    /// What is wrong.
    pub(crate) why: Option<String>,
}

/// The file in which this process says where it is; gone when this is dropped.
pub(crate) struct StateFile {
    path: PathBuf,
    content: Value,
}

impl StateFile {
    /// Says it, where the folder can be written.
    pub(crate) fn new<T: Serialize>(path: PathBuf, found: &T) -> StateFile {
        let content = serde_json::to_value(found).unwrap_or_default();
        let announcement = StateFile { path, content };
        announcement.write();
        announcement
    }

    /// Adds what became of a reload.
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
        // Whole or not at all: others read it at any time.
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
