//! Each fault has a verdict of its own.
use std::time::Duration;

use super::*;
use crate::domain::{
    ContentType, MessageId, Phone, Priority, UserId,
    message::{MessageDraft, OneWayMessage},
};

fn second(n: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(n)
}

fn accepted(status: Status) -> Message {
    let draft = MessageDraft {
        subject: None,
        content: "x".to_owned(),
        content_type: ContentType::default(),
        priority: Priority::default(),
    };
    let to = Phone::from_stored("+967771234567");
    let one_way =
        OneWayMessage::new(MessageId(uuid::Uuid::nil()), UserId(uuid::Uuid::nil()), to, draft);
    let mut message = one_way.unwrap().accepted("shop".into(), second(1000));
    message.status = status;
    message
}

fn run(from: i64, alive: i64, stopped: Option<i64>) -> ProcessRun {
    let (started_at, alive_at) = (second(from), second(alive));
    ProcessRun { delivers: true, started_at, alive_at, stopped_at: stopped.map(second) }
}

fn facts(status: Status) -> MessageFacts {
    MessageFacts {
        now: second(1100),
        message: accepted(status),
        next_attempt_at: None,
        events: Vec::new(),
        recipient: RecipientFacts {
            had_token: true,
            has_valid_token: true,
            connected_at: Some(second(900)),
            gateway: Some(run(0, 1099, None)),
            ..RecipientFacts::default()
        },
        dead_letter: None,
        runs: vec![run(0, 1099, None)],
        outages: Vec::new(),
        retries: 6,
        import: None,
    }
}

fn delivered(after: Duration) -> MessageFacts {
    let mut facts = facts(Status::Delivered);
    facts.message.sent_at = Some(second(1000) + after / 2);
    facts.message.delivered_at = Some(second(1000) + after);
    facts
}

fn event(kind: &str, at: i64, detail: &str) -> MessageEvent {
    MessageEvent { at: second(at), count: 1, kind: kind.to_owned(), detail: detail.to_owned() }
}

#[track_caller]
fn says(facts: &MessageFacts, code: &str, words: &str) {
    let verdict = facts.verdict();
    assert_eq!(verdict.code, code, "{}", verdict.sentence);
    assert!(verdict.sentence.contains(words), "{} lacks {words}", verdict.sentence);
}

#[test]
fn what_came_at_once_needs_no_cause() {
    says(&delivered(Duration::from_millis(7)), "delivered", "7 ms after");
    let mut read = delivered(Duration::from_millis(7));
    read.message.status = Status::Read;
    says(&read, "delivered", "was opened");
}

#[test]
fn what_came_late_says_why() {
    let late = delivered(Duration::from_secs(30));
    let mut crash = late.clone();
    crash.runs = vec![run(0, 998, None), run(1010, 1099, None)];
    says(&crash, "delivered_after_crash", "killed");
    let mut restart = late.clone();
    restart.runs = vec![run(0, 1001, Some(1001)), run(1010, 1099, None)];
    says(&restart, "delivered_after_restart", "was stopped at 1970-01-01 00:16:41 UTC");
    let mut outage = late.clone();
    outage.outages = vec![Outage {
        part: "database".to_owned(),
        reason: "could not extend file: No space left on device (53100)".to_owned(),
        began_at: second(1002),
        ended_at: second(1020),
    }];
    says(&outage, "delivered_after_outage", "No space left");
    let mut lost = late.clone();
    lost.events = vec![event("connection_lost", 1005, "client_timeout")];
    says(&lost, "delivered_after_lost_connection", "fell silent");
    // One event with a count, and events of before.
    lost.events.push(MessageEvent { count: 4, ..event("connection_lost", 1009, "stuck") });
    let often = "5 connections that it had been written to were lost, the last of them at \
                 1970-01-01 00:16:49 UTC (the device stopped reading)";
    says(&lost, "delivered_after_lost_connection", often);
    let mut stuck = late.clone();
    stuck.events = vec![event("connection_lost", 1005, "stuck")];
    says(&stuck, "delivered_after_lost_connection", "stopped reading");
    let mut retried = late.clone();
    retried.events = vec![event("retry", 1005, ""), event("retry", 1006, "")];
    says(&retried, "delivered_after_retries", "2 times");
    let mut busy = late.clone();
    says(&busy, "delivered_to_busy_device", "had so many unacknowledged messages");
    busy.message.sent_at = Some(second(1001));
    says(&busy, "delivered_to_busy_device", "was slow to acknowledge");
    let mut offline = late;
    offline.recipient.connected_at = Some(second(1029));
    says(&offline, "delivered_on_connect", "not connected before");
}

