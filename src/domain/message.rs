//! Messages: their content, and the rules for accepting them.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{ConversationId, MessageId, Party, Phone, Status, UserId};

/// Maximum length of a subject, in characters.
pub const MAX_SUBJECT_LEN: usize = 200;
/// Maximum length of a content, in characters.
pub const MAX_CONTENT_LEN: usize = 10_000;
/// Maximum number of messages in a batch call.
pub const MAX_BATCH_SIZE: usize = 500;
/// Maximum content of a page of messages, in bytes; a page has at least one message.
pub const MAX_PAGE_BYTES: usize = 256 * 1024;

/// One-way or chat. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum MessageKind {
    /// From a business to a phone; nobody can reply to it.
    OneWay = 0,
    /// In a conversation.
    Chat = 1,
}

/// Type of the content. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i16)]
pub enum ContentType {
    /// A JSON document for the app.
    Json = 0,
    /// Text for people.
    #[default]
    Text = 1,
}

/// The lane of a message, a priority queue: higher ones are served first. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
pub enum Priority {
    /// Bulk, such as broadcasts.
    Low = 0,
    /// The default.
    #[default]
    Normal = 1,
    /// Ahead of all others.
    High = 2,
}

macro_rules! named {
    ($type:ident { $($variant:ident = $name:literal),+ }) => {
        impl $type {
            /// All values, in order of their numbers.
            pub const ALL: &[$type] = &[$($type::$variant),+];

            /// The name in JSON and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }

            /// Reads a name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }

            /// Reads a stored number.
            pub fn from_number(number: i16) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| *value as i16 == number)
            }
        }
    };
}

named!(MessageKind { OneWay = "oneWay", Chat = "chat" });
named!(ContentType { Json = "json", Text = "text" });
named!(Priority { Low = "low", Normal = "normal", High = "high" });

/// A position in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationPosition {
    /// The conversation.
    pub conversation: ConversationId,
    /// Numbers the messages of the conversation from 1 without gaps.
    pub seq: i64,
}

/// A stored message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Names it everywhere.
    pub id: MessageId,
    /// The position in a conversation; `None` exactly for a one-way message, so that the kind needs no field
    /// of its own and the two can never disagree.
    pub position: Option<ConversationPosition>,
    /// Who sent it.
    pub sender: Party,
    /// Display name of the sender: a business user's name, or the phone number.
    pub from: Arc<str>,
    /// The recipient.
    pub recipient: Party,
    /// One-way messages only.
    pub subject: Option<String>,
    /// The content, exactly as sent.
    pub content: String,
    /// How to read the content.
    pub content_type: ContentType,
    /// Its lane.
    pub priority: Priority,
    /// The delivery status.
    pub status: Status,
    /// See [`super::status::MessageProgress`].
    pub generation: i32,
    /// Retries in this generation, 0 to 6.
    pub retry_count: u16,
    /// Why it failed, at most 500 characters.
    pub failure_reason: Option<String>,
    /// Accepted at.
    pub created_at: OffsetDateTime,
    /// First written to a connection at.
    pub sent_at: Option<OffsetDateTime>,
    /// Acknowledged at.
    pub delivered_at: Option<OffsetDateTime>,
    /// Opened at.
    pub read_at: Option<OffsetDateTime>,
    /// Rules of the sender's content policy that marked it: for its sender and administrators. Empty in copies that
    /// processes exchange.
    pub flags: Vec<String>,
}

impl Message {
    /// One-way or chat, by whether it has a position in a conversation.
    pub fn kind(&self) -> MessageKind {
        match self.position {
            None => MessageKind::OneWay,
            Some(_) => MessageKind::Chat,
        }
    }

    /// The phone among sender and recipient: one, since the other is a business user.
    pub fn phones(&self) -> impl Iterator<Item = &Phone> {
        [&self.sender, &self.recipient].into_iter().filter_map(|party| match party {
            Party::Mobile(phone) => Some(phone),
            Party::Business(_) => None,
        })
    }
}

/// A valid one-way message, ready to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct OneWayMessage {
    id: MessageId,
    sender: UserId,
    draft: MessageDraft,
    to: Phone,
}

/// The content of a message before validation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageDraft {
    /// Optional, at most [`MAX_SUBJECT_LEN`] characters.
    pub subject: Option<String>,
    /// 1 to [`MAX_CONTENT_LEN`] characters.
    pub content: String,
    /// Defaults to text.
    pub content_type: ContentType,
    /// Defaults to normal.
    pub priority: Priority,
}

/// An invalid field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field's name in JSON.
    pub field: &'static str,
    /// Stable, snake_case.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl FieldError {
    /// A broken rule.
    pub fn new(field: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        FieldError { field, code, message: message.into() }
    }
}

fn judge_text(field: &'static str, text: &str, limit: usize, broken: &mut Vec<FieldError>) {
    // No need to count the characters of a huge text to know that it is too long.
    if text.len() > limit && (text.len() > limit * 4 || text.chars().count() > limit) {
        let message = format!("{field} is longer than {limit} characters");
        broken.push(FieldError::new(field, "too_long", message));
    } else if let Some(c) = text.chars().find(|c| is_refused(*c)) {
        let code = u32::from(c);
        let message = format!(
            "{field} contains the control character U+{code:04X}; only tab, line feed and \
             carriage return are allowed"
        );
        broken.push(FieldError::new(field, "invalid_character", message));
    }
}

