//! Answers of the API as the types that the server makes them of: what reads a field that is renamed there does
//! not compile here. What is printed as JSON stays the answer as it came.

use serde::Deserialize;
use serde_json::Value;

use super::exit::{Failure, Kind};

/// Reads an answer.
///
/// # Errors
/// It is of another form.
pub(super) fn read<'a, T: Deserialize<'a>>(answer: &'a Value) -> Result<T, Failure> {
    T::deserialize(answer).map_err(|_| unreadable())
}

/// An answer of another form.
pub(super) fn unreadable() -> Failure {
    Failure::new(Kind::Failed, "the answer cannot be understood")
        .hint("the esh3ar there may be of another version than this one")
}

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page<C = String> {
    pub(super) items: Vec<Value>,
    /// Where the next one begins.
    pub(super) next: Option<C>,
}

/// The columns of a table: fields of the type of its rows.
macro_rules! columns {
    ($row:ty: $($field:ident),+ $(,)?) => {{
        // Compiles only if the type has them.
        const _: fn(&$row) = |row| {
            $(let _ = &row.$field;)+
        };
        &[$(stringify!($field)),+]
    }};
}
pub(super) use columns;

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::json;

    use super::*;
    use crate::server::{
        http::admin::import::ImportedView,
        reply::ProblemBody,
        view::{
            DeadLetterView, ExplanationView, MessageStoryView,
            admin::{AuditView, BooksView, ConversationOverviewView},
            bulk::ChangedView,
            privacy::ErasureView,
        },
    };

    const ID: &str = "0190a000-0000-7000-8000-000000000001";
    const AT: &str = "2026-01-31T12:00:00.000001Z";

    /// Reads it and writes it again.
    fn same<'a, T: Deserialize<'a> + Serialize>(answer: &'a Value) {
        let view: T = read(answer).unwrap();
        assert_eq!(&serde_json::to_value(view).unwrap(), answer);
    }

    fn message() -> Value {
        json!({
            "id": ID, "type": "chat", "conversationId": ID, "seq": 3, "from": "Shop \"1\"",
            "to": "+967771234567", "content": "a\nb", "contentType": "text", "status": "delivered",
            "priority": "normal", "attachments": [], "createdAt": AT, "deliveredAt": AT,
        })
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let step = json!({ "at": AT, "step": "pending", "detail": "accepted" });
        let mut story = message();
        story["timeline"] = json!([step, { "at": AT, "step": "sent" }]);
        same::<MessageStoryView<'_>>(&story);
        same::<ExplanationView>(&json!({
            "id": ID, "from": "Shop", "to": "+967771234567", "status": "failed",
            "priority": "normal", "steps": [step],
            "verdict": { "code": "given_up", "sentence": "It was.", "next": "esh3ar dlq list" },
        }));
        same::<ConversationOverviewView<'_>>(&json!({
            "id": ID, "businessUserId": ID, "businessName": "Shop", "phone": "+967771234567",
            "status": "active", "lastSeq": 3, "lastMessageAt": AT, "unreadBusiness": 0,
            "unreadMobile": 1, "createdAt": AT, "messages": { "sent": 2 },
            "lastMessages": [message()],
        }));
        same::<DeadLetterView<'_>>(&json!({
            "id": ID, "kind": "mail", "class": "system", "reason": "no answer", "generation": 0,
            "attempts": 7, "firstErrorAt": AT, "lastErrorAt": AT,
        }));
        same::<BooksView<'_>>(&json!({
            "balanced": false, "unaccounted": 1, "discrepancies": [{ "id": ID, "kind": "lost" }],
            "days": [{
                "business": ID, "name": "Shop", "day": "2026-01-31", "accepted": 2, "pending": 0,
                "sent": 0, "delivered": 1, "read": 0, "failed": 0, "erased": 0, "missing": 1,
            }],
        }));
        same::<AuditView<'_>>(&json!({
            "id": ID, "at": AT, "actorKind": "command", "actor": "root@host",
            "actorId": "root@host", "action": "message.show", "subjectKind": "message",
            "phones": 1, "outcome": "done", "details": { "a": [1] },
        }));
        same::<ChangedView>(&json!({
            "matched": 2, "requeued": 1, "skipped": [ID], "failed": [], "more": true, "next": null,
        }));
        same::<ErasureView<'_>>(&json!({
            "phone": "+967771234567", "dryRun": false,
            "erased": [{ "store": "database", "what": "messages", "count": 2 }],
            "missed": [{ "store": "redis", "why": "it is away" }],
        }));
        same::<ImportedView>(&json!({
            "dryRun": false, "import": ID, "read": 2, "imported": 1, "alreadyThere": 0,
            "rejected": [{ "row": 1, "reason": "no phone" }], "unknownSenders": [ID],
        }));
        same::<ProblemBody<'_>>(&json!({
            "type": "urn:esh3ar:problem:rate_limited", "title": "Too Many Requests", "status": 429,
            "detail": "later", "code": "rate_limited", "retryAfter": 3,
        }));
    }

    #[test]
    fn attachments_and_fields_of_a_newer_server_are_passed_over() {
        let mut newer = message();
        newer["attachments"] = json!([{ "id": ID }]);
        newer["sentiment"] = "good".into();
        newer["timeline"] = json!([]);
        let MessageStoryView { message, .. } = read(&newer).unwrap();
        assert_eq!((message.content, message.seq), ("a\nb", Some(3)));
        assert!(read::<MessageStoryView<'_>>(&json!({ "id": ID })).is_err());
    }
}
