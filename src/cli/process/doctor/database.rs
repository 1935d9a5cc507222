//! Postgres and its replicas.

use std::time::Duration;

use super::{
    check::{Check, fail, ok, warn},
    keys,
};
use crate::{
    app::Clock,
    cli::{
        io::exit::FREE_DISK_SPACE,
        process::database::{self, OpenDatabase},
        setup::Setup,
    },
    domain::replica::ReplicaHealth,
    server::timestamp,
    store::{
        self, Store,
        backup::{self, Databases},
        embedded::{self, Purpose},
        migrate, roles, server_checks,
    },
};

/// The oldest supported major version.
const MIN_POSTGRES_VERSION: i32 = 14;
/// Above this, the check warns.
const CLOCK_SKEW_WARNING: Duration = Duration::from_millis(500);
/// A daily backup may take some time; the packaged timer makes one every hour.
const MAX_BACKUP_AGE: Duration = Duration::from_secs(26 * 3600);
/// Tokens of administrators that expire within this time are pointed out.
const TOKEN_EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);
/// These take a few seconds.
const MAX_NUMBERS_CHECKED: usize = 200_000;
/// Above this, retries and expiries are wrong.
const CLOCK_SKEW_FAILURE: Duration = Duration::from_secs(5);

pub(super) async fn check(setup: &Setup, checks: &mut Vec<Check>) {
    if !database::exists(setup) {
        checks.push(not_installed(setup));
        return;
    }
    if setup.loaded.config.database.url.is_none() {
        folder(setup, checks);
    }
    let opened = match database::open_database(setup, Purpose::Command).await {
        Ok(opened) => opened,
        Err(failure) => {
            checks.push(fail("database", failure.what, failure.hint.unwrap_or_default()));
            return;
        }
    };
    if answers(setup, &opened.store, checks).await {
        disk_full(&opened.store, checks).await;
        durability(&opened.store, checks).await;
        rights(&opened.store, checks).await;
        clock(&opened.store, checks).await;
        schema(&opened.store, checks).await;
        keys::check(setup, &opened, checks).await;
        newest_row(&opened.store, checks).await;
        leftover_restores(setup, &opened, checks).await;
        backups(setup, &opened.store, checks).await;
        admin_tokens(setup, &opened.store, checks).await;
        numbers(setup, &opened.store, checks).await;
        recent_health(setup, &opened.store, checks).await;
    }
    let _ = opened.close().await;
    replicas(setup, checks).await;
}

/// Problems of the embedded Postgres' folder.
fn folder(setup: &Setup, checks: &mut Vec<Check>) {
    for fault in embedded::faults(&setup.data_dir) {
        let found = format!("{} {}", fault.path.display(), fault.what);
        checks.push(if fault.is_repairable{
warn("database folder", found, "nothing: opening the folder repairs it, as this check has done")
        } else {
            let remedy = "make the user that runs esh3ar its owner, or copy it back if it is missing; \
                          restore lost data with: esh3ar restore FILE";
            fail("database folder", found, remedy)
        });
    }
}

/// A folder without an installation: a check creates nothing.
fn not_installed(setup: &Setup) -> Check {
    let bin_dir = setup.loaded.config.database.bin_dir.as_deref();
    if embedded::folder_with(bin_dir, None, &["initdb", "postgres"]).is_none() {
        let missing = embedded::EmbeddedError::NoBinaries;
        return fail("database", missing.to_string(), missing.hint());
    }
    let text = format!("no installation in {} yet", setup.data_dir.display());
    warn("database", text, "create one with esh3ar init or esh3ar serve, or set another --data-dir")
}

