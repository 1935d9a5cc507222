//! Making, listing and revoking tokens.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{App, Error, auth};
use crate::{
    domain::{Party, TokenId},
    store::tokens::{self, Listed},
};

/// A new token. It is shown this once and never again.
pub struct Issued {
    /// Names it in lists.
    pub id: TokenId,
    /// The token itself: 256 random bits behind a prefix by which scanners of leaked secrets know it.
    pub token: String,
    /// Until when it is valid; `None` for ever.
    pub expires_at: Option<OffsetDateTime>,
}

/// How long a token is to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the configuration says for its kind.
    Usual,
    /// This long.
    For(Duration),
    /// For ever.
    Endless,
}

impl App {
    /// Makes a token for a business user or a phone. Whether they exist is the caller's to know.
    ///
    /// # Errors
    /// [`Error::Internal`] without randomness; failures of the database.
    pub async fn issue_token(&self, owner: &Party, lifetime: Lifetime) -> Result<Issued, Error> {
        let mut random = [0; 32];
        SystemRandom::new().fill(&mut random).map_err(|_| Error::Internal)?;
        let token = format!("esh_{}", URL_SAFE_NO_PAD.encode(random));
        let now = self.clock().now();
        let lifetime = match (lifetime, owner) {
            (Lifetime::Endless, _) | (Lifetime::Usual, Party::Business(_)) => None,
            (Lifetime::For(duration), _) => Some(duration),
            (Lifetime::Usual, Party::Mobile(_)) => Some(self.settings().access_token_ttl),
        };
        let expires_at = lifetime.and_then(|lifetime| {
            now.checked_add(time::Duration::try_from(lifetime).unwrap_or(time::Duration::MAX))
        });
        let id = TokenId(Uuid::now_v7());
        let client = self.store().client().await?;
        tokens::insert(&client, id, &auth::hash(&token), owner, now, expires_at).await?;
        Ok(Issued { id, token, expires_at })
    }

    /// Tokens of one owner or of everybody, newest first; never the tokens themselves.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_tokens(&self, owner: Option<&Party>) -> Result<Vec<Listed>, Error> {
        Ok(tokens::list(&self.store().client().await?, owner, 1000).await?)
    }

    /// Revokes a token: it opens nothing from within a second on.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn revoke_token(&self, id: TokenId) -> Result<(), Error> {
        if tokens::revoke(&self.store().client().await?, id, self.clock().now()).await? {
            Ok(())
        } else {
            Err(Error::NotFound("token"))
        }
    }
}
