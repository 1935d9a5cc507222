//! The key file, and whether it opens what the database has.

use super::check::{Check, fail, ok, warn};
use crate::{
    app::sealed_secrets,
    cli::{
        process::{database::OpenDatabase, keys},
        setup::Setup,
    },
};

const NAME: &str = "key file";

pub(super) async fn check(setup: &Setup, opened: &OpenDatabase, checks: &mut Vec<Check>) {
    let found = match keys::load(setup) {
        Ok(found) => found,
        Err(failure) => {
            checks.push(fail(NAME, failure.what, failure.hint.unwrap_or_default()));
            return;
        }
    };
    let ring = found.as_ref().map(|keys| keys.ring());
    let secrets = async {
        let client = opened.store.client().await?;
        sealed_secrets::status(&client, ring.as_deref()).await
    };
    let secrets = match secrets.await {
        Ok(secrets) => secrets,
        Err(error) => {
            checks.push(fail(NAME, error.to_string(), "see the database's own log"));
            return;
        }
    };
    let path = keys::path(setup).display().to_string();
    let closed: Vec<&str> =
        secrets.iter().filter(|secret| !secret.opens).map(|s| s.name.as_str()).collect();
    checks.push(match ring {
        _ if !closed.is_empty() => fail(
            NAME,
            format!("{path} does not open {}", closed.join(", ")),
            "copy the key file of this installation to it; if it is lost: esh3ar secrets init --new-secrets",
        ),
        Some(ring) => ok(
            NAME,
            format!(
                "{path} has key {}, and all {} sealed secrets open; a copy of it must be kept apart from the \
                 database and its backups",
                ring.current(),
                secrets.len()
            ),
        ),
        None if opened.is_external() => warn(
            NAME,
            format!("there is no {path}: secrets in the database are not sealed, and no backup can be made"),
            "create one with esh3ar secrets init, and set secrets.key_file on every machine",
        ),
        None => ok(NAME, format!("{path} does not exist yet; the next start creates it")),
    });
}
