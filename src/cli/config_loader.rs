//! The sources of the configuration: a file, the environment and options.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::privilege;
use crate::{
    cli::io::exit::{ExitStatus, Failure},
    config::{self, ConfigSources},
};

/// The configuration file, unless an option or variable names another.
pub(crate) const DEFAULT_CONFIG_PATH: &str = "/etc/esh3ar/esh3ar.toml";

/// In bytes.
const MAX_FILE_LEN: u64 = 1 << 20;

/// A key of the configuration, its value, and the option that sets it.
pub(crate) type ConfigOverride = (&'static str, String, &'static str);

/// What the configuration is read from; kept to read it again at a reload.
pub(crate) struct ConfigLoader {
    /// `None`: the file in its default place.
    pub(crate) file: Option<PathBuf>,
    /// Whether the default file may be unreadable for this user.
    pub(crate) may_skip_default: bool,
    pub(crate) overrides: Vec<ConfigOverride>,
}

impl ConfigLoader {
    /// Reads the file and the environment.
    pub(crate) fn read(&self) -> Result<ConfigSources, Failure> {
        let is_default = self.file.is_none();
        let path = self.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG_PATH));
        let text = match config::read_bounded(&path, MAX_FILE_LEN) {
            Ok(text) => Some((path.display().to_string(), text)),
            Err(error) if is_default && error.kind() == ErrorKind::NotFound => None,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                if !(is_default && self.may_skip_default) {
                    return Err(unreadable(&path, is_default));
                }
                None
            }
            Err(error) => {
                let what = format!("{} cannot be read: {error}", path.display());
                return Err(Failure::new(ExitStatus::Config, what)
                    .hint("check --config and its permissions"));
            }
        };
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(ConfigSources { file: text, environment, flags: self.overrides.clone() })
    }
}

fn unreadable(path: &Path, is_default: bool) -> Failure {
    let (user, path) = (privilege::user_name(), path.display());
    let failure =
        Failure::new(ExitStatus::Config, format!("{path} is not readable by user {user}"));
    if privilege::is_service() {
        let group = privilege::group_name();
        failure.hint(format!("chown root:{group} {path} && chmod 640 {path}"))
    } else if is_default {
        failure.hint("run as root or user esh3ar, or use --config")
    } else {
        failure.hint("run as root or user esh3ar, or use another --config")
    }
}
