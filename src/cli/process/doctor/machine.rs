//! This machine: files, folders, limits, the certificate, and the running server.

use std::{fs, io::ErrorKind::NotFound, os::unix::fs::PermissionsExt as _, path::Path};

use nix::sys::statvfs::statvfs;

use super::check::{Check, fail, ok, warn};
use crate::{
    app::Clock,
    cli::{io::exit::is_disk_full, privilege, process::state_file::running_server, setup::Setup},
    client,
    config::{Config, ConfigSource, keys},
    server::tls,
};

/// For a gateway with ten thousand connections.
const MIN_OPEN_FILES: u64 = 12_000;
/// Below this, Postgres is about to stop.
const MIN_FREE_BYTES: u64 = 256 << 20;
/// Below this, the check warns.
const LOW_FREE_BYTES: u64 = 2 << 30;
/// The remedy for a disk that is full, or almost.
const FREE_DISK_SPACE: &str = "free disk space, or move data_dir to a larger disk: when it is full, nothing is stored and Postgres stops";
/// With fewer days left, the check warns.
const CERTIFICATE_WARNING_DAYS: i64 = 21;

/// Whether other users can read secrets in the file.
pub(super) fn configuration(setup: &Setup) -> Check {
    let open = setup.loaded.origins.iter().find_map(|origin| {
        let ConfigSource::File { name, line } = &origin.source else { return None };
        let secret = keys::find(&origin.key).is_some_and(|key| key.secret);
        let others = fs::metadata(name).ok()?.permissions().mode() & 0o004 != 0;
        // A key that only names the secret's file may be read by all.
        let text = fs::read_to_string(name).ok()?;
        let here = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default();
        let inline = !here.split('=').next().unwrap_or_default().contains("_file");
        (secret && others && inline).then(|| (name.clone(), origin.key.clone()))
    });
    match open {
        Some((file, key)) => warn(
            "configuration",
            format!("{file} contains {key} and is world-readable"),
            format!("chmod o= {file}, or move the secret to its own file: {key}_file"),
        ),
        None => ok("configuration", "every key is known and valid"),
    }
}

pub(super) fn data_folder(setup: &Setup) -> Check {
    let path = setup.data_dir.display().to_string();
    let probe = setup.data_dir.join(".doctor");
    if fs::metadata(&setup.data_dir).is_err_and(|error| error.kind() == NotFound) {
        return ok("data folder", format!("{path} does not exist yet; it is created on first use"));
    }
    let written = fs::write(&probe, b"probe").and_then(|()| fs::remove_file(&probe));
    match written {
        Ok(()) => ok("data folder", format!("{path} is writable")),
        Err(error) => {
            let remedy = if is_disk_full(&error) {
                FREE_DISK_SPACE
            } else {
                "make the user that runs esh3ar its owner, or set data_dir"
            };
            fail("data folder", format!("{path}: {error}"), remedy)
        }
    }
}

pub(super) fn disk(setup: &Setup) -> Check {
    let folder = setup.data_dir.display();
    // For a folder that does not exist yet, its nearest parent.
    let place = setup.data_dir.ancestors().find(|folder| folder.is_dir());
    match statvfs(place.unwrap_or(&setup.data_dir)) {
        Ok(found) => {
            let free = found.blocks_available().saturating_mul(found.fragment_size());
            let text = format!("{} MiB free for {folder}", free >> 20);
            if found.files() > 0 && found.files_available() == 0 {
                let text = format!("{text}, but no inode is free: no file can be created there");
                return fail("disk", text, "remove files there; see df -i");
            }
            match free {
                free if free < MIN_FREE_BYTES => fail("disk", text, FREE_DISK_SPACE),
                free if free < LOW_FREE_BYTES => warn("disk", text, FREE_DISK_SPACE),
                _ => ok("disk", text),
            }
        }
        Err(error) => fail("disk", format!("{folder}: {error}"), "check data_dir"),
    }
}

/// Of the running server, if there is one: an administrator's shell has other limits.
pub(super) fn open_files(setup: &Setup) -> Check {
    let served = running_server(&setup.data_dir).and_then(|found| limit_of(found.pid));
    let files = served.unwrap_or_else(privilege::raise_file_limit);
    let whose = if served.is_some() {
        "allowed for the running server"
    } else {
        "allowed for this process"
    };
    if files >= MIN_OPEN_FILES {
        return ok("open files", format!("{files} {whose}"));
    }
    let found = format!("{files} {whose}, {MIN_OPEN_FILES} needed for ten thousand connections");
    warn("open files", found, "raise the limit: LimitNOFILE= in the unit, or ulimit -n")
}

fn limit_of(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

pub(super) fn certificate(config: &Config) -> Check {
    let Some((cert, key)) = config.http.tls() else {
        let listen = config.http.listen;
        return ok(
            "certificate",
            match listen.ip().is_loopback() {
                true => format!("none: {listen} is reachable from this machine only"),
                false => format!("none: a proxy in front of {listen} has to terminate TLS"),
            },
        );
    };
    match tls::inspect(cert, key) {
        Ok(found) => judge(cert, &found),
        Err(error) => {
            fail("certificate", error.to_string(), "check http.tls_cert and http.tls_key")
        }
    }
}

fn judge(path: &Path, found: &tls::Validity) -> Check {
    let now = Clock::System.now();
    let left = (found.until - now).whole_days();
    let text = format!(
        "{} for {}: valid until {}",
        path.display(),
        found.names.join(", "),
        found.until.date()
    );
    let renew = "renew it; the new files are loaded within five seconds";
    if now < found.from {
        let text = format!("{text}, and not before {}", found.from.date());
        return fail("certificate", text, "check this machine's clock, or replace the certificate");
    }
    if now >= found.until {
        return fail("certificate", format!("{text}: expired"), renew);
    }
    if left < CERTIFICATE_WARNING_DAYS {
        return warn("certificate", format!("{text}: {left} days left"), renew);
    }
    ok("certificate", text)
}

/// Whether a server runs on the folder, and whether it is ready.
pub(super) async fn service(setup: &Setup) -> Check {
    let running = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    let found = running_server(&setup.data_dir).filter(|found| running(found.pid));
    let Some(found) = found else {
        return ok("service", "no server is running on this folder");
    };
    let text = format!("process {} serves on {}", found.pid, found.http);
    let Some(metrics) = found.metrics else { return ok("service", text) };
    match client::fetch(&format!("http://{metrics}/health/ready")).await {
        Ok(_) => ok("service", format!("{text} and is ready")),
        // Its port is open and does not answer: the process hangs, and only a restart helps.
        Err(client::Error::TimedOut) => fail(
            "service",
            format!("{text} but does not answer within two seconds"),
            "restart it: systemctl restart esh3ar; and see its log: journalctl -u esh3ar",
        ),
        Err(error) => warn(
            "service",
            format!("{text} but is not ready: {error}"),
            format!("see http://{metrics}/health and the log: journalctl -u esh3ar"),
        ),
    }
}
