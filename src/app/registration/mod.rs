//! Registration: a phone proves its number with a one-time code, and gets a token.
//!
//! Everything that is decided is decided by rows of Postgres, so that gateways and restarts decide alike. A
//! request does the same for every number: whether anything is sent is the job's to find out.

pub mod channel;
mod code;
mod send;
mod verify;

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use time::OffsetDateTime;
use uuid::Uuid;

use self::{channel::Channel, code::CodeKey};
use super::{Core, Error, clock::new_id, identity::IdentityService};
use crate::{
    domain::{
        Phone,
        job::JobPayload,
        registration::{
            AppPlatform, CodeRoute, TextLocale,
            counts::{self, COUNTS_TTL, CountScope, SendVerdict, period_of},
            is_repeated, resend_wait,
        },
    },
    store::{
        self, StatementGroup, Statements, Transaction,
        jobs::{self, NewJob},
        registration_counts::{self, CountChange, CountKey},
        registrations::{self, NewCode, NewRegistration, StoredRegistration},
    },
};

/// How many expired rows are deleted at once.
const BATCH_SIZE: i64 = 500;
/// How long a registration is kept after its code expired.
const REGISTRATION_TTL: Duration = Duration::from_secs(24 * 3600);

/// Why a registration is refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("phone {0}")]
    InvalidPhone(String),
    #[error("numbers of this country cannot register here")]
    CountryNotAllowed,
    /// A limit is reached, or the country is paused. Which one is not told.
    #[error("too many codes were asked for; try again later")]
    Limited { retry_after: Duration },
    #[error("a code was sent a moment ago; wait before the next")]
    ResendTooEarly { retry_after: Duration },
    /// Wrong, unknown, expired or used up.
    #[error("the code is not valid")]
    InvalidCode,
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<store::Error> for RegistrationError {
    /// Whatever keeps the counts from being read, nothing is sent without them.
    fn from(error: store::Error) -> Self {
        RegistrationError::Failed(match Error::from(error) {
            Error::Internal | Error::Conflict(_) => Error::Unavailable,
            other => other,
        })
    }
}

/// What an app asks for.
#[derive(Clone, Copy, Debug)]
pub struct RegistrationRequest<'a> {
    /// The number as it was written.
    pub phone: &'a str,
    pub platform: Option<AppPlatform>,
    /// `None`: the way that is configured.
    pub route: Option<CodeRoute>,
    pub locale: Option<TextLocale>,
    /// The client's address.
    pub peer: Option<IpAddr>,
}

/// What an app is told, whether or not anything is sent.
#[derive(Clone, Copy, Debug)]
pub struct RegistrationReceipt {
    pub id: Uuid,
    /// The end of the code.
    pub expires_at: OffsetDateTime,
    /// How long until a resend may be asked for.
    pub resend_after: Duration,
    pub route: CodeRoute,
}

/// Registers phones. Cheap to clone.
#[derive(Clone)]
pub struct RegistrationService {
    core: Core,
    identity: IdentityService,
}

/// What the sends of a registration are counted for.
struct Counted<'a> {
    phone: &'a Phone,
    country: &'a str,
    network: &'a str,
}

impl Counted<'_> {
    fn keys(&self) -> [CountKey<'_>; 5] {
        let number = self.phone.as_str();
        [
            (CountScope::Phone, number),
            (CountScope::Prefix, counts::prefix_of(number)),
            (CountScope::Address, self.network),
            (CountScope::Country, self.country),
            (CountScope::Total, ""),
        ]
    }
}

impl RegistrationService {
    pub(super) fn new(core: &Core, identity: &IdentityService) -> RegistrationService {
        RegistrationService { core: core.clone(), identity: identity.clone() }
    }

    /// The key that derives new codes, and its id.
    fn new_key(&self) -> Result<(CodeKey, Vec<u8>), RegistrationError> {
        let made = self.core.keys().and_then(|keys| {
            let ring = keys.ring();
            let id = ring.current();
            Some((CodeKey::of(&ring, &id)?, id.as_bytes().to_vec()))
        });
        made.ok_or_else(|| {
            tracing::error!("registration needs a key file: run esh3ar secrets init");
            Error::Away("the key file").into()
        })
    }

