//! Making, listing and revoking tokens.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{App, By, Error, auth};
use crate::{
    domain::{
        Party, TokenId,
        audit::{Action, Entry},
    },
    store::{
        audit,
        tokens::{self, Listed},
    },
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
    pub async fn issue_token(
        &self,
        by: &By,
        owner: &Party,
        lifetime: Lifetime,
    ) -> Result<Issued, Error> {
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
        let entry = held_by(self.entry(by, Action::TokenCreate).of(id), owner);
        let mut client = self.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        tokens::insert(&transaction, id, &auth::hash(&token), owner, now, expires_at).await?;
        audit::commit(transaction, &[entry]).await?;
        Ok(Issued { id, token, expires_at })
    }

    /// Tokens of one owner or of everybody, newest first, before a given one; never the tokens
    /// themselves.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_tokens(
        &self,
        by: &By,
        owner: Option<&Party>,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<Listed>, Error> {
        let client = self.store().client().await?;
        let found = tokens::list(&client, owner, before, limit).await?;
        let mut entry = self.entry(by, Action::TokenList);
        if let Some(owner) = owner {
            entry = held_by(entry, owner);
        }
        let asked = entry.phones.clone();
        let phones = found.iter().filter_map(|token| token.phone.as_ref());
        let entry = entry.about(phones.chain(&asked)).with("shown", found.len());
        self.record(entry).await?;
        Ok(found)
    }

    /// Revokes a token: it opens nothing from within a second on.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn revoke_token(&self, by: &By, id: TokenId) -> Result<(), Error> {
        let entry = self.entry(by, Action::TokenRevoke).of(id);
        let mut client = self.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let Some(owner) = tokens::revoke(&transaction, id, self.clock().now()).await? else {
            drop(transaction);
            drop(client);
            return self.record_end(entry, Err(Error::NotFound("token"))).await;
        };
        audit::commit(transaction, &[held_by(entry, &owner)]).await?;
        Ok(())
    }
}

/// Whose token an entry is about.
fn held_by(entry: Entry, owner: &Party) -> Entry {
    match owner {
        Party::Business(id) => entry.with("user", id.to_string()),
        Party::Mobile(phone) => entry.about([phone]),
    }
}
