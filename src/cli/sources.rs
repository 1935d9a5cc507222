//! What the configuration is read from: a file, the environment, and options.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    exit::{Failure, Kind},
    privilege,
    spec::Flag,
};
use crate::config::{self, ConfigSources};

/// Where the configuration is when no option or variable says otherwise.
pub(super) const USUAL_CONFIG: &str = "/etc/esh3ar/esh3ar.toml";

/// The most bytes of a configuration file.
const LONGEST_FILE: u64 = 1 << 20;

/// What the configuration is read from. `spared`: the usual file may be closed to this user.
pub(super) fn sources(
    file: Option<&Path>,
    spared: bool,
    flags: Vec<Flag>,
) -> Result<ConfigSources, Failure> {
    let usual = file.is_none();
    let path = file.map_or_else(|| PathBuf::from(USUAL_CONFIG), PathBuf::from);
    let text = match config::read_bounded(&path, LONGEST_FILE) {
        Ok(text) => Some((path.display().to_string(), text)),
        Err(error) if usual && error.kind() == ErrorKind::NotFound => None,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            if !(usual && spared) {
                return Err(closed(&path, usual));
            }
            None
        }
        Err(error) => {
            let what = format!("{} cannot be read: {error}", path.display());
            return Err(Failure::new(Kind::Config, what).hint("check --config and its permissions"));
        }
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(ConfigSources { file: text, environment, flags })
}

/// A configuration file that this user may not read.
fn closed(path: &Path, usual: bool) -> Failure {
    let (user, path) = (privilege::user_name(), path.display());
    let failure = Failure::new(Kind::Config, format!("{path} is not readable for the user {user}"));
    if privilege::is_service() {
        let group = privilege::group_name();
        failure.hint(format!("chown root:{group} {path} && chmod 640 {path}"))
    } else if usual {
        failure.hint("run this as root or the user esh3ar, or give --config")
    } else {
        failure.hint("run this as root or the user esh3ar, or give another --config")
    }
}