async fn answers(setup: &Setup, store: &Store, checks: &mut Vec<Check>) -> bool {
    let found = match server_checks::server(store).await {
        Ok(found) => found,
        Err(error) => {
            let remedy = match error {
                store::Error::DiskFull(_) => FREE_DISK_SPACE,
                _ => "check database.url, that Postgres is running, and that esh3ar may log in",
            };
            checks.push(fail("database", error.to_string(), remedy));
            return false;
        }
    };
    let text = format!("Postgres {} answers", found.version);
    checks.push(if found.major < MIN_POSTGRES_VERSION {
        fail("database", text, format!("install Postgres {MIN_POSTGRES_VERSION} or newer"))
    } else if found.in_recovery {
        let remedy =
            "database.url must point to the primary; list replicas in database.replica_urls";
        fail("database", format!("{text}, but is a replica"), remedy)
    } else if !found.private_way {
        let remedy =
            "use sslmode=require in database.url: an attacker on the network can read every message";
        warn("database", format!("{text} over the network without TLS"), remedy)
    } else {
        ok("database", text)
    });
    let wanted = setup.loaded.config.database.pool_size;
    let (used, most) = (found.connections, found.most_connections);
    let text = format!("{used} of {most} used; this process opens up to {wanted}");
    let room = usize::try_from(most.saturating_sub(used)).unwrap_or_default();
    checks.push(if wanted > usize::try_from(most).unwrap_or_default() {
        let remedy = "raise max_connections in postgresql.conf, or lower database.pool_size";
        fail("connections", text, remedy)
    } else if room < 5 {
        warn("connections", text, "raise max_connections in postgresql.conf")
    } else {
        ok("connections", text)
    });
    true
}

/// Only a full disk, which is otherwise hard to see: everything can still be read.
async fn disk_full(store: &Store, checks: &mut Vec<Check>) {
    if let Err(error @ store::Error::DiskFull(_)) = server_checks::check_writable(store).await {
        checks.push(fail("database disk", error.to_string(), FREE_DISK_SPACE));
    }
}

async fn durability(store: &Store, checks: &mut Vec<Check>) {
    match store.durability_faults().await {
        Ok(faults) if faults.is_empty() => {
            checks.push(ok("durability", "fsync, full_page_writes, synchronous_commit are on"));
        }
        Ok(faults) => {
            let remedy = "turn them on in postgresql.conf: accepted messages could be lost";
            checks.push(fail("durability", faults.join(", "), remedy));
        }
        Err(error) => checks.push(fail("durability", error.to_string(), "see postgres.log")),
    }
}

/// What SQL of the serving role could do beyond reading and changing rows.
async fn rights(store: &Store, checks: &mut Vec<Check>) {
    let found = match roles::excess_rights(store).await {
        Ok(found) => found,
        Err(error) => {
            checks.push(fail("database role", error.to_string(), "see the database's own log"));
            return;
        }
    };
    let mut faults = Vec::new();
    if found.superuser {
        faults.push("is superuser".to_owned());
    }
    if found.owner {
        faults.push("owns the tables".to_owned());
    }
    faults.extend(found.memberships.iter().map(|role| format!("is a member of {role}")));
    checks.push(if faults.is_empty() {
        ok("database role", "reads and changes rows only")
    } else {
        let remedy =
            "create roles with the SQL of esh3ar migrate --roles, and set database.owner_url";
        warn("database role", format!("the role of database.url {}", faults.join(", ")), remedy)
    });
}

async fn clock(store: &Store, checks: &mut Vec<Check>) {
    let before = Clock::System.now();
    let there = match server_checks::clock(store).await {
        Ok(there) => there,
        Err(error) => {
            checks.push(fail("clock", error.to_string(), "see the database's own log"));
            return;
        }
    };
    let after = Clock::System.now();
    // The database's time was read between the two.
    let skew = if there < before {
        before - there
    } else if there > after {
        there - after
    } else {
        time::Duration::ZERO
    };
    let skew = skew.unsigned_abs();
    let text = format!("{} ms from the database's clock", skew.as_millis());
    let remedy = "synchronize both machines' clocks (chrony or systemd-timesyncd)";
    checks.push(match skew {
        skew if skew > CLOCK_SKEW_FAILURE => fail("clock", text, remedy),
        skew if skew > CLOCK_SKEW_WARNING => warn("clock", text, remedy),
        _ => ok("clock", text),
    });
}

