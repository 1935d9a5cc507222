//! Tells the administrators of new dead letters.

use super::JobService;
use crate::app::{Error, clock::new_id};
use crate::{
    domain::{
        Phone,
        job::{JobKind, JobPayload},
    },
    store::{
        StatementGroup,
        dead_letter_digest::{self, DeadLetterDigest},
        jobs::{self, NewJob},
    },
};

/// How many dead letters a mail shows one by one.
const MAX_SHOWN: usize = 10;

impl JobService {
    /// Tells the administrators of new dead letters, all in one mail and not more often than
    /// configured. Returns whether a mail is on its way.
    ///
    /// # Errors
    /// Failures of the database; then they are told the next time.
    pub async fn send_notices(&self) -> Result<bool, Error> {
        let now = self.core.clock().now();
        let mut client = self.core.store().client_for(StatementGroup::Jobs).await?;
        let transaction = client.transaction().await?;
        let interval = self.core.runtime_settings().alert_interval;
        let gathered =
            dead_letter_digest::claim_dead_letters(&transaction, now, interval, MAX_SHOWN).await?;
        if gathered.counts.is_empty() {
            return Ok(false);
        }
        let (subject, body) = compose(&gathered);
        let job = NewJob {
            id: new_id(),
            work: JobPayload::Mail { subject, body },
            message: None,
            unique_key: None,
            run_at: now,
        };
        jobs::enqueue(&transaction, &job, now).await?;
        self.core.failpoint("notices_before_commit");
        transaction.commit().await?;
        self.state.wake(JobKind::Mail);
        Ok(true)
    }
}

/// The mail about dead letters. Phone numbers are masked: mail travels in the open.
fn compose(gathered: &DeadLetterDigest) -> (String, String) {
    let count: i64 = gathered.counts.iter().map(|(_, _, count)| count).sum();
    let letters = if count == 1 { "dead letter" } else { "dead letters" };
    let subject = format!("esh3ar: {count} new {letters}");
    let mut lines = vec![format!("{count} new {letters}:"), String::new()];
    for (kind, class, count) in &gathered.counts {
        lines.push(format!("  {count:>6}  {kind}, {class}"));
    }
    lines.extend([String::new(), "The newest:".to_owned(), String::new()]);
    for letter in &gathered.newest {
        let to = letter.to.as_ref().map_or_else(String::new, |to: &Phone| format!(" to {to:?}"));
        let at = letter.last_error_at;
        let at = format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute());
        lines.push(format!("  {at}  {}{to}: {}", letter.kind, letter.reason));
        if let Some(message) = letter.message {
            lines.push(format!("      esh3ar message explain {message}"));
        }
        lines.push(format!("      esh3ar dlq requeue {}", letter.id));
    }
    lines.extend([
        String::new(),
        "All of them: esh3ar dlq list".to_owned(),
        "Put back: esh3ar dlq requeue --all".to_owned(),
        String::new(),
    ]);
    (subject, lines.join("\r\n"))
}
