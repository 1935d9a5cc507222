//! `doctor`: every dependency looked at, every fault with its remedy.

use serde::Serialize;

use super::{
    Setup,
    exit::{Failure, Kind},
    opened, privilege,
};
use crate::{
    domain::replica::Standing,
    store::{embedded::Purpose, migrate},
};

/// Files a gateway for ten thousand connections needs.
const FILES_WANTED: u64 = 12_000;

#[derive(Serialize)]
struct Check {
    check: &'static str,
    state: &'static str,
    found: String,
    remedy: String,
}

fn good(check: &'static str, found: impl Into<String>) -> Check {
    Check { check, state: "ok", found: found.into(), remedy: String::new() }
}

fn bad(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { check, state: "FAIL", found: found.into(), remedy: remedy.into() }
}

fn poor(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { check, state: "warn", found: found.into(), remedy: remedy.into() }
}

pub(super) async fn run(setup: &Setup) -> Result<(), Failure> {
    // That it could be read at all was checked before this.
    let mut checks = vec![good("configuration", "every key is known and valid")];
    checks.push(data_folder(setup));
    let files = privilege::raise_file_limit();
    checks.push(if files >= FILES_WANTED {
        good("open files", format!("{files} allowed"))
    } else {
        let remedy = "raise it: LimitNOFILE= in the unit, or ulimit -n";
        poor("open files", format!("{files} allowed, {FILES_WANTED} wanted"), remedy)
    });
    database(setup, &mut checks).await;
    mail(setup, &mut checks).await?;
    setup.output.records(&["check", "state", "found", "remedy"], &checks);
    let faults = checks.iter().filter(|check| check.state == "FAIL").count();
    if faults == 0 {
        return Ok(());
    }
    Err(Failure::new(Kind::Failed, format!("{faults} of {} checks failed", checks.len()))
        .hint("see the remedies above"))
}

fn data_folder(setup: &Setup) -> Check {
    let path = setup.data_dir.display().to_string();
    let probe = setup.data_dir.join(".doctor");
    let written = std::fs::create_dir_all(&setup.data_dir)
        .and_then(|()| std::fs::write(&probe, b"probe"))
        .and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => good("data folder", format!("{path} can be written")),
        Err(error) => bad(
            "data folder",
            format!("{path}: {error}"),
            "give it to the user that runs esh3ar, or set data_dir",
        ),
    }
}

async fn mail(setup: &Setup, checks: &mut Vec<Check>) -> Result<(), Failure> {
    checks.push(match opened::mailer(&setup.loaded.config)?.check().await {
        None => good("mail", "smtp.host is not set: alerts go to the log"),
        Some(Ok(())) => good("mail", "the mail server answers"),
        Some(Err(error)) => {
            let remedy = "check smtp.*, and that the mail server lets esh3ar in";
            bad("mail", error.to_string(), remedy)
        }
    });
    Ok(())
}

async fn database(setup: &Setup, checks: &mut Vec<Check>) {
    let opened = match opened::open_store(setup, Purpose::Command).await {
        Ok(opened) => opened,
        Err(failure) => {
            checks.push(bad("database", failure.what, failure.hint.unwrap_or_default()));
            return;
        }
    };
    let store = &opened.store;
    match store.version().await {
        Ok(version) => checks.push(good("database", format!("Postgres {version} answers"))),
        Err(error) => {
            let remedy = "check database.url, and that Postgres runs and lets esh3ar in";
            checks.push(bad("database", error.to_string(), remedy));
            let _ = opened.close().await;
            return;
        }
    }
    match store.durability_faults().await {
        Ok(faults) if faults.is_empty() => {
            checks.push(good("durability", "fsync, full_page_writes, synchronous_commit are on"));
        }
        Ok(faults) => {
            let remedy = "turn them on in postgresql.conf: answered messages could be lost";
            checks.push(bad("durability", faults.join(", "), remedy));
        }
        Err(error) => checks.push(bad("durability", error.to_string(), "see postgres.log")),
    }
    let state = match store.client().await {
        Ok(client) => migrate::status(&client).await,
        Err(error) => Err(error.into()),
    };
    checks.push(match state {
        Ok(steps) => match steps.iter().filter(|step| step.applied_at.is_none()).count() {
            0 => good("schema", format!("version {}", steps.len())),
            n => poor("schema", format!("{n} migrations pending"), "run: esh3ar migrate"),
        },
        Err(error) => bad("schema", error.to_string(), "install the esh3ar that made it"),
    });
    let _ = opened.close().await;
    replicas(setup, checks).await;
}

async fn replicas(setup: &Setup, checks: &mut Vec<Check>) {
    let database = &setup.loaded.config.database;
    if database.replica_urls.is_empty() {
        return;
    }
    let mut opened = match opened::with_replicas(database) {
        Ok(opened) => opened,
        Err(failure) => {
            checks.push(bad("replicas", failure.what, failure.hint.unwrap_or_default()));
            return;
        }
    };
    if let Some(work) = opened.replicas.take() {
        work.look().await;
    }
    for replica in opened.store.replicas() {
        let name = &replica.name;
        checks.push(match (replica.standing, replica.fault) {
            (Standing::Usable, _) => {
                let lag = replica.lag.unwrap_or_default().as_secs_f64();
                good("replica", format!("{name} answers and lags {lag:.1} s"))
            }
            (_, fault) => {
                let remedy = "lists are read from the primary meanwhile; check that it streams from \
                              database.url's server and lets esh3ar in";
                let fault = fault.unwrap_or_else(|| "has not caught up yet".to_owned());
                poor("replica", format!("{name}: {fault}"), remedy)
            }
        });
    }
    let _ = opened.close().await;
}