/// Only if the newest row is in the future: a clock was ahead when it was stored, or is behind now.
async fn newest_row(store: &Store, checks: &mut Vec<Check>) {
    let now = Clock::System.now();
    let Ok(Some(id)) = server_checks::newest_id_ahead(store, now).await else { return };
    let made = server_checks::time_of_id(id).unwrap_or(now);
    let ahead = (made - now).unsigned_abs();
    if ahead > CLOCK_SKEW_FAILURE {
        let text = format!(
            "the newest row was created at {}, {} s ahead of this machine's clock",
            timestamp::text(made),
            ahead.as_secs()
        );
        let remedy = "check the clocks (chrony or systemd-timesyncd); until that time has passed, new rows \
                      are listed after it but show earlier times";
        checks.push(warn("newest", text, remedy));
    }
}

async fn schema(store: &Store, checks: &mut Vec<Check>) {
    let state = match store.client().await {
        Ok(client) => migrate::status(&client).await,
        Err(error) => Err(error.into()),
    };
    checks.push(match state {
        Ok(steps) => match steps.iter().filter(|step| step.applied_at.is_none()).count() {
            0 => ok("schema", format!("version {}", steps.len())),
            n => warn("schema", format!("{n} migrations pending"), "run: esh3ar migrate"),
        },
        Err(error) => {
            fail("schema", error.to_string(), "install the esh3ar version that created it")
        }
    });
}

/// Only if a backup was ever made: an installation may be backed up by other means.
async fn backups(setup: &Setup, store: &Store, checks: &mut Vec<Check>) {
    let mut last = None;
    let asked = database::with_app(setup, store, async |app| {
        last = app.admin.last_backup().await?;
        Ok(())
    });
    if let Err(failure) = asked.await {
        checks.push(fail("backup", failure.what, failure.hint.unwrap_or_default()));
        return;
    }
    match backup::log::slot(store).await {
        Ok(Some(slot)) if slot.begins.is_none() || slot.status == "unreserved" => {
            let text = format!(
                "the log since the last one is no longer kept (replication slot esh3ar_backup: {})",
                slot.status
            );
            let remedy = "run the backup, which makes a base backup again; if there is none any more, run in psql: \
                          SELECT pg_drop_replication_slot('esh3ar_backup')";
            checks.push(warn("backup log", text, remedy));
        }
        _ => {}
    }
    let Some(last) = last else { return };
    let age = Clock::System.now() - last;
    let text = format!("the last one was made {} h ago", age.whole_hours());
    checks.push(if age.unsigned_abs() > MAX_BACKUP_AGE {
        let remedy =
            "check why the next one failed: journalctl -u esh3ar-backup; or run: esh3ar backup";
        warn("backup", text, remedy)
    } else {
        ok("backup", text)
    });
}

/// Tokens of administrators that end soon, or never.
async fn admin_tokens(setup: &Setup, store: &Store, checks: &mut Vec<Check>) {
    let mut counts = None;
    let asked = database::with_app(setup, store, async |app| {
        counts = Some(app.identity.count_ending_admin_tokens(TOKEN_EXPIRY_WARNING).await?);
        Ok(())
    });
    if let Err(failure) = asked.await {
        checks.push(fail("admin tokens", failure.what, failure.hint.unwrap_or_default()));
        return;
    }
    // None with an older schema.
    let Some(counts) = counts else { return };
    let days = TOKEN_EXPIRY_WARNING.as_secs() / (24 * 3600);
    checks.push(match counts {
        (0, 0) => ok("admin tokens", format!("none expires within {days} days, and all expire")),
        (0, endless) => {
            let remedy = "esh3ar token list; replace each: esh3ar token rotate ID --expires 90d";
            warn("admin tokens", format!("{endless} never expire"), remedy)
        }
        (soon, _) => {
            let remedy = "esh3ar token list; replace each: esh3ar token rotate ID";
            warn("admin tokens", format!("{soon} expire within {days} days"), remedy)
        }
    });
}