/// ASCII control characters (U+0000 to U+001F) that texts must not contain: nothing displays them, NUL cannot
/// be stored, and in JSON each takes six characters. Imported messages may have them.
const fn is_refused(c: char) -> bool {
    c < ' ' && !matches!(c, '\t' | '\n' | '\r')
}

impl MessageDraft {
    /// All rules that the draft violates.
    pub fn broken_rules(&self) -> Vec<FieldError> {
        let mut broken = Vec::new();
        if let Some(subject) = &self.subject {
            judge_text("subject", subject, MAX_SUBJECT_LEN, &mut broken);
        }
        if self.content.is_empty() {
            broken.push(FieldError::new("content", "required", "content must not be empty"));
        } else {
            judge_text("content", &self.content, MAX_CONTENT_LEN, &mut broken);
        }
        broken
    }
}

impl OneWayMessage {
    /// Validates a one-way message; there is no other constructor.
    ///
    /// # Errors
    /// All rules that the draft violates.
    pub fn new(
        id: MessageId,
        sender: UserId,
        to: Phone,
        draft: MessageDraft,
    ) -> Result<OneWayMessage, Vec<FieldError>> {
        let broken = draft.broken_rules();
        if broken.is_empty() { Ok(OneWayMessage { id, sender, draft, to }) } else { Err(broken) }
    }

    /// Its id.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// The message to store: pending, in its first generation.
    pub fn accepted(self, from: Arc<str>, at: OffsetDateTime) -> Message {
        Message {
            id: self.id,
            position: None,
            sender: Party::Business(self.sender),
            from,
            recipient: Party::Mobile(self.to),
            subject: self.draft.subject,
            content: self.draft.content,
            content_type: self.draft.content_type,
            priority: self.draft.priority,
            status: Status::Pending,
            generation: 0,
            retry_count: 0,
            failure_reason: None,
            created_at: at,
            sent_at: None,
            delivered_at: None,
            read_at: None,
            flags: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn one_way(draft: MessageDraft) -> Result<OneWayMessage, Vec<FieldError>> {
        let phone = Phone::from_stored("+967771234567");
        OneWayMessage::new(MessageId(Uuid::nil()), UserId(Uuid::nil()), phone, draft)
    }

    // **Feature: enhanced-messaging-system, Property 1: Message Type Consistency**
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn a_message_is_one_way_exactly_without_a_conversation(
            content in ".{1,50}".prop_map(|text| text.replace(is_refused, " ")), seq in prop::option::of(1i64..1000)
        ) {
            let draft = MessageDraft { content, ..MessageDraft::default() };
            let mut message =
                one_way(draft).unwrap().accepted("shop".into(), OffsetDateTime::UNIX_EPOCH);
            prop_assert_eq!(message.kind(), MessageKind::OneWay);
            prop_assert_eq!(message.status, Status::Pending);
            message.position =
                seq.map(|seq| ConversationPosition { conversation: ConversationId(Uuid::nil()), seq });
            prop_assert_eq!(message.kind() == MessageKind::Chat, message.position.is_some());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn lengths_are_counted_in_characters(extra in 0usize..3, wide in any::<bool>()) {
            let unit = if wide { "🙂" } else { "a" };
            let content = unit.repeat(MAX_CONTENT_LEN - 1 + extra);
            let draft = MessageDraft { content, ..MessageDraft::default() };
            prop_assert_eq!(one_way(draft).is_ok(), extra <= 1);
        }
    }

    #[test]
    fn control_characters_are_no_part_of_a_text() {
        let of = |text: String| MessageDraft {
            subject: Some(text.clone()),
            content: text,
            ..MessageDraft::default()
        };
        for c in '\0'..='\u{9f}' {
            let broken = of(format!("a{c}b")).broken_rules();
            let found: Vec<_> = broken.iter().map(|e| (e.field, e.code)).collect();
            match c {
                '\t' | '\n' | '\r' | ' '..='\u{9f}' => assert_eq!(found, [], "{c:?}"),
                _ => assert_eq!(
                    found,
                    [("subject", "invalid_character"), ("content", "invalid_character")],
                    "{c:?}"
                ),
            }
        }
        let told = &of("\u{1b}[2J".to_owned()).broken_rules()[1].message;
        assert!(told.contains("content") && told.contains("U+001B"), "{told}");
    }

    #[test]
    fn every_broken_rule_is_told_at_once() {
        let draft = MessageDraft {
            subject: Some("s".repeat(MAX_SUBJECT_LEN + 1)),
            content: "nul \0".into(),
            ..MessageDraft::default()
        };
        let codes: Vec<_> = draft.broken_rules().iter().map(|e| (e.field, e.code)).collect();
        assert_eq!(codes, [("subject", "too_long"), ("content", "invalid_character")]);
        assert_eq!(MessageDraft::default().broken_rules()[0].code, "required");
    }
}