    /// Asks for a code.
    ///
    /// # Errors
    /// [`RegistrationError`]; the same for every number that may be asked for.
    pub async fn request(
        &self,
        asked: RegistrationRequest<'_>,
    ) -> Result<RegistrationReceipt, RegistrationError> {
        let phone = self.phone(asked.phone)?;
        let settings = self.core.runtime_settings();
        let country = phone.country().unwrap_or("001");
        if !settings.otp.allows(country, self.core.settings().default_region) {
            return Err(RegistrationError::CountryNotAllowed);
        }
        let network = network_of(asked.peer);
        let counted = Counted { phone: &phone, country, network: &network };
        let now = self.core.clock().now();
        let mut client = self.core.store().client_for(StatementGroup::Access).await?;
        // Without the lock first: those beyond a limit do not make the others wait.
        if let SendVerdict::Refused { until, scope } = self.judge(&client, &counted, now).await? {
            return Err(limited(scope, until, now));
        }
        let transaction = client.transaction().await?;
        registration_counts::lock(&transaction).await?;
        // Time passes while it waits.
        let now = self.core.clock().now();
        let transaction = self.admit(transaction, &counted, now).await?;
        let (code_id, expires_at) = self.code_for(&transaction, &phone, now).await?;
        let route = asked.route.unwrap_or_else(|| Channel::default_route(&self.core));
        let resend_after = resend_wait(1);
        let id = new_id();
        let new = NewRegistration {
            id,
            code_id,
            phone: &phone,
            country,
            network: &network,
            route,
            platform: asked.platform,
            locale: asked.locale,
            created_at: now,
            resend_at: now + resend_after,
            counted: period_of(now),
        };
        registrations::add(&transaction, &new).await?;
        self.count_and_enqueue(&transaction, &counted, id, now).await?;
        self.core.failpoint("registration_before_commit");
        transaction.commit().await?;
        Ok(RegistrationReceipt { id, expires_at, resend_after, route })
    }

    /// Asks for the code of a registration again. What is unknown or verified is answered alike.
    ///
    /// # Errors
    /// [`RegistrationError::ResendTooEarly`], [`RegistrationError::Limited`]; failures of the database.
    pub async fn resend(&self, id: Uuid) -> Result<RegistrationReceipt, RegistrationError> {
        let mut client = self.core.store().client_for(StatementGroup::Access).await?;
        // Without the lock first: neither guessed ids nor impatience make the others wait.
        if self.due_for_resend(&client, id).await?.is_none() {
            return Ok(self.receipt_of_unknown(id));
        }
        let transaction = client.transaction().await?;
        registration_counts::lock(&transaction).await?;
        let Some(found) = self.due_for_resend(&transaction, id).await? else {
            return Ok(self.receipt_of_unknown(id));
        };
        let now = self.core.clock().now();
        let (country, network) = (found.country.as_str(), found.network.as_str());
        let counted = Counted { phone: &found.phone, country, network };
        let transaction = self.admit(transaction, &counted, now).await?;
        let (code_id, expires_at) = self.code_for(&transaction, &found.phone, now).await?;
        let resend_after = resend_wait(found.sends + 1);
        let (resend_at, period) = (now + resend_after, period_of(now));
        registrations::sent_again(&transaction, id, code_id, resend_at, period).await?;
        self.count_and_enqueue(&transaction, &counted, id, now).await?;
        transaction.commit().await?;
        Ok(RegistrationReceipt { id, expires_at, resend_after, route: found.route })
    }

    /// The same for the newest registration of a number, for clients that know no id. Without one nothing is
    /// sent.
    ///
    /// # Errors
    /// As [`RegistrationService::resend`].
    pub async fn resend_to(&self, phone: &str) -> Result<(), RegistrationError> {
        let phone = self.phone(phone)?;
        let client = self.core.store().client_for(StatementGroup::Access).await?;
        let newest = registrations::newest_of(&client, &phone).await?;
        drop(client);
        match newest {
            Some(id) => self.resend(id).await.map(drop),
            None => Ok(()),
        }
    }

