//! Writes the configuration file: atomically, and never over an existing one.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use super::{
    arguments::InitArgs,
    ask,
    settings::{check, load, setting},
};
use crate::{
    cli::{
        config_loader::DEFAULT_CONFIG_PATH,
        io::{
            exit::{ExitStatus, Failure},
            output::Output,
        },
        privilege,
    },
    config::{
        self, LoadedConfig,
        describe::{ConfigSetting, file_with},
        keys,
    },
};

/// Readable by the service, writable by root, closed to others: it may contain passwords.
const MODE: u32 = 0o640;

pub(super) fn write(
    arguments: &InitArgs,
    config: Option<&Path>,
    data_dir: Option<&Path>,
    output: &Output,
) -> Result<PathBuf, Failure> {
    let root = geteuid().is_root();
    let folder = data_dir.map_or_else(privilege::default_data_dir, Path::to_owned);
    let path = match config {
        Some(path) => path.to_owned(),
        None if root => PathBuf::from(DEFAULT_CONFIG_PATH),
        None => folder.join("esh3ar.toml"),
    };
    let path = std::path::absolute(&path).map_err(|error| unwritable(&path, &error))?;
    let mut settings: Vec<ConfigSetting> =
        arguments.given().iter().map(|(key, value)| setting(key, value)).collect();
    let kept = path.exists();
    // Written into the file: later commands are given only that.
    if data_dir.is_some() || (!root && !kept) {
        settings.push(("data_dir".to_owned(), folder.display().to_string()));
    }
    if kept {
        agrees(&path, &settings)?;
        output.note(&format!("{} already exists and is kept", path.display()));
        return Ok(path);
    }
    check(&settings).map_err(|faults| Failure::new(ExitStatus::Usage, faults))?;
    if ask::may_ask(arguments) {
        ask::all(&mut settings)?;
    }
    if !root {
        private_folder(&folder).map_err(|error| unwritable(&folder, &error))?;
    }
    let group =
        root.then(|| privilege::user_of(&folder)).transpose()?.map(|user| user.gid.as_raw());
    create(&path, &file_with(&settings), group).map_err(|error| unwritable(&path, &error))?;
    output.note(&format!("wrote {}", path.display()));
    Ok(path)
}

/// An existing file is kept: fails if the options differ from it, so that nobody thinks they were
/// applied.
fn agrees(path: &Path, settings: &[ConfigSetting]) -> Result<(), Failure> {
    let text = fs::read_to_string(path).map_err(|error| unwritable(path, &error))?;
    let there = load(&path.display().to_string(), text)?;
    let differs = |(name, value): &ConfigSetting| {
        let key = name.strip_suffix("_file").filter(|key| keys::find(key).is_some());
        let wanted = match key {
            Some(_) => {
                let text = config::read_bounded(Path::new(value), config::MAX_SECRET_LEN);
                text.unwrap_or_default().trim().to_owned()
            }
            None => value.clone(),
        };
        let key = key.unwrap_or(name);
        let origin = there.origins.iter().find(|origin| origin.key == key);
        let said = secret(&there, key).or_else(|| origin.map(|origin| origin.value.clone()));
        (said != Some(wanted)).then(|| key.to_owned())
    };
    let other: Vec<String> = settings.iter().filter_map(differs).collect();
    if other.is_empty() {
        return Ok(());
    }
    let what = format!("{} already exists, with another {}", path.display(), other.join(", "));
    Err(Failure::new(ExitStatus::Refused, what)
        .hint("it is never overwritten: edit it, or omit those options"))
}

fn secret(loaded: &LoadedConfig, key: &str) -> Option<String> {
    let secret = loaded.secrets.iter().find(|(name, _)| name == key);
    secret.map(|(_, secret)| secret.expose().to_owned())
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::PermissionDenied => ExitStatus::Refused,
        _ => ExitStatus::Failed,
    };
    Failure::new(kind, format!("{}: {error}", path.display()))
        .hint("run this as root, or choose other paths with --config and --data-dir")
}

fn private_folder(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Under another name first: a crash leaves no partial file, and a hard link never replaces one.
fn create(path: &Path, text: &str, group: Option<u32>) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        fs::create_dir_all(folder)?;
        // The service must reach its file, whatever root's umask.
        if group.is_some() {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
    }
    let half = path.with_extension(format!("new-{}", std::process::id()));
    let made = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(&half)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if group.is_some() {
            chown(&half, None, group)?;
        }
        fs::hard_link(&half, path)
    })();
    let _ = fs::remove_file(&half);
    made
}
