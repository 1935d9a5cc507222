//! Sends mails to the administrators.

use uuid::Uuid;

use crate::{
    app::Core,
    domain::{DeadLetterClass, job::JobOutcome},
    mail::{self, Mail},
};

pub(in crate::app) async fn perform(
    core: &Core,
    id: Uuid,
    subject: String,
    body: String,
) -> JobOutcome {
    let class = DeadLetterClass::Provider;
    match core.runtime_settings().mailer.send(&Mail { id, subject, body }).await {
        Ok(()) => JobOutcome::Done,
        Err(mail::Error::Unreachable(reason)) => JobOutcome::Unreachable { reason },
        Err(mail::Error::Temporary(reason)) => JobOutcome::Failed { class, reason },
        Err(error) => JobOutcome::Rejected { class, reason: error.to_string() },
    }
}
