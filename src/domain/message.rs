//! A message: what it carries, and what it must be to be accepted.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{ConversationId, MessageId, Party, Phone, Status, UserId};

/// The longest subject, in characters (system.md, Entities).
pub const SUBJECT_LIMIT: usize = 200;
/// The longest content, in characters (system.md, Entities).
pub const CONTENT_LIMIT: usize = 10_000;
/// The most messages in one batch call (system.md, What each part does 1).
pub const BATCH_LIMIT: usize = 500;
/// The most bytes of content that one page of messages is read with; a page has one message at least.
pub const PAGE_BYTES: usize = 256 * 1024;

/// One-way or chat. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum MessageKind {
    /// From a business to a phone; nobody can reply to it.
    OneWay = 0,
    /// Part of a conversation.
    Chat = 1,
}

/// How the content is to be read. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i16)]
pub enum ContentType {
    /// A JSON document for the app.
    Json = 0,
    /// Text for people.
    #[default]
    Text = 1,
}

/// Which lane a message takes; a higher one is served first. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
pub enum Priority {
    /// Bulk, such as broadcasts.
    Low = 0,
    /// Everything that says nothing else.
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

/// A place in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationPosition {
    /// The conversation.
    pub conversation: ConversationId,
    /// Counts the conversation's messages from 1 without gaps.
    pub seq: i64,
}

/// A stored message, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Names it everywhere.
    pub id: MessageId,
    /// Where it stands in a conversation; `None` exactly for a one-way message, so the kind needs
    /// no field of its own and the two can never disagree (property 1).
    pub place: Option<ConversationPosition>,
    /// Who sent it.
    pub sender: Party,
    /// How the sender is shown: a business user's name, or the phone number.
    pub from: Arc<str>,
    /// Who is to get it.
    pub recipient: Party,
    /// One-way messages only.
    pub subject: Option<String>,
    /// What it says, exactly as it was sent.
    pub content: String,
    /// How to read the content.
    pub content_type: ContentType,
    /// Its lane.
    pub priority: Priority,
    /// Where it is on its way.
    pub status: Status,
    /// See [`super::status::Progress`].
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
}

impl Message {
    /// One-way or chat, told by whether it has a place in a conversation.
    pub fn kind(&self) -> MessageKind {
        match self.place {
            None => MessageKind::OneWay,
            Some(_) => MessageKind::Chat,
        }
    }

    /// The phones at its ends: one, since the other end is a business user.
    pub fn phones(&self) -> impl Iterator<Item = &Phone> {
        [&self.sender, &self.recipient].into_iter().filter_map(|party| match party {
            Party::Mobile(phone) => Some(phone),
            Party::Business(_) => None,
        })
    }
}

/// A one-way message that has passed every rule and may be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct OneWay {
    id: MessageId,
    sender: UserId,
    draft: Draft,
    to: Phone,
}

/// What a sender asks for, before it is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// Optional, at most [`SUBJECT_LIMIT`] characters.
    pub subject: Option<String>,
    /// 1 to [`CONTENT_LIMIT`] characters.
    pub content: String,
    /// Defaults to text.
    pub content_type: ContentType,
    /// Defaults to normal.
    pub priority: Priority,
}

/// One field that breaks a rule.
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
    // Counting characters of a huge text is not needed to know that it is too long.
    if text.len() > limit && (text.len() > limit * 4 || text.chars().count() > limit) {
        let message = format!("{field} is longer than {limit} characters");
        broken.push(FieldError::new(field, "too_long", message));
    } else if let Some(c) = text.chars().find(|c| is_refused(*c)) {
        let code = u32::from(c);
        let message = format!(
            "{field} contains the control character U+{code:04X}; of those only tab, line feed and \
             carriage return are accepted"
        );
        broken.push(FieldError::new(field, "invalid_character", message));
    }
}

/// The control characters of ASCII (U+0000 to U+001F) that are no part of a text: nothing shows them, NUL
/// cannot be stored, and in JSON each is six characters long. What was imported may have them.
const fn is_refused(c: char) -> bool {
    c < ' ' && !matches!(c, '\t' | '\n' | '\r')
}

impl Draft {
    /// Every rule that the draft breaks.
    pub fn broken_rules(&self) -> Vec<FieldError> {
        let mut broken = Vec::new();
        if let Some(subject) = &self.subject {
            judge_text("subject", subject, SUBJECT_LIMIT, &mut broken);
        }
        if self.content.is_empty() {
            broken.push(FieldError::new("content", "required", "content must not be empty"));
        } else {
            judge_text("content", &self.content, CONTENT_LIMIT, &mut broken);
        }
        broken
    }
}

impl OneWay {
    /// The only way to a one-way message.
    ///
    /// # Errors
    /// Every rule that the draft breaks.
    pub fn new(
        id: MessageId,
        sender: UserId,
        to: Phone,
        draft: Draft,
    ) -> Result<OneWay, Vec<FieldError>> {
        let broken = draft.broken_rules();
        if broken.is_empty() { Ok(OneWay { id, sender, draft, to }) } else { Err(broken) }
    }

    /// Its id.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// The message as it is stored: pending, in its first generation.
    pub fn accepted(self, from: Arc<str>, at: OffsetDateTime) -> Message {
        Message {
            id: self.id,
            place: None,
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
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn one_way(draft: Draft) -> Result<OneWay, Vec<FieldError>> {
        let phone = Phone::from_stored("+967771234567");
        OneWay::new(MessageId(Uuid::nil()), UserId(Uuid::nil()), phone, draft)
    }

    // **Feature: enhanced-messaging-system, Property 1: Message Type Consistency**
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn a_message_is_one_way_exactly_without_a_conversation(
            content in ".{1,50}".prop_map(|text| text.replace(is_refused, " ")), seq in prop::option::of(1i64..1000)
        ) {
            let draft = Draft { content, ..Draft::default() };
            let mut message =
                one_way(draft).unwrap().accepted("shop".into(), OffsetDateTime::UNIX_EPOCH);
            prop_assert_eq!(message.kind(), MessageKind::OneWay);
            prop_assert_eq!(message.status, Status::Pending);
            message.place =
                seq.map(|seq| ConversationPosition { conversation: ConversationId(Uuid::nil()), seq });
            prop_assert_eq!(message.kind() == MessageKind::Chat, message.place.is_some());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn lengths_are_counted_in_characters(extra in 0usize..3, wide in any::<bool>()) {
            let unit = if wide { "🙂" } else { "a" };
            let content = unit.repeat(CONTENT_LIMIT - 1 + extra);
            let draft = Draft { content, ..Draft::default() };
            prop_assert_eq!(one_way(draft).is_ok(), extra <= 1);
        }
    }

    #[test]
    fn control_characters_are_no_part_of_a_text() {
        let of =
            |text: String| Draft { subject: Some(text.clone()), content: text, ..Draft::default() };
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
        let draft = Draft {
            subject: Some("s".repeat(SUBJECT_LIMIT + 1)),
            content: "nul \0".into(),
            ..Draft::default()
        };
        let codes: Vec<_> = draft.broken_rules().iter().map(|e| (e.field, e.code)).collect();
        assert_eq!(codes, [("subject", "too_long"), ("content", "invalid_character")]);
        assert_eq!(Draft::default().broken_rules()[0].code, "required");
    }
}
