//! Judging a guess, and what follows from the right one.

use std::net::IpAddr;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{RegistrationError, RegistrationService, code};
use crate::{
    app::{By, clock::new_id, identity::tokens::Issued},
    domain::{
        MobileUserId, Party,
        audit::{Actor, AuditAction},
        registration::{
            MAX_TRIES,
            counts::{self, CountScope, period_of},
        },
    },
    secrets::KeyId,
    store::{
        StatementGroup, Statements,
        accounts::{self, MobileStatus, MobileUser},
        audit,
        registration_counts::{self, CountChange},
        registrations::{self, StoredRegistration},
    },
};

impl RegistrationService {
    /// Judges a guess. The right one makes the number a verified mobile user, and gives a token for it.
    ///
    /// # Errors
    /// [`RegistrationError::InvalidCode`] for a code that is wrong, unknown, expired or used up; failures of
    /// the database.
    pub async fn verify(
        &self,
        id: Uuid,
        guess: &str,
        peer: Option<IpAddr>,
    ) -> Result<Issued, RegistrationError> {
        let now = self.core.clock().now();
        let mut client = self.core.store().client_for(StatementGroup::Access).await?;
        let transaction = audit::begin(&mut client).await?;
        let Some(found) = registrations::try_code(&transaction, id, now, MAX_TRIES).await? else {
            return Err(RegistrationError::InvalidCode);
        };
        // The guesses at all codes of a phone are judged one by one.
        registration_counts::lock_phone(&transaction, found.phone.as_str()).await?;
        let key = (CountScope::Phone, found.phone.as_str());
        let oldest = counts::oldest_counted(now);
        let counted = registration_counts::counts(&transaction, &[key], oldest).await?;
        if counts::has_failed_enough(&counted, now) {
            return Err(RegistrationError::InvalidCode);
        }
        if !self.is_right(&found, guess) {
            let period = period_of(now);
            let failure = CountChange { key, period, sends: 0, verified: 0, failures: 1 };
            registration_counts::add(&transaction, &[failure]).await?;
            // Before the answer: a guess that was answered is counted.
            transaction.commit().await?;
            return Err(RegistrationError::InvalidCode);
        }
        // Locked with the code's row: of concurrent right guesses one uses it.
        if !registrations::use_code(&transaction, &found, now).await? {
            return Err(RegistrationError::InvalidCode);
        }
        let user = accounts::find_mobile(&transaction, &found.phone).await?;
        let is_refused = user.as_ref().is_some_and(is_refused);
        if is_refused {
            transaction.commit().await?;
            return Err(RegistrationError::InvalidCode);
        }
        count_verified(&transaction, &found, now).await?;
        let verified = MobileUser {
            id: MobileUserId(new_id()),
            phone: found.phone.clone(),
            status: MobileStatus::Verified,
            created_at: now,
            blocked_at: None,
            email: None,
        };
        accounts::put_mobiles(&transaction, &[verified]).await?;
        let owner = Party::Mobile(found.phone.clone());
        let issued = self.identity.issue_within(&transaction, &owner, now).await?;
        let actor = Actor::Phone { phone: found.phone.clone(), token: issued.id };
        let entry = By::new(actor)
            .in_request(None, peer)
            .entry(AuditAction::RegistrationVerify, now)
            .of(issued.id)
            .about([&found.phone])
            .with("registration", found.id.to_string())
            .with("channel", found.route.name());
        self.core.failpoint("registration_before_verified");
        audit::commit(transaction, &[entry]).await?;
        Ok(issued)
    }

    fn is_right(&self, found: &StoredRegistration, guess: &str) -> bool {
        let Some(key) = self.key_of(&found.key_id) else { return false };
        code::is_code(guess) && key.matches(found.code_id, &found.phone, guess, &found.hmac)
    }

    /// The key that derived a code; another process may have made a new one, then the key file is read again.
    pub(super) fn key_of(&self, id: &[u8]) -> Option<code::CodeKey> {
        let id = KeyId::from_bytes(id.try_into().ok()?);
        let keys = self.core.keys()?;
        let ring = keys.ring();
        if ring.contains(id) {
            return code::CodeKey::of(&ring, &id);
        }
        match keys.reload() {
            Ok(ring) => code::CodeKey::of(&ring, &id),
            Err(error) => {
                tracing::warn!(%error, "cannot read the key file again");
                None
            }
        }
    }
}

/// Whether a mobile user gets no code and no token.
pub(super) fn is_refused(user: &MobileUser) -> bool {
    user.blocked_at.is_some() || user.status == MobileStatus::Rejected
}

/// Counts a verified code for the guard, and gives back what its sends counted for their address.
async fn count_verified(
    client: &impl Statements,
    found: &StoredRegistration,
    now: OffsetDateTime,
) -> Result<(), RegistrationError> {
    let given_back = found.counted.iter().map(|period| CountChange {
        key: (CountScope::Address, found.network.as_str()),
        period: *period,
        sends: -1,
        verified: 0,
        failures: 0,
    });
    let country = CountChange {
        key: (CountScope::Country, found.country.as_str()),
        period: period_of(now),
        sends: 0,
        verified: 1,
        failures: 0,
    };
    let changes: Vec<CountChange<'_>> = given_back.chain([country]).collect();
    registration_counts::add(client, &changes).await?;
    Ok(())
}
