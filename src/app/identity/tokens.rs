//! Making, listing, replacing and revoking tokens.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;

use super::{IdentityService, auth, token_form};
use crate::app::{By, Error, audit_log::Listing, clock::new_id};
use crate::{
    domain::{
        Party, Permission, TokenId,
        audit::{AuditAction, AuditEntry},
    },
    store::{
        Statements,
        accounts::{self, MobileStatus},
        audit,
        tokens::{self, TokenInfo},
    },
};

/// A new token. It is shown this once and never again.
pub struct Issued {
    /// Names it in lists.
    pub id: TokenId,
    /// The token itself: 256 random bits behind a prefix by which scanners of leaked secrets know it, and a
    /// checksum.
    pub token: String,
    /// Until when it is valid; `None`: it does not expire.
    pub expires_at: Option<OffsetDateTime>,
}

/// A token that took another's place.
pub struct Rotated {
    pub issued: Issued,
    /// The one that it replaces.
    pub replaces: TokenId,
    /// Until when that one opens things as well.
    pub old_until: OffsetDateTime,
}

/// How long a token is to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the configuration says for its kind.
    Usual,
    For(Duration),
    /// It does not expire.
    Endless,
}

/// A fresh token and its id.
fn fresh() -> Result<(TokenId, String), Error> {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| Error::Internal)?;
    Ok((TokenId(new_id()), token_form::of(&random)))
}

