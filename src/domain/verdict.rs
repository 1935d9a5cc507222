//! What happened to a message, in one sentence, and what to do next.
//!
//! Derives a verdict from facts: the first rule that applies names the cause. The code is stable, for
//! scripts; the sentence is for people.

use time::OffsetDateTime;

use super::{Message, Party, Status};

mod deleted;
mod imported;
mod lost;
mod participant;
#[cfg(test)]
mod tests;

use lost::reason;

pub use imported::{FAILED_BEFORE, MessageImport};

/// A delivery that took no longer than this was prompt.
const PROMPT_DELIVERY: time::Duration = time::Duration::seconds(2);
/// A worker sends a heartbeat every few seconds; without one for this long it is dead.
pub const HEARTBEAT_TIMEOUT: time::Duration = time::Duration::seconds(20);

/// An exceptional event of the message, such as a retry.
#[derive(Clone, Debug)]
pub struct MessageEvent {
    /// When; for a repeated event, the last time.
    pub at: OffsetDateTime,
    /// How often.
    pub count: u32,
    /// The kind; see `delivery_events.kind`.
    pub kind: String,
    /// More about it.
    pub detail: String,
}

/// Facts about the recipient.
#[derive(Clone, Debug, Default)]
pub struct RecipientFacts {
    /// Whether it ever had an access token.
    pub had_token: bool,
    /// Whether it has a valid token now.
    pub has_valid_token: bool,
    /// When it last connected.
    pub connected_at: Option<OffsetDateTime>,
    /// When its last connection ended; `None` while one is open.
    pub disconnected_at: Option<OffsetDateTime>,
    /// Why it ended.
    pub disconnect_reason: Option<String>,
    /// The process that had the connection.
    pub gateway: Option<ProcessRun>,
}

impl RecipientFacts {
    /// A connection ends with its process, although a killed process records nothing.
    fn is_connected(&self, now: OffsetDateTime) -> bool {
        self.connected_at.is_some()
            && self.disconnected_at.is_none()
            && self.gateway.is_some_and(|gateway| gateway.is_alive(now))
    }

    /// When its last connection ended, and why.
    fn end(&self) -> Option<(OffsetDateTime, &str)> {
        let noted = self
            .disconnected_at
            .map(|at| (at, self.disconnect_reason.as_deref().unwrap_or_default()));
        noted.or_else(|| {
            let gateway = self.gateway?;
            Some((gateway.stopped_at.unwrap_or(gateway.alive_at), "process_ended"))
        })
    }
}

/// A run of a process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessRun {
    /// Whether it is a worker, not only a gateway.
    pub delivers: bool,
    /// When it began.
    pub started_at: OffsetDateTime,
    /// Its last heartbeat.
    pub alive_at: OffsetDateTime,
    /// When it shut down cleanly; `None` if it runs or was killed.
    pub stopped_at: Option<OffsetDateTime>,
}

impl ProcessRun {
    fn is_alive(&self, now: OffsetDateTime) -> bool {
        self.stopped_at.is_none() && now - self.alive_at <= HEARTBEAT_TIMEOUT
    }
}

/// An outage of a dependency.
#[derive(Clone, Debug)]
pub struct Outage {
    /// The dependency, such as `database`.
    pub part: String,
    /// The error.
    pub reason: String,
    /// From when.
    pub began_at: OffsetDateTime,
    /// Until when.
    pub ended_at: OffsetDateTime,
}

/// The facts a verdict is derived from.
#[derive(Clone, Debug)]
pub struct MessageFacts {
    /// Now.
    pub now: OffsetDateTime,
    /// The message.
    pub message: Message,
    /// When it is due.
    pub next_attempt_at: Option<OffsetDateTime>,
    /// Exceptional events, oldest first.
    pub events: Vec<MessageEvent>,
    /// Its recipient.
    pub recipient: RecipientFacts,
    /// Id of its dead letter.
    pub dead_letter: Option<String>,
    /// Runs since the message was accepted, and the last one before, oldest first.
    pub runs: Vec<ProcessRun>,
    /// Outages since it was accepted, oldest first.
    pub outages: Vec<Outage>,
    /// Retries before a message fails.
    pub retries: u16,
    /// The import, if the message was imported.
    pub import: Option<MessageImport>,
}

