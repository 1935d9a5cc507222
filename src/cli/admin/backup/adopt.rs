//! The secrets of a restored database.

use crate::{
    app::{Clock, sealed_secrets},
    cli::{
        io::exit::Failure,
        process::{database::OpenDatabase, keys},
        setup::Setup,
    },
    secrets::{KeyFile, KeyRing},
    store::{Client, Store},
};

/// Seals the restored secrets with the key of this machine, and makes those anew that no known key opens.
pub(super) async fn adopt_secrets(
    setup: &Setup,
    opened: &OpenDatabase,
    store: &Store,
    given: Option<KeyRing>,
) -> Result<(), Failure> {
    let client = store.client().await?;
    let sealed = sealed_secrets::status(&client, given.as_ref()).await?;
    if sealed.is_empty() {
        return Ok(());
    }
    // A key file is made only here, where the old database has no secret that an existing one sealed.
    let own = keys::require(setup, opened).await?;
    adopt(setup, &client, &own.ring(), given).await
}

/// The same for a copy of the private Postgres, in whose place there may have been nothing.
pub(super) async fn adopt_secrets_of_copy(
    setup: &Setup,
    store: &Store,
    given: Option<KeyRing>,
) -> Result<(), Failure> {
    let own = match keys::load(setup)? {
        Some(keys) => (*keys.ring()).clone(),
        None => KeyFile::new(keys::path(setup)).load_or_create(Clock::System.now())?,
    };
    adopt(setup, &store.client().await?, &own, given).await
}

async fn adopt(
    setup: &Setup,
    client: &Client,
    own: &KeyRing,
    given: Option<KeyRing>,
) -> Result<(), Failure> {
    let others: Vec<KeyRing> = given.into_iter().collect();
    for name in sealed_secrets::adopt(client, own, &others).await? {
        setup.output.note(&format!(
            "the secret {name} of the backup opens with no known key; it is made anew when esh3ar starts"
        ));
    }
    Ok(())
}
