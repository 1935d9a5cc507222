//! Postgres and its copies.

use std::time::Duration;

use super::{Check, bad, good, poor};
use crate::{
    app::Clock,
    cli::{
        Setup,
        exit::MAKE_ROOM,
        opened::{self, OpenedStore},
    },
    domain::replica::Standing,
    server::timestamp,
    store::{
        self, Store,
        backup::Databases,
        checkup,
        embedded::{self, Purpose},
        migrate,
    },
};

/// The oldest major version that is taken.
const OLDEST: i32 = 14;
/// Clocks that differ by more than this should be looked after.
const SKEW_SEEN: Duration = Duration::from_millis(500);
/// Backups are made once a day at least, and may take some time.
const BACKUP_WANTED: Duration = Duration::from_secs(26 * 3600);
/// So many numbers are looked at, which takes a few seconds.
const MOST_NUMBERS: usize = 200_000;
/// Clocks that differ by more than this make retries and expiries wrong.
const SKEW_HARMFUL: Duration = Duration::from_secs(5);

pub(super) async fn look(setup: &Setup, checks: &mut Vec<Check>) {
    if !opened::is_there(setup) {
        checks.push(beginning(setup));
        return;
    }
    if setup.loaded.config.database.url.is_none() {
        folder(setup, checks);
    }
    let opened = match opened::open_store(setup, Purpose::Command).await {
        Ok(opened) => opened,
        Err(failure) => {
            checks.push(bad("database", failure.what, failure.hint.unwrap_or_default()));
            return;
        }
    };
    if answers(setup, &opened.store, checks).await {
        room(&opened.store, checks).await;
        durability(&opened.store, checks).await;
        clock(&opened.store, checks).await;
        schema(&opened.store, checks).await;
        newest(&opened.store, checks).await;
        restores(setup, &opened, checks).await;
        backups(setup, &opened.store, checks).await;
        numbers(setup, &opened.store, checks).await;
        lately(setup, &opened.store, checks).await;
    }
    let _ = opened.close().await;
    replicas(setup, checks).await;
}

/// The private Postgres' folder, where something is wrong with it.
fn folder(setup: &Setup, checks: &mut Vec<Check>) {
    for fault in embedded::faults(&setup.data_dir) {
        let found = format!("{} {}", fault.path.display(), fault.what);
        checks.push(if fault.is_mended {
            poor("database folder", found, "nothing: opening the folder mends it, as this check has done")
        } else {
            let remedy = "give it to the user that runs esh3ar, or copy it back if it is missing; data \
                          that are lost come back with: esh3ar restore FILE";
            bad("database folder", found, remedy)
        });
    }
}

/// Of a folder in which no installation was begun: nothing is made by looking.
fn beginning(setup: &Setup) -> Check {
    let bin_dir = setup.loaded.config.database.bin_dir.as_deref();
    if embedded::folder_with(bin_dir, None, &["initdb", "postgres"]).is_none() {
        let missing = embedded::Error::NoBinaries;
        return bad("database", missing.to_string(), missing.hint());
    }
    let text = format!("there is no installation in {} yet", setup.data_dir.display());
    poor("database", text, "begin one with esh3ar init or esh3ar serve, or name another --data-dir")
}

async fn answers(setup: &Setup, store: &Store, checks: &mut Vec<Check>) -> bool {
    let found = match checkup::server(store).await {
        Ok(found) => found,
        Err(error) => {
            let remedy = match error {
                store::Error::DiskFull(_) => MAKE_ROOM,
                _ => "check database.url, and that Postgres runs and lets esh3ar in",
            };
            checks.push(bad("database", error.to_string(), remedy));
            return false;
        }
    };
    let text = format!("Postgres {} answers", found.version);
    checks.push(if found.major < OLDEST {
        bad("database", text, format!("install Postgres {OLDEST} or newer"))
    } else if found.in_recovery {
        let remedy = "database.url must lead to the primary; name copies in database.replica_urls";
        bad("database", format!("{text}, and it is a replica"), remedy)
    } else if !found.private_way {
        let remedy = "add ?sslmode=require to database.url";
        poor("database", format!("{text} over the network without TLS"), remedy)
    } else {
        good("database", text)
    });
    let wanted = setup.loaded.config.database.pool_size;
    let (used, most) = (found.connections, found.most_connections);
    let text = format!("{used} of {most} used; this process opens up to {wanted}");
    let room = usize::try_from(most.saturating_sub(used)).unwrap_or_default();
    checks.push(if wanted > usize::try_from(most).unwrap_or_default() {
        let remedy = "raise max_connections in postgresql.conf, or lower database.pool_size";
        bad("connections", text, remedy)
    } else if room < 5 {
        poor("connections", text, "raise max_connections in postgresql.conf")
    } else {
        good("connections", text)
    });
    true
}

/// Only what else would be taken for something else: of a full disk everything can be read.
async fn room(store: &Store, checks: &mut Vec<Check>) {
    if let Err(error @ store::Error::DiskFull(_)) = checkup::room(store).await {
        checks.push(bad("database disk", error.to_string(), MAKE_ROOM));
    }
}

async fn durability(store: &Store, checks: &mut Vec<Check>) {
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
}

