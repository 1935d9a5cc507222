//! Deserialises API responses as the server's own view types, so that a renamed field fails to compile
//! here. JSON output prints the response unchanged.

use serde::Deserialize;
use serde_json::Value;

use super::exit::{ExitStatus, Failure};

pub(crate) fn read<'a, T: Deserialize<'a>>(answer: &'a Value) -> Result<T, Failure> {
    T::deserialize(answer).map_err(|_| unreadable())
}

pub(crate) fn unreadable() -> Failure {
    Failure::new(ExitStatus::Failed, "unexpected response")
        .hint("the server may run another version of esh3ar")
}

#[derive(Deserialize)]
pub(crate) struct ResponsePage<C = String> {
    pub(crate) items: Vec<Value>,
    /// The cursor of the next page.
    pub(crate) next: Option<C>,
}

/// The columns of a table, by the fields of its rows' type.
macro_rules! columns {
    ($row:ty: $($field:ident),+ $(,)?) => {{
        // Compiles only if the type has these fields.
        const _: fn(&$row) = |row| {
            $(let _ = &row.$field;)+
        };
        &[$(stringify!($field)),+]
    }};
}
pub(crate) use columns;

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