#[test]
fn a_restart_before_the_message_is_not_its_cause() {
    let mut facts = delivered(Duration::from_secs(30));
    facts.runs = vec![run(0, 500, Some(500)), run(600, 1099, None)];
    facts.recipient.connected_at = Some(second(1029));
    says(&facts, "delivered_on_connect", "not connected");
}

#[test]
fn what_was_given_up_says_what_to_do() {
    let mut facts = facts(Status::Failed);
    facts.message.retry_count = 6;
    facts.message.failure_reason = Some("the device did not acknowledge".to_owned());
    says(&facts, "failed_for_good", "7 attempts");
    facts.dead_letter = Some("17".to_owned());
    says(&facts, "failed", "did not acknowledge");
    assert_eq!(facts.verdict().next.as_deref(), Some("esh3ar dlq requeue 17"));
    let mut late = delivered(Duration::from_secs(90));
    late.events = vec![event("given_up", 1070, ""), event("late_acknowledgement", 1090, "")];
    says(&late, "delivered_late", "acknowledged it later");
    late.events = vec![event("given_up", 1070, ""), event("requeued", 1080, "")];
    says(&late, "delivered_after_requeue", "requeued");
}

#[test]
fn what_waits_says_for_what() {
    let mut offline = facts(Status::Pending);
    offline.recipient.disconnected_at = Some(second(950));
    offline.recipient.disconnect_reason = Some("socket_closed".to_owned());
    says(&offline, "recipient_offline", "the device closed it");
    let mut lost = offline.clone();
    lost.message.status = Status::Sent;
    lost.events = vec![event("connection_lost", 1005, "client_timeout")];
    says(&lost, "connection_lost", "fell silent");
    lost.events[0].count = 3;
    says(&lost, "connection_lost", "3 connections that were lost, the last of them at");
    let mut never = offline.clone();
    never.recipient.connected_at = None;
    says(&never, "recipient_never_connected", "never connected");
    never.recipient.has_valid_token = false;
    says(&never, "recipient_locked_out", "expired");
    never.recipient.had_token = false;
    says(&never, "recipient_not_registered", "nobody has ever had");
    let next = never.verdict().next;
    assert_eq!(next.as_deref(), Some("esh3ar token create --mobile +967771234567"));
    let mut killed = facts(Status::Pending);
    killed.recipient.gateway = Some(run(0, 1060, None));
    says(&killed, "recipient_offline", "the esh3ar process ended");
    killed.recipient.gateway = None;
    says(&killed, "recipient_offline", "no reason was recorded");
    let mut expired = offline;
    expired.recipient.has_valid_token = false;
    says(&expired, "recipient_locked_out", "expired");
}

#[test]
fn what_waits_for_a_connected_device_says_how_often_it_was_tried() {
    let mut young = facts(Status::Pending);
    young.now = second(1001);
    says(&young, "on_its_way", "connected device");
    says(&facts(Status::Pending), "device_busy", "has not acknowledged what it was sent before");
    let mut sent = facts(Status::Sent);
    sent.message.sent_at = Some(second(1003));
    says(&sent, "on_its_way", "sent to the recipient's device at 1970-01-01 00:16:43");
    let mut retried = facts(Status::Sent);
    retried.message.retry_count = 2;
    retried.next_attempt_at = Some(second(1104));
    says(&retried, "not_acknowledged", "retry 2 of 6");
}

