//! Sends mails to the administrators.

use uuid::Uuid;

use crate::{
    app::App,
    domain::{DeadLetterClass, job::Attempted},
    mail::{self, Mail},
};

pub(super) async fn perform(app: &App, id: Uuid, subject: String, body: String) -> Attempted {
    let class = DeadLetterClass::Provider;
    match app.live().mailer.send(&Mail { id, subject, body }).await {
        Ok(()) => Attempted::Done,
        Err(mail::Error::Unreachable(reason)) => Attempted::Unreachable { reason },
        Err(mail::Error::Temporary(reason)) => Attempted::Failed { class, reason },
        Err(error) => Attempted::Rejected { class, reason: error.to_string() },
    }
}
