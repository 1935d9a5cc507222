//! Sends the code of a registration: the job `otp`.

use uuid::Uuid;

use super::{
    RegistrationError, RegistrationService,
    channel::{Channel, CodeMessage, CodeOutcome},
    verify::is_refused,
};
use crate::{
    domain::{
        DeadLetterClass,
        job::JobOutcome,
        registration::{CodeRoute, text},
    },
    store::{StatementGroup, accounts, registrations},
};

impl RegistrationService {
    /// Sends the code of a registration, unless it ended or its number is refused. Repeating it sends the same
    /// code.
    pub(in crate::app) async fn send_code(&self, job: Uuid, registration: Uuid) -> JobOutcome {
        match self.try_send(job, registration).await {
            Ok(CodeOutcome::Sent | CodeOutcome::Nowhere) => JobOutcome::Done,
            Ok(CodeOutcome::Temporary(reason)) => failed(&reason),
            Ok(CodeOutcome::Permanent(reason)) => {
                // No dead letter: sending it later would be of no use.
                tracing::warn!(%registration, %reason, "a one-time code was not sent");
                JobOutcome::Done
            }
            Err(error) => failed(&error.to_string()),
        }
    }

    async fn try_send(
        &self,
        job: Uuid,
        registration: Uuid,
    ) -> Result<CodeOutcome, RegistrationError> {
        let client = self.core.store().client_for(StatementGroup::Jobs).await?;
        let found = registrations::find(&client, registration).await?;
        let now = self.core.clock().now();
        let is_live = |found: &registrations::StoredRegistration| {
            found.used_at.is_none() && found.verified_at.is_none() && found.expires_at > now
        };
        // Erased, verified meanwhile, or too late to be of use.
        let Some(found) = found.filter(is_live) else { return Ok(CodeOutcome::Nowhere) };
        let user = accounts::find_mobile(&client, &found.phone).await?;
        drop(client);
        if user.as_ref().is_some_and(is_refused) {
            return Ok(CodeOutcome::Nowhere);
        }
        let Some(key) = self.key_of(&found.key_id) else {
            return Ok(CodeOutcome::Temporary("the key of the code is not in the key file".into()));
        };
        let settings = self.core.runtime_settings();
        let rules = &settings.otp;
        let locale = found.locale.unwrap_or(rules.locale);
        let code = key.derive(found.code_id);
        let message = CodeMessage {
            id: job,
            registration,
            phone: &found.phone,
            locale: locale.name(),
            code: &code,
            text: &text::message(rules, locale, found.platform, &code),
            subject: text::mail_subject(locale),
            email: user.as_ref().and_then(|user| user.email.as_deref()),
        };
        if found.route == CodeRoute::Email && message.email.is_none() {
            return Ok(CodeOutcome::Nowhere);
        }
        Ok(Channel::of(&self.core, found.route).send(&message).await)
    }
}

fn failed(reason: &str) -> JobOutcome {
    JobOutcome::Failed { class: DeadLetterClass::Provider, reason: reason.to_owned() }
}