    /// Deletes what expired. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn expire(&self) -> Result<bool, Error> {
        let now = self.core.clock().now();
        let client = self.core.store().client_for(StatementGroup::Upkeep).await?;
        let codes = registrations::expire(&client, now - REGISTRATION_TTL, BATCH_SIZE).await?;
        let counts = registration_counts::expire(&client, now - COUNTS_TTL, BATCH_SIZE).await?;
        Ok(codes.max(counts) >= BATCH_SIZE.unsigned_abs())
    }

    fn phone(&self, text: &str) -> Result<Phone, RegistrationError> {
        Phone::parse(text, self.core.settings().default_region)
            .map_err(|why| RegistrationError::InvalidPhone(why.to_string()))
    }

    async fn judge(
        &self,
        client: &impl Statements,
        counted: &Counted<'_>,
        now: OffsetDateTime,
    ) -> Result<SendVerdict, RegistrationError> {
        let oldest = counts::oldest_counted(now);
        let counts = registration_counts::counts(client, &counted.keys(), oldest).await?;
        let paused = registration_counts::paused_until(client, counted.country).await?;
        let limits = self.core.runtime_settings().otp.limits();
        Ok(counts::judge(&counts, &limits, paused, now))
    }

    /// The answer for a registration that there is not, as for one that there is.
    fn receipt_of_unknown(&self, id: Uuid) -> RegistrationReceipt {
        RegistrationReceipt {
            id,
            expires_at: self.core.clock().now() + self.core.runtime_settings().otp.ttl,
            resend_after: resend_wait(1),
            route: Channel::default_route(&self.core),
        }
    }

    /// A registration whose code may be sent again now; `None` if it is unknown or verified.
    async fn due_for_resend(
        &self,
        client: &impl Statements,
        id: Uuid,
    ) -> Result<Option<StoredRegistration>, RegistrationError> {
        let found = registrations::find(client, id).await?;
        let found = found.filter(|found| found.verified_at.is_none());
        let now = self.core.clock().now();
        if let Some(early) = found.as_ref().filter(|found| found.resend_at > now) {
            let retry_after = Duration::try_from(early.resend_at - now).unwrap_or_default();
            return Err(RegistrationError::ResendTooEarly { retry_after });
        }
        Ok(found)
    }

    /// The code to send to a phone, and its end: the one that has life left, or a new one, which ends the
    /// others.
    async fn code_for(
        &self,
        client: &impl Statements,
        phone: &Phone,
        now: OffsetDateTime,
    ) -> Result<(Uuid, OffsetDateTime), RegistrationError> {
        let live = registrations::live_code(client, phone, now).await?;
        if let Some(code) = live.filter(|code| is_repeated(code.expires_at, code.tries, now)) {
            return Ok((code.id, code.expires_at));
        }
        let (key, key_id) = self.new_key()?;
        let (id, expires_at) = (new_id(), now + self.core.runtime_settings().otp.ttl);
        let hmac = key.stored(id, phone, &key.derive(id));
        registrations::end_codes(client, phone, now).await?;
        let (key_id, hmac) = (key_id.as_slice(), hmac.as_slice());
        let new = NewCode { id, phone, key_id, hmac, created_at: now, expires_at };
        registrations::add_code(client, &new).await?;
        Ok((id, expires_at))
    }

    async fn count_and_enqueue(
        &self,
        client: &impl Statements,
        counted: &Counted<'_>,
        registration: Uuid,
        now: OffsetDateTime,
    ) -> Result<(), RegistrationError> {
        let period = period_of(now);
        let change = |key| CountChange { key, period, sends: 1, verified: 0, failures: 0 };
        registration_counts::add(client, &counted.keys().map(change)).await?;
        let job = NewJob {
            id: new_id(),
            work: JobPayload::Otp { registration },
            message: None,
            unique_key: None,
            run_at: now,
        };
        jobs::enqueue(client, &job, now).await?;
        Ok(())
    }

    /// The transaction, if the send may happen in it. A country that is paused now stays so.
    async fn admit<'a>(
        &self,
        transaction: Transaction<'a>,
        counted: &Counted<'_>,
        now: OffsetDateTime,
    ) -> Result<Transaction<'a>, RegistrationError> {
        match self.judge(&transaction, counted, now).await? {
            SendVerdict::Allowed => Ok(transaction),
            SendVerdict::Refused { until, scope } => Err(limited(scope, until, now)),
            SendVerdict::Pause { until } => {
                registration_counts::pause(&transaction, counted.country, until).await?;
                self.report_pause(&transaction, counted.country, now).await?;
                transaction.commit().await?;
                Err(limited(CountScope::Country, until, now))
            }
        }
    }

    /// Tells the administrators that a country is paused.
    async fn report_pause(
        &self,
        client: &impl Statements,
        country: &str,
        now: OffsetDateTime,
    ) -> Result<(), RegistrationError> {
        tracing::warn!(country, "registration is paused: few of the codes sent are verified");
        let subject = format!("esh3ar: registration is paused for {country}");
        let body = format!(
            "Less than 20 % of the codes sent to {country} in the last hour were verified: somebody may be \
             making you pay for messages.\r\n\r\nNothing is sent to {country} for one hour. To stop it for \
             longer, remove {country} from otp.countries and run: esh3ar reload\r\n"
        );
        let job = NewJob {
            id: new_id(),
            work: JobPayload::Mail { subject, body },
            message: None,
            unique_key: None,
            run_at: now,
        };
        jobs::enqueue(client, &job, now).await?;
        Ok(())
    }
}

fn limited(scope: CountScope, until: OffsetDateTime, now: OffsetDateTime) -> RegistrationError {
    tracing::debug!(scope = scope.name(), "registration refused");
    let retry_after = Duration::try_from(until - now).unwrap_or(Duration::from_secs(1));
    RegistrationError::Limited { retry_after }
}

/// An address as limits count it: for IPv6 the /64 network, because one host has 2^64 addresses. A request
/// without an address is counted with all such.
fn network_of(peer: Option<IpAddr>) -> String {
    match peer.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => {
            let first = Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX));
            format!("{first}/64")
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_counted_once() {
        let of = |text: &str| network_of(Some(text.parse().unwrap()));
        assert_eq!(of("203.0.113.9"), "203.0.113.9");
        assert_eq!(of("::ffff:203.0.113.9"), "203.0.113.9");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(network_of(None), "");
    }
}