/// A verdict on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// A stable identifier, snake_case.
    pub code: &'static str,
    /// One sentence.
    pub sentence: String,
    /// The command to run next, if any.
    pub next: Option<String>,
}

impl Verdict {
    fn new(code: &'static str, sentence: impl Into<String>) -> Verdict {
        Verdict { code, sentence: sentence.into(), next: None }
    }

    fn next(mut self, command: impl Into<String>) -> Verdict {
        self.next = Some(command.into());
        self
    }
}

impl MessageFacts {
    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        if let Some(verdict) = self.deleted().or_else(|| self.ended_elsewhere()) {
            return verdict;
        }
        let mut verdict = self.here();
        if let Some(import) = &self.import {
            verdict.sentence = format!("{} {}", import.text(), verdict.sentence);
        }
        verdict
    }

    fn here(&self) -> Verdict {
        match self.message.status {
            Status::Delivered | Status::Read => self.arrived(),
            Status::Failed => self.failed(),
            Status::Pending | Status::Sent => self.waiting(),
        }
    }

    fn last(&self, kind: &str) -> Option<&MessageEvent> {
        self.events.iter().filter(|event| event.kind == kind).max_by_key(|event| event.at)
    }

    fn count(&self, kind: &str) -> u64 {
        let of_kind = self.events.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| u64::from(event.count)).sum()
    }

    fn arrived(&self) -> Verdict {
        let read = if self.message.status == Status::Read { " and was opened" } else { "" };
        let Some(delivered_at) = self.message.delivered_at else {
            return Verdict::new("delivered", format!("It was delivered{read}."));
        };
        let (from, begun) = self.beginning();
        let took = delivered_at - from;
        let after = span(took);
        if self.last("late_acknowledgement").is_some() {
            return Verdict::new(
                "delivered_late",
                format!(
                    "It failed after {} retries, but the recipient's device acknowledged it later, \
                     {after} after it was {begun}{read}.",
                    self.retries
                ),
            );
        }
        if self.last("requeued").is_some() {
            return Verdict::new(
                "delivered_after_requeue",
                format!(
                    "It failed, was requeued by an administrator, and was then delivered {after} \
                     after it was {begun}{read}."
                ),
            );
        }
        if took > PROMPT_DELIVERY
            && let Some(cause) = self.delay(delivered_at)
        {
            let sentence = format!(
                "It was delivered {after} after it was {begun}{read}; it was late because {}.",
                cause.1
            );
            return Verdict::new(cause.0, sentence);
        }
        Verdict::new(
            "delivered",
            format!(
                "It was delivered {after} after it was {begun}: the recipient's device \
                 acknowledged it{read}."
            ),
        )
    }

    /// Why a delivered message was late.
    fn delay(&self, until: OffsetDateTime) -> Option<(&'static str, String)> {
        let (from, _) = self.beginning();
        if let Some(outage) =
            self.outages.iter().rev().find(|o| o.ended_at >= from && o.began_at <= until)
        {
            return Some(("delivered_after_outage", outage_text(outage)));
        }
        if let Some((run, killed)) = self.interruption(from, until) {
            let text = format!(
                "esh3ar {} at {} and {} at {}",
                if killed { "was killed, or lost power or its database," } else { "was stopped" },
                clock(run.stopped_at.unwrap_or(run.alive_at)),
                "was started again",
                self.runs
                    .iter()
                    .find(|next| next.started_at > run.started_at)
                    .map_or_else(|| "a later time".to_owned(), |next| clock(next.started_at)),
            );
            let code = if killed { "delivered_after_crash" } else { "delivered_after_restart" };
            return Some((code, text));
        }
        if let Some(text) = self.delayed_by_lost_connection() {
            return Some(("delivered_after_lost_connection", text));
        }
        let retries = self.count("retry");
        if retries > 0 {
            let text = format!(
                "the recipient's device was connected and did not acknowledge it {retries} {}",
                if retries == 1 { "time" } else { "times" }
            );
            return Some(("delivered_after_retries", text));
        }
        let connected = self.recipient.connected_at.filter(|at| *at > from);
        let sent_late = self.message.sent_at.is_some_and(|sent| sent - from > PROMPT_DELIVERY);
        let sent_at = self.message.sent_at.unwrap_or(until);
        let was_there = self.recipient.connected_at.is_some_and(|at| at <= from)
            && self.recipient.disconnected_at.is_none_or(|at| at >= sent_at);
        if was_there {
            let text = if sent_late {
                format!(
                    "the recipient's device was connected but had so many unacknowledged messages \
                     that this one was not sent before {}",
                    clock(sent_at)
                )
            } else {
                "the recipient's device was slow to acknowledge it".to_owned()
            };
            return Some(("delivered_to_busy_device", text));
        }
        if connected.is_some() || sent_late {
            let at = self.message.sent_at.or(connected).unwrap_or(until);
            let text = format!("the recipient was not connected before {}", clock(at));
            return Some(("delivered_on_connect", text));
        }
        None
    }

    /// The run that ended while the message was pending, and whether it was killed.
    fn interruption(
        &self,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Option<(ProcessRun, bool)> {
        self.runs.iter().rev().skip(1).find_map(|run| {
            let end = run.stopped_at.unwrap_or(run.alive_at);
            let next = self.runs.iter().find(|next| next.started_at > run.started_at)?;
            // The last heartbeat of a killed run may precede the message.
            let over =
                run.started_at <= until && next.started_at >= from && next.started_at <= until;
            (over && (end >= from || run.stopped_at.is_none() || next.started_at > from))
                .then_some((*run, run.stopped_at.is_none()))
        })
    }

    fn failed(&self) -> Verdict {
        let reason = self.message.failure_reason.as_deref().unwrap_or("no reason was kept");
        let attempts = self.message.retry_count + 1;
        match &self.dead_letter {
            Some(letter) => Verdict::new(
                "failed",
                format!("It failed after {attempts} attempts: {reason}. It is a dead letter now."),
            )
            .next(format!("esh3ar dlq requeue {letter}")),
            None => Verdict::new(
                "failed_for_good",
                format!(
                    "It failed after {attempts} attempts: {reason}. Its dead letter is gone \
                     (deleted or expired)."
                ),
            )
            .next("send it again, as a new message"),
        }
    }

    fn waiting(&self) -> Verdict {
        let alive = |run: &&ProcessRun| run.is_alive(self.now);
        if !self.runs.iter().filter(alive).any(|run| run.delivers) {
            if self.runs.iter().any(|run| alive(&run)) {
                let sentence = "It waits because gateways are running, but no worker.";
                return Verdict::new("nobody_delivers", sentence).next("esh3ar worker");
            }
            let sentence = match self.runs.iter().rfind(|run| run.delivers) {
                None => "It waits because no worker has ever run on this database.".to_owned(),
                Some(ProcessRun { stopped_at: Some(at), .. }) => format!(
                    "It waits because esh3ar was stopped at {} and not started again.",
                    clock(*at)
                ),
                Some(run) => format!(
                    "It waits because esh3ar has sent no heartbeat since {}: it was killed or hangs.",
                    clock(run.alive_at)
                ),
            };
            return Verdict::new("nobody_delivers", sentence).next("esh3ar serve");
        }
        if let Some(outage) = self.outages.last().filter(|outage| outage.ended_at >= self.now) {
            return Verdict::new("outage", format!("It waits because {}.", outage_text(outage)))
                .next("esh3ar doctor");
        }
        let recipient = &self.recipient;
        if recipient.is_connected(self.now) {
            return self.waiting_while_connected();
        }
        if let Some(verdict) = self.connection_lost() {
            return verdict;
        }
        let Some(connected_at) = recipient.connected_at else {
            let is_business = matches!(self.message.recipient, Party::Business(_));
            return if recipient.has_valid_token && is_business {
                // Connections of business users are not recorded.
                Verdict::new("recipient_offline", "It waits for the business user's next connect.")
            } else if recipient.has_valid_token {
                Verdict::new(
                    "recipient_never_connected",
                    "It waits: the recipient has an access token but has never connected.",
                )
            } else if recipient.had_token {
                self.locked_out()
            } else {
                let whom = if is_business { "business user" } else { "phone number" };
                Verdict::new(
                    "recipient_not_registered",
                    format!("It waits: nobody has ever had an access token for this {whom}."),
                )
                .next(self.new_token())
            };
        };
        if !recipient.has_valid_token {
            return self.locked_out();
        }
        let (since, why) = recipient.end().unwrap_or((connected_at, ""));
        Verdict::new(
            "recipient_offline",
            format!(
                "It waits for the recipient's next connect: the last connection ended at {} ({}).",
                clock(since),
                reason(why)
            ),
        )
    }

    /// The command that creates a token for the recipient.
    fn new_token(&self) -> String {
        match &self.message.recipient {
            Party::Mobile(phone) => format!("esh3ar token create --mobile {}", phone.as_str()),
            Party::Business(id) => format!("esh3ar token create --user {id}"),
        }
    }

    fn locked_out(&self) -> Verdict {
        Verdict::new(
            "recipient_locked_out",
            "It waits: the recipient's access tokens have expired or were revoked, so it cannot \
             connect.",
        )
        .next(self.new_token())
    }

    fn waiting_while_connected(&self) -> Verdict {
        let again = format!("esh3ar message explain {}", self.message.id);
        if self.message.retry_count > 0 {
            let due = self
                .next_attempt_at
                .map_or_else(String::new, |at| format!("; the next attempt is at {}", clock(at)));
            return Verdict::new(
                "not_acknowledged",
                format!(
                    "The recipient's device is connected and has not acknowledged it: retry {} of \
                     {}{due}.",
                    self.message.retry_count, self.retries
                ),
            )
            .next(again);
        }
        let (from, begun) = self.beginning();
        let age = span(self.now - from);
        if self.message.status == Status::Pending && self.now - from > PROMPT_DELIVERY {
            let sentence = format!(
                "It was {begun} {age} ago and has not been sent yet: the recipient's device is \
                 connected and has not acknowledged what it was sent before."
            );
            return Verdict::new("device_busy", sentence).next(again);
        }
        if let (Status::Sent, Some(at)) = (self.message.status, self.message.sent_at) {
            let sentence = format!(
                "It was {begun} {age} ago and sent to the recipient's device at {}, which has not \
                 acknowledged it yet.",
                clock(at)
            );
            return Verdict::new("on_its_way", sentence).next(again);
        }
        Verdict::new(
            "on_its_way",
            format!("It was {begun} {age} ago and is on its way to a connected device."),
        )
        .next(again)
    }
}

fn outage_text(outage: &Outage) -> String {
    format!(
        "the {} was unavailable from {} to {} ({})",
        outage.part,
        clock(outage.began_at),
        clock(outage.ended_at),
        outage.reason
    )
}

/// Date and time in UTC, to the second.
fn clock(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    format!("{date} {:02}:{:02}:{:02} UTC", time.hour(), time.minute(), time.second())
}

/// A duration for people.
fn span(duration: time::Duration) -> String {
    let millis = duration.whole_milliseconds().max(0);
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..120_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        120_000..7_200_000 => format!("{} minutes", millis / 60_000),
        7_200_000..172_800_000 => format!("{} hours", millis / 3_600_000),
        _ => format!("{} days", millis / 86_400_000),
    }
}
