//! This machine: files, folders, limits, the certificate, and whether something serves here.

use std::{fs, io::ErrorKind::NotFound, os::unix::fs::PermissionsExt as _, path::Path};

use nix::sys::statvfs::statvfs;

use super::{Check, bad, good, poor};
use crate::{
    app::Clock,
    cli::{Setup, exit::is_of_full_disk, privilege, serve::whereabouts},
    client,
    config::{Config, Source, keys},
    server::tls,
};

/// Files a gateway for ten thousand connections needs.
const FILES_WANTED: u64 = 12_000;
/// With less than this, in bytes, Postgres is about to stop.
const DISK_NEEDED: u64 = 256 << 20;
/// With less than this, in bytes, somebody should make room.
const DISK_WANTED: u64 = 2 << 30;
/// What to do about a disk that is full, or about to be.
const MAKE_ROOM: &str = "make room, or move data_dir to a larger disk: nothing is stored and Postgres stops when it is full";
/// A certificate should be renewed when it has fewer days than this.
const DAYS_WANTED: i64 = 21;

/// Whether others can read secrets in the file.
pub(super) fn configuration(setup: &Setup) -> Check {
    let open = setup.loaded.origins.iter().find_map(|origin| {
        let Source::File { name, line } = &origin.source else { return None };
        let secret = keys::find(origin.key).is_some_and(|key| key.secret);
        let others = fs::metadata(name).ok()?.permissions().mode() & 0o004 != 0;
        // One that only names the secret's file may be read by all.
        let text = fs::read_to_string(name).ok()?;
        let here = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default();
        let inline = !here.split('=').next().unwrap_or_default().contains("_file");
        (secret && others && inline).then(|| (name.clone(), origin.key))
    });
    match open {
        Some((file, key)) => poor(
            "configuration",
            format!("{file} holds {key} and can be read by everybody"),
            format!("chmod o= {file}, or put it in a file of its own: {key}_file"),
        ),
        None => good("configuration", "every key is known and valid"),
    }
}

pub(super) fn data_folder(setup: &Setup) -> Check {
    let path = setup.data_dir.display().to_string();
    let probe = setup.data_dir.join(".doctor");
    if fs::metadata(&setup.data_dir).is_err_and(|error| error.kind() == NotFound) {
        return good(
            "data folder",
            format!("{path} is not there yet; what is begun in it makes it"),
        );
    }
    let written = fs::write(&probe, b"probe").and_then(|()| fs::remove_file(&probe));
    match written {
        Ok(()) => good("data folder", format!("{path} can be written")),
        Err(error) => {
            let remedy = if is_of_full_disk(&error) {
                MAKE_ROOM
            } else {
                "give it to the user that runs esh3ar, or set data_dir"
            };
            bad("data folder", format!("{path}: {error}"), remedy)
        }
    }
}

pub(super) fn disk(setup: &Setup) -> Check {
    let folder = setup.data_dir.display();
    // Of one that is not there yet, where it will be.
    let place = setup.data_dir.ancestors().find(|folder| folder.is_dir());
    match statvfs(place.unwrap_or(&setup.data_dir)) {
        Ok(found) => {
            let free = found.blocks_available().saturating_mul(found.fragment_size());
            let text = format!("{} MiB free for {folder}", free >> 20);
            if found.files() > 0 && found.files_available() == 0 {
                let text = format!("{text}, and no file more can be made there: no inode is free");
                return bad("disk", text, "remove files there, many small ones are: df -i");
            }
            match free {
                free if free < DISK_NEEDED => bad("disk", text, MAKE_ROOM),
                free if free < DISK_WANTED => poor("disk", text, MAKE_ROOM),
                _ => good("disk", text),
            }
        }
        Err(error) => bad("disk", format!("{folder}: {error}"), "check data_dir"),
    }
}

/// Of the process that serves, if there is one: an administrator's shell has limits of its own.
pub(super) fn open_files(setup: &Setup) -> Check {
    let served = whereabouts(&setup.data_dir).and_then(|found| limit_of(found.pid));
    let files = served.unwrap_or_else(privilege::raise_file_limit);
    let whose = if served.is_some() { "allowed to what serves" } else { "allowed here" };
    if files >= FILES_WANTED {
        return good("open files", format!("{files} {whose}"));
    }
    let found = format!("{files} {whose}, {FILES_WANTED} wanted for ten thousand connections");
    poor("open files", found, "raise it: LimitNOFILE= in the unit, or ulimit -n")
}

fn limit_of(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

pub(super) fn certificate(config: &Config) -> Check {
    let Some((cert, key)) = config.http.tls() else {
        let listen = config.http.listen;
        return good(
            "certificate",
            match listen.ip().is_loopback() {
                true => format!("none: {listen} is for this machine only"),
                false => format!("none: what stands before {listen} has to do TLS"),
            },
        );
    };
    match tls::inspect(cert, key) {
        Ok(found) => judge(cert, &found),
        Err(error) => bad("certificate", error.to_string(), "check http.tls_cert and http.tls_key"),
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
    let renew = "renew it; the new files are taken up within five seconds";
    if now < found.from {
        let text = format!("{text}, and not before {}", found.from.date());
        return bad("certificate", text, "check the clock of this machine, or get another one");
    }
    if now >= found.until {
        return bad("certificate", format!("{text}: it has run out"), renew);
    }
    if left < DAYS_WANTED {
        return poor("certificate", format!("{text}: {left} days are left"), renew);
    }
    good("certificate", text)
}

/// Whether a gateway runs on the folder, and what it says of itself.
pub(super) async fn service(setup: &Setup) -> Check {
    let running = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    let found = whereabouts(&setup.data_dir).filter(|found| running(found.pid));
    let Some(found) = found else {
        return good("service", "no gateway runs on this folder now");
    };
    let text = format!("process {} serves on {}", found.pid, found.http);
    let Some(metrics) = found.metrics else { return good("service", text) };
    match client::fetch(&format!("http://{metrics}/health/ready")).await {
        Ok(_) => good("service", format!("{text} and is ready")),
        // Its port is open and nobody answers: it hangs, and nothing mends that but a restart.
        Err(client::Error::TimedOut) => bad(
            "service",
            format!("{text} and does not answer within two seconds"),
            "restart it: systemctl restart esh3ar; and look at its log: journalctl -u esh3ar",
        ),
        Err(error) => poor(
            "service",
            format!("{text} and is not ready: {error}"),
            format!("look at http://{metrics}/health and its log: journalctl -u esh3ar"),
        ),
    }
}