async fn clock(store: &Store, checks: &mut Vec<Check>) {
    let before = Clock::System.now();
    let there = match checkup::clock(store).await {
        Ok(there) => there,
        Err(error) => {
            checks.push(bad("clock", error.to_string(), "see the database's own log"));
            return;
        }
    };
    let after = Clock::System.now();
    // Its time was read somewhere between the two.
    let skew = if there < before {
        before - there
    } else if there > after {
        there - after
    } else {
        time::Duration::ZERO
    };
    let skew = skew.unsigned_abs();
    let text = format!("{} ms from the database's", skew.as_millis());
    let remedy = "synchronize both machines' clocks (chrony or systemd-timesyncd)";
    checks.push(match skew {
        skew if skew > SKEW_HARMFUL => bad("clock", text, remedy),
        skew if skew > SKEW_SEEN => poor("clock", text, remedy),
        _ => good("clock", text),
    });
}

/// Only where there is something to say: a clock was ahead when something was stored, or is behind now.
async fn newest(store: &Store, checks: &mut Vec<Check>) {
    let now = Clock::System.now();
    let Ok(Some(id)) = checkup::newest_id_ahead(store, now).await else { return };
    let made = checkup::time_of_id(id).unwrap_or(now);
    let ahead = (made - now).unsigned_abs();
    if ahead > SKEW_HARMFUL {
        let text = format!(
            "the newest that is stored was made at {}, {} s ahead of this machine's clock",
            timestamp::text(made),
            ahead.as_secs()
        );
        let remedy = "see that the clocks are right (chrony or systemd-timesyncd); what is new is listed \
                      after it, and shows times before it, until that time has come";
        checks.push(poor("newest", text, remedy));
    }
}

async fn schema(store: &Store, checks: &mut Vec<Check>) {
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
}

/// Only of an installation that makes some: others may have their own ways.
async fn backups(setup: &Setup, store: &Store, checks: &mut Vec<Check>) {
    let mut last = None;
    let asked = opened::with_app(setup, store, async |app| {
        last = app.last_backup().await?;
        Ok(())
    });
    if let Err(failure) = asked.await {
        checks.push(bad("backup", failure.what, failure.hint.unwrap_or_default()));
        return;
    }
    let Some(last) = last else { return };
    let age = Clock::System.now() - last;
    let text = format!("the last one was made {} h ago", age.whole_hours());
    checks.push(if age.unsigned_abs() > BACKUP_WANTED {
        let remedy =
            "see why the next one failed: journalctl -u esh3ar-backup; or run: esh3ar backup";
        poor("backup", text, remedy)
    } else {
        good("backup", text)
    });
}

/// Numbers that were stored when numbers were read otherwise.
async fn numbers(setup: &Setup, store: &Store, checks: &mut Vec<Check>) {
    let mut counts = None;
    let asked = opened::with_app(setup, store, async |app| {
        counts = Some(app.count_doubted_numbers(MOST_NUMBERS).await?);
        Ok(())
    });
    if let Err(failure) = asked.await {
        checks.push(bad("phone numbers", failure.what, failure.hint.unwrap_or_default()));
        return;
    }
    // None of a schema that is not the newest.
    let Some((doubted, all)) = counts else { return };
    let of = if all < MOST_NUMBERS { "" } else { "the first " };
    checks.push(match doubted {
        0 => good("phone numbers", format!("{of}{all} are read as they are stored")),
        _ => {
            let text = format!("{doubted} of {of}{all} may not be the numbers that were given");
            poor("phone numbers", text, "look at them: esh3ar mobile check; nothing is changed")
        }
    });
}

/// How what serves found its dependencies at its last looks, if something serves.
async fn lately(setup: &Setup, store: &Store, checks: &mut Vec<Check>) {
    let mut nodes = Vec::new();
    let asked = opened::with_app(setup, store, async |app| {
        nodes = app.living_nodes().await?;
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
                (true, _) => "it does now".to_owned(),
                (false, Some(fault)) => format!("nor does it now: {fault}"),
                (false, None) => "nor does it now".to_owned(),
            };
            let (name, of) = (&part.name, part.past.len());
            let found =
                format!("{name} did not answer {place} in {missed} of its last {of} checks, {now}");
            let remedy =
                "each check is in /health?history=true of metrics.listen, with its time and fault";
            let gone = name == "realtime" && !part.up;
            checks.push(if gone {
                bad("health", found, remedy)
            } else {
                poor("health", found, remedy)
            });
        }
    }
    if checked > 0 && all_well {
        let found =
            format!("every dependency answered in the last {checked} checks, one every 30 s");
        checks.push(good("health", found));
    }
}

/// Only where there is something to say.
async fn restores(setup: &Setup, opened: &OpenedStore, checks: &mut Vec<Check>) {
    let Ok(target) = opened.target(setup) else { return };
    let Ok(databases) = Databases::beside(&target) else { return };
    let left = databases.left_by_restores().await.unwrap_or_default();
    databases.close();
    if !left.is_empty() {
        let text = format!("{} was left by a restore that was broken off", left.join(", "));
        let remedy = "the next restore drops it; or do it with psql: DROP DATABASE";
        checks.push(poor("restore", text, remedy));
    }
}

async fn replicas(setup: &Setup, checks: &mut Vec<Check>) {
    let database = &setup.loaded.config.database;
    if database.replica_urls.is_empty() {
        return;
    }
    let mut opened = match opened::with_replicas(setup) {
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
