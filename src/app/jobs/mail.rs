//! Sends mails to the administrators.

use uuid::Uuid;

use crate::{
    app::Core,
    domain::{DeadLetterClass, job::Attempted},
    mail::{self, Mail},
};

pub(in crate::app) async fn perform(
    core: &Core,
    id: Uuid,
    subject: String,
    body: String,
) -> Attempted {
    let class = DeadLetterClass::Provider;
    match core.runtime_settings().mailer.send(&Mail { id, subject, body }).await {
        Ok(()) => Attempted::Done,
        Err(mail::Error::Unreachable(reason)) => Attempted::Unreachable { reason },
        Err(mail::Error::Temporary(reason)) => Attempted::Failed { class, reason },
        Err(error) => Attempted::Rejected { class, reason: error.to_string() },
    }
}