#[test]
fn nothing_waits_for_a_recipient_while_nobody_delivers() {
    let mut facts = facts(Status::Pending);
    facts.runs = vec![run(0, 1050, None)];
    says(&facts, "nobody_delivers", "no heartbeat since 1970-01-01 00:17:30");
    facts.runs = vec![run(0, 1095, Some(1095))];
    says(&facts, "nobody_delivers", "was stopped");
    facts.runs.clear();
    says(&facts, "nobody_delivers", "ever run");
}

#[test]
fn a_connection_of_a_killed_process_is_over() {
    let mut facts = facts(Status::Pending);
    facts.runs = vec![run(0, 1001, None), run(1050, 1099, None)];
    facts.recipient.gateway = Some(facts.runs[0]);
    says(&facts, "recipient_offline", "the esh3ar process ended");
}

#[test]
fn what_was_imported_is_not_told_as_done_here() {
    let import = MessageImport { at: second(1050), by: "root@host".into(), file: "old.csv".into() };
    let mut there = delivered(Duration::from_secs(30));
    there.import = Some(import.clone());
    says(&there, "imported_delivered", "It was imported at 1970-01-01 00:17:30 UTC.");
    says(&there, "imported_delivered", "by the previous system at 1970-01-01 00:17:10 UTC");
    there.message.status = Status::Read;
    there.message.read_at = Some(second(1040));
    says(&there, "imported_delivered", "opened there");
    there.message.read_at = Some(second(1060));
    says(&there, "imported_delivered", "opened here");
    let mut here = delivered(Duration::from_secs(51));
    here.import = Some(import.clone());
    says(&here, "delivered", "1.0 s after it was imported");
    let mut failed = facts(Status::Failed);
    failed.import = Some(import.clone());
    failed.message.failure_reason = Some(format!("{FAILED_BEFORE}: no device"));
    says(&failed, "imported_failed", "no device. It was never tried here");
    failed.message.failure_reason = Some("not acknowledged".to_owned());
    says(&failed, "failed_for_good", "It was imported at");
    let mut waits = facts(Status::Sent);
    waits.import = Some(import);
    waits.recipient.connected_at = None;
    says(
        &waits,
        "recipient_never_connected",
        "It was imported at 1970-01-01 00:17:30 UTC. It waits",
    );
}

#[test]
fn a_deleted_message_says_so_whatever_had_become_of_it() {
    for status in [Status::Pending, Status::Sent, Status::Delivered, Status::Read, Status::Failed] {
        let mut facts = facts(status);
        facts.events = vec![event("retry", 1001, ""), event("deleted", 1060, "by ops: spam")];
        let verdict = facts.verdict();
        assert_eq!((verdict.code, verdict.next), ("deleted", None));
        let wanted = format!(
            "It was deleted by ops: spam. That was 60.0 s after it was accepted, when it \
                              was {}; it is not shown to anyone any more.",
            status.name()
        );
        assert_eq!(verdict.sentence, wanted);
    }
}

/// Whatever is known of the phone and of the installation: a participant is told the same.
#[test]
fn a_participant_is_told_of_the_message_alone() {
    for status in [Status::Pending, Status::Sent, Status::Delivered, Status::Failed] {
        let mut lost = facts(status);
        lost.message.failure_reason = Some("not acknowledged".to_owned());
        let told = Verdict::for_participant(&lost.message, None);
        assert_eq!((told.code, told.next), (status.name(), None));
        assert!(!told.sentence.contains("UTC"), "{}", told.sentence);
    }
    let import = MessageImport { at: second(1050), by: "root".into(), file: "old.csv".into() };
    let mut failed = accepted(Status::Failed);
    failed.failure_reason = Some(format!("{FAILED_BEFORE}: no device"));
    let told = Verdict::for_participant(&failed, Some(&import));
    assert_eq!((told.code, told.next), ("imported_failed", None));
    assert!(!told.sentence.contains("old.csv") && !told.sentence.contains("root"));
}