/// Numbers that were stored when parsing followed other rules.
async fn numbers(setup: &Setup, store: &Store, checks: &mut Vec<Check>) {
    let mut counts = None;
    let asked = database::with_app(setup, store, async |app| {
        counts = Some(app.admin.count_doubted_numbers(MAX_NUMBERS_CHECKED).await?);
        Ok(())
    });
    if let Err(failure) = asked.await {
        checks.push(fail("phone numbers", failure.what, failure.hint.unwrap_or_default()));
        return;
    }
    // None with an older schema.
    let Some((doubted, all)) = counts else { return };
    let of = if all < MAX_NUMBERS_CHECKED { "" } else { "the first " };
    checks.push(match doubted {
        0 => ok("phone numbers", format!("{of}{all} are parsed as they are stored")),
        _ => {
            let text =
                format!("{doubted} of {of}{all} may differ from the numbers that were given");
            warn("phone numbers", text, "review them with: esh3ar mobile check; it changes nothing")
        }
    });
}

/// The last health checks of the running processes.
async fn recent_health(setup: &Setup, store: &Store, checks: &mut Vec<Check>) {
    let mut nodes = Vec::new();
    let asked = database::with_app(setup, store, async |app| {
        nodes = app.process.living_nodes().await?;
        Ok(())
    });
    if asked.await.is_err() {
        return;
    }
    let mut checked = 0;
    let mut all_well = true;
    for node in &nodes {
        let place = format!("{} {}:{}", node.role.name(), node.host, node.pid);
        for part in node.figures.parts.iter().filter(|part| !part.past.is_empty()) {
            let missed = part.past.iter().filter(|took| **took < 0).count();
            checked = checked.max(part.past.len());
            if missed == 0 && part.up {
                continue;
            }
            all_well = false;
            let now = match (part.up, &part.fault) {
                (true, _) => "and is up now".to_owned(),
                (false, Some(fault)) => format!("and is still down: {fault}"),
                (false, None) => "and is still down".to_owned(),
            };
            let (name, of) = (&part.name, part.past.len());
            let found = format!("{name} failed {missed} of the last {of} checks of {place}, {now}");
            let remedy =
                "/health?history=true of metrics.listen shows each check with its time and error";
            let gone = name == "realtime" && !part.up;
            checks.push(if gone {
                fail("health", found, remedy)
            } else {
                warn("health", found, remedy)
            });
        }
    }
    if checked > 0 && all_well {
        let found =
            format!("every dependency answered in the last {checked} checks, one every 30 s");
        checks.push(ok("health", found));
    }
}

/// Databases that interrupted restores left.
async fn leftover_restores(setup: &Setup, opened: &OpenDatabase, checks: &mut Vec<Check>) {
    let Ok(target) = opened.admin_target(setup) else { return };
    let Ok(databases) = Databases::beside(&target) else { return };
    let left = databases.left_by_restores().await.unwrap_or_default();
    databases.close();
    if !left.is_empty() {
        let text = format!("{} was left by an interrupted restore", left.join(", "));
        let remedy = "the next restore drops it; or use psql: DROP DATABASE";
        checks.push(warn("restore", text, remedy));
    }
}

async fn replicas(setup: &Setup, checks: &mut Vec<Check>) {
    let database = &setup.loaded.config.database;
    if database.replica_urls.is_empty() {
        return;
    }
    let mut opened = match database::with_replicas(setup) {
        Ok(opened) => opened,
        Err(failure) => {
            checks.push(fail("replicas", failure.what, failure.hint.unwrap_or_default()));
            return;
        }
    };
    if let Some(work) = opened.replicas.take() {
        work.look().await;
    }
    for replica in opened.store.replicas() {
        let name = &replica.name;
        checks.push(match (replica.standing, replica.fault) {
            (ReplicaHealth::Usable, _) => {
                let lag = replica.lag.unwrap_or_default().as_secs_f64();
                ok("replica", format!("{name} answers and lags {lag:.1} s"))
            }
            (_, fault) => {
                let remedy = "lists are read from the primary meanwhile; check that it replicates from \
                              database.url's server and that esh3ar may log in";
                let fault = fault.unwrap_or_else(|| "has not caught up yet".to_owned());
                warn("replica", format!("{name}: {fault}"), remedy)
            }
        });
    }
    let _ = opened.close().await;
}
