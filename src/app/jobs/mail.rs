//! Sends mails to the administrators.

use uuid::Uuid;

use crate::{
    app::App,
    domain::{DeadLetterClass, job::JobOutcome},
    mail::{self, Mail},
};

pub(super) async fn perform(app: &App, id: Uuid, subject: String, body: String) -> JobOutcome {
    let class = DeadLetterClass::Provider;
    match app.live().mailer.send(&Mail { id, subject, body }).await {
        Ok(()) => JobOutcome::Done,
        Err(mail::Error::Unreachable(reason)) => JobOutcome::Unreachable { reason },
        Err(mail::Error::Temporary(reason)) => JobOutcome::Failed { class, reason },
        Err(error) => JobOutcome::Rejected { class, reason: error.to_string() },
    }
}