impl IdentityService {
    /// Whom a token is to be for, or whose are meant: a business user by name or id, or a phone; `None`
    /// when neither is named.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both, [`Error::NotFound`]; with `making` [`Error::Conflict`] for who
    /// cannot come in.
    pub async fn token_owner(
        &self,
        user: Option<&str>,
        mobile: Option<&str>,
        making: bool,
    ) -> Result<Option<Party>, Error> {
        match (user, mobile) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                Err(Error::field("mobile", "one_owner", "a token is a user's or a phone's"))
            }
            (Some(name), None) => {
                let user = self.find_user(name).await?;
                if making && user.disabled_at.is_some() {
                    return Err(Error::Conflict(format!("{} is disabled", user.name)));
                }
                Ok(Some(Party::Business(user.id)))
            }
            (None, Some(number)) => {
                // What was stored by earlier rules can be looked at.
                let phone = match making {
                    true => self.parse_phone("mobile", number)?,
                    false => self.parse_stored_phone("mobile", number)?,
                };
                let user = self.find_mobile(&phone).await?;
                if making && user.blocked_at.is_some() {
                    return Err(Error::Conflict("the mobile user is blocked".to_owned()));
                }
                if making && user.status != MobileStatus::Verified {
                    let status = user.status.name();
                    let text = format!("the mobile user is {status}, not verified");
                    return Err(Error::Conflict(text));
                }
                Ok(Some(Party::Mobile(phone)))
            }
        }
    }

    /// When a token that is made now is to end.
    fn end_of(
        &self,
        owner: &Party,
        administers: bool,
        lifetime: Lifetime,
        now: OffsetDateTime,
    ) -> Option<OffsetDateTime> {
        let lifetime = match (lifetime, owner) {
            (Lifetime::Usual, Party::Business(_)) if administers => {
                self.core.runtime_settings().admin_token_ttl
            }
            (Lifetime::Endless, _) | (Lifetime::Usual, Party::Business(_)) => None,
            (Lifetime::For(duration), _) => Some(duration),
            (Lifetime::Usual, Party::Mobile(_)) => {
                Some(self.core.runtime_settings().access_token_ttl)
            }
        };
        lifetime.and_then(|lifetime| {
            now.checked_add(time::Duration::try_from(lifetime).unwrap_or(time::Duration::MAX))
        })
    }

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
        let (id, token) = fresh()?;
        let now = self.core.clock().now();
        let entry = held_by(self.core.entry(by, AuditAction::TokenCreate).of(id), owner);
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let user = match owner {
            Party::Business(id) => accounts::lock_user(&transaction, *id).await?,
            Party::Mobile(_) => None,
        };
        let administers = user.is_some_and(|user| user.permissions.has(Permission::Admin));
        let expires_at = self.end_of(owner, administers, lifetime, now);
        tokens::insert(&transaction, id, &auth::hash(&token), owner, now, expires_at).await?;
        audit::commit(transaction, &[entry]).await?;
        Ok(Issued { id, token, expires_at })
    }

    /// Makes a token of the usual lifetime for a phone, in a transaction whose audit entry the caller writes.
    ///
    /// # Errors
    /// [`Error::Internal`] without randomness; failures of the database.
    pub(in crate::app) async fn issue_within(
        &self,
        transaction: &impl Statements,
        owner: &Party,
        now: OffsetDateTime,
    ) -> Result<Issued, Error> {
        let (id, token) = fresh()?;
        let expires_at = self.end_of(owner, false, Lifetime::Usual, now);
        tokens::insert(transaction, id, &auth::hash(&token), owner, now, expires_at).await?;
        Ok(Issued { id, token, expires_at })
    }

    /// Replaces a token by a new one of the same holder; the old one is valid for `overlap` longer at
    /// most, without one not at all. Without a lifetime the new one lives as long as the old one was to.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] for one that opens nothing, or was replaced before;
    /// failures of the database.
    pub async fn rotate_token(
        &self,
        by: &By,
        id: TokenId,
        overlap: Duration,
        lifetime: Option<Lifetime>,
    ) -> Result<Rotated, Error> {
        let entry = self.core.entry(by, AuditAction::TokenRotate).of(id);
        let (fresh_id, token) = fresh()?;
        let now = self.core.clock().now();
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let held = tokens::lock(&transaction, id, now).await?;
        let refused = match &held {
            None => Some(Error::NotFound("token")),
            Some(held) if held.replaced => {
                Some(Error::Conflict("the token was replaced before".to_owned()))
            }
            Some(held) if !held.valid => {
                let text = "the token opens nothing any more; make a new one";
                Some(Error::Conflict(text.to_owned()))
            }
            Some(_) => None,
        };
        let (None, Some(held)) = (&refused, held) else {
            drop(transaction);
            drop(client);
            return self.core.record_end(entry, Err(refused.unwrap_or(Error::Internal))).await;
        };
        let expires_at = match lifetime {
            Some(lifetime) => self.end_of(&held.owner, held.of_administrator, lifetime, now),
            None => held.expires_at.and_then(|end| now.checked_add(end - held.created_at)),
        };
        let overlap = time::Duration::try_from(overlap).unwrap_or(time::Duration::MAX);
        let old_until = now.checked_add(overlap).unwrap_or(now);
        let old_until = held.expires_at.map_or(old_until, |end| end.min(old_until));
        let hash = auth::hash(&token);
        tokens::insert(&transaction, fresh_id, &hash, &held.owner, now, expires_at).await?;
        if overlap.is_zero() {
            tokens::revoke(&transaction, id, now).await?;
        } else {
            tokens::retire(&transaction, id, old_until).await?;
        }
        let entry = held_by(entry, &held.owner)
            .with("newToken", fresh_id.to_string())
            .with("overlapSeconds", usize::try_from(overlap.whole_seconds()).unwrap_or_default());
        audit::commit(transaction, &[entry]).await?;
        let issued = Issued { id: fresh_id, token, expires_at };
        Ok(Rotated { issued, replaces: id, old_until })
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
    ) -> Result<Listing<TokenInfo>, Error> {
        let client = self.core.store().of(by.party().as_ref()).client().await?;
        let found = tokens::list(&client, owner, before, limit + 1).await?;
        drop(client);
        let found = Listing::of(found, limit);
        let mut entry = self.core.entry(by, AuditAction::TokenList);
        if let Some(owner) = owner {
            entry = held_by(entry, owner);
        }
        let asked = entry.phones.clone();
        let phones = found.items.iter().filter_map(|token| token.phone.as_ref());
        let entry = entry.about(phones.chain(&asked)).with("shown", found.items.len());
        self.core.record(entry).await?;
        Ok(found)
    }

    /// How many valid tokens of administrators end within a time, and how many never end.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count_ending_admin_tokens(&self, within: Duration) -> Result<(i64, i64), Error> {
        let now = self.core.clock().now();
        let client = self.core.store().client().await?;
        Ok(tokens::admin_ends(&client, now, now + within).await?)
    }

    /// A token, to be shown; never the token itself.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn show_token(&self, by: &By, id: TokenId) -> Result<TokenInfo, Error> {
        let client = self.core.store().of(by.party().as_ref()).client().await?;
        let found = tokens::show(&client, id).await?.ok_or(Error::NotFound("token"));
        drop(client);
        let mut entry = self.core.entry(by, AuditAction::TokenShow).of(id);
        if let Ok(token) = &found {
            entry = entry.about(&token.phone);
        }
        self.core.record_end(entry, found).await
    }

    /// Revokes every token of an owner: they open nothing from within a second on. Returns how many were
    /// valid.
    ///
    /// # Errors
    /// [`Error::Conflict`] when nobody could administer over the API then, unless `even_last_admin`;
    /// failures of the database.
    pub async fn revoke_tokens_of(
        &self,
        by: &By,
        owner: &Party,
        even_last_admin: bool,
    ) -> Result<u64, Error> {
        let mut entry = held_by(self.core.entry(by, AuditAction::TokenRevoke), owner);
        let now = self.core.clock().now();
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let user = match owner {
            Party::Business(id) => accounts::lock_user(&transaction, *id).await?,
            Party::Mobile(_) => None,
        };
        let administers = user
            .filter(|user| user.permissions.has(Permission::Admin) && user.disabled_at.is_none());
        // Tokens are locked before the administrators, as when one is revoked.
        let revoked = tokens::revoke_all(&transaction, owner, now).await?;
        let last = match &administers {
            Some(user) => !accounts::has_other_administrator(&transaction, user.id, now).await?,
            None => false,
        };
        // Without a valid one nothing is lost.
        if last && revoked > 0 {
            entry = entry.with("lastAdmin", true);
            if !even_last_admin {
                drop(transaction);
                drop(client);
                let text = "these are the last tokens that may administer; make another one first";
                return self.core.record_end(entry, Err(Error::Conflict(text.to_owned()))).await;
            }
        }
        let entry = entry.with("revoked", usize::try_from(revoked).unwrap_or(usize::MAX));
        audit::commit(transaction, &[entry]).await?;
        Ok(revoked)
    }

    /// Revokes a token: it opens nothing from within a second on. The last that may administer is not
    /// revoked by mistake.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] for the last administrator's last, unless
    /// `even_last_admin`; failures of the database.
    pub async fn revoke_token(
        &self,
        by: &By,
        id: TokenId,
        even_last_admin: bool,
    ) -> Result<(), Error> {
        let mut entry = self.core.entry(by, AuditAction::TokenRevoke).of(id);
        let now = self.core.clock().now();
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let held = tokens::lock(&transaction, id, now).await?;
        let mut refused = None;
        match &held {
            None => refused = Some(Error::NotFound("token")),
            Some(held) => {
                entry = held_by(entry, &held.owner);
                if held.valid
                    && held.of_administrator
                    && !tokens::has_other_of_administrator(&transaction, id, now).await?
                {
                    entry = entry.with("lastAdmin", true);
                    let text = "it is the last token that may administer; make another one first";
                    refused = (!even_last_admin).then(|| Error::Conflict(text.to_owned()));
                }
            }
        }
        if let Some(refused) = refused {
            drop(transaction);
            drop(client);
            return self.core.record_end(entry, Err(refused)).await;
        }
        tokens::revoke(&transaction, id, now).await?;
        audit::commit(transaction, &[entry]).await?;
        Ok(())
    }
}

/// Whose token an entry is about.
fn held_by(entry: AuditEntry, owner: &Party) -> AuditEntry {
    match owner {
        Party::Business(id) => entry.with("user", id.to_string()),
        Party::Mobile(phone) => entry.about([phone]),
    }
}
