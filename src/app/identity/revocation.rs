//! Connections from outside the hub: what their tokens are signed with, and the end of those whose
//! access was taken back, and the permissions of the others.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use time::OffsetDateTime;

use super::IdentityService;
use crate::app::{
    Error,
    sealed_secrets::{self, SecretsError},
};
use crate::secrets::KeyStore;
use crate::store::{StatementGroup, Store, access_changes, tokens};

/// How far back is looked again. A connection takes its seat up to 15 s after its token was looked at
/// (the handshake's timeout), a look-up is believed for 1 s, and the clocks of an installation's
/// machines may differ by some more. What was seen before is seen again, and does no harm.
const REVOCATION_OVERLAP: Duration = Duration::from_secs(30);

/// What connection tokens are signed with, and what the keys for Redis are derived from.
///
/// # Errors
/// [`Error::Internal`] without randomness, or if the secret does not open; failures of the database.
pub async fn connection_secret(
    store: &Store,
    keys: Option<&KeyStore>,
    now: OffsetDateTime,
) -> Result<Vec<u8>, Error> {
    let client = store.client_for(StatementGroup::Access).await?;
    let secret = sealed_secrets::find_or_create(&client, keys, "connection_tokens", now).await;
    Ok(secret.map_err(internal)?.to_vec())
}

impl IdentityService {
    /// What connection tokens are signed with, on every node of the installation.
    ///
    /// # Errors
    /// [`Error::Internal`] without randomness; failures of the database.
    pub async fn connection_secret(&self) -> Result<Vec<u8>, Error> {
        connection_secret(self.core.store(), self.core.keys(), self.core.clock().now()).await
    }

    /// Replaces the plain values of sealed secrets, once no process of an earlier version needs them.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn clear_plain_secrets(&self) -> Result<(), Error> {
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let cleared = sealed_secrets::clear_plain(&client).await.map_err(internal)?;
        if cleared > 0 {
            tracing::info!(cleared, "secrets are in the database in sealed form only");
        }
        Ok(())
    }

    /// Applies to open connections what changed after `since`: closes those whose tokens were revoked or whose
    /// owners were disabled, and gives the others the permissions and content policies that their users have now. Returns until
    /// when it looked.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn apply_access_changes(
        &self,
        since: OffsetDateTime,
    ) -> Result<OffsetDateTime, Error> {
        let now = self.core.clock().now();
        if self.core.presence().local().connections()
            + self.core.diagnostic_connections().connections()
            == 0
        {
            return Ok(now);
        }
        let client = self.core.store().client_for(StatementGroup::Nodes).await?;
        let since = since - REVOCATION_OVERLAP;
        let last = (now - since).try_into().unwrap_or(REVOCATION_OVERLAP);
        let changes = access_changes::within(&client, last).await?;
        let revoked = tokens::revoked_since(&client, since, now).await?;
        let revoked: HashSet<_> = revoked.into_iter().collect();
        if !revoked.is_empty() {
            // First, so that nobody comes back through what is still believed.
            self.state.known_tokens.forget(&revoked);
            self.core.presence().local().close_tokens(&revoked);
            self.core.diagnostic_connections().close_tokens(&revoked);
        }
        let policies = changes.iter().map(|change| (change.user, change.content_policy));
        self.set_policies(&policies.collect());
        let changed: HashMap<_, _> =
            changes.into_iter().map(|change| (change.user, change.permissions)).collect();
        if !changed.is_empty() {
            self.state.known_tokens.set_permissions(&changed);
            for (user, permissions) in changed {
                self.core.presence().local().set_permissions(user, permissions);
                self.core.diagnostic_connections().set_permissions(user, permissions);
            }
        }
        Ok(now)
    }
}

/// The start of the process has checked that every secret opens.
fn internal(error: SecretsError) -> Error {
    match error {
        SecretsError::Store(error) => error.into(),
        error => {
            tracing::error!(%error, "a secret cannot be used");
            Error::Internal
        }
    }
}
