//! Conversations between one business user and one mobile user, and what their status allows.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{
    ConversationId, Party, Phone, UserId,
    message::{FieldError, MessageDraft},
};

/// Maximum length of a `clientMessageId`, in characters.
pub const MAX_CLIENT_MESSAGE_ID_LEN: usize = 100;

/// Status of a conversation. The numbers are the stored ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum ConversationStatus {
    /// Both may write.
    Active = 0,
    /// Archived; the next message makes it active again.
    Archived = 1,
    /// Nobody may write.
    Closed = 2,
}

impl ConversationStatus {
    /// Every status.
    pub const ALL: [ConversationStatus; 3] =
        [ConversationStatus::Active, ConversationStatus::Archived, ConversationStatus::Closed];

    /// The name in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ConversationStatus::Active => "active",
            ConversationStatus::Archived => "archived",
            ConversationStatus::Closed => "closed",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Reads a stored number.
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as i16 == number)
    }

    /// The status after a new message; `None` if it is closed.
    pub fn after_message(self) -> Option<ConversationStatus> {
        match self {
            ConversationStatus::Active | ConversationStatus::Archived => {
                Some(ConversationStatus::Active)
            }
            ConversationStatus::Closed => None,
        }
    }
}

/// Keyset of a page of conversations: the next page begins after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationKeyset {
    /// When the last message was accepted.
    pub last_at: OffsetDateTime,
    /// Which conversation.
    pub id: ConversationId,
}

/// A side of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The business user.
    Business,
    /// The mobile user.
    Mobile,
}

/// A stored conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// Names it everywhere.
    pub id: ConversationId,
    /// The business user.
    pub business: UserId,
    /// How the business user is shown.
    pub business_name: Arc<str>,
    /// The mobile user.
    pub phone: Phone,
    /// The status.
    pub status: ConversationStatus,
    /// The `seq` of the last message; 0 without any.
    pub last_seq: i64,
    /// When the last message was accepted, or the conversation opened.
    pub last_at: OffsetDateTime,
    /// Messages that the business user has not read.
    pub unread_business: i32,
    /// Messages that the mobile user has not read.
    pub unread_mobile: i32,
    /// Begun at.
    pub created_at: OffsetDateTime,
}

impl Conversation {
    /// The side of a party; `None` for everybody else, to whom the conversation does not exist.
    pub fn side(&self, party: &Party) -> Option<Side> {
        Conversation::side_of(self.business, &self.phone, party)
    }

    /// The same, for two given sides.
    pub fn side_of(business: UserId, phone: &Phone, party: &Party) -> Option<Side> {
        match party {
            Party::Business(id) => (*id == business).then_some(Side::Business),
            Party::Mobile(other) => (other == phone).then_some(Side::Mobile),
        }
    }

    /// The party on a side.
    pub fn party(&self, side: Side) -> Party {
        match side {
            Side::Business => Party::Business(self.business),
            Side::Mobile => Party::Mobile(self.phone.clone()),
        }
    }

    /// The unread count of a side.
    pub fn unread(&self, side: Side) -> i32 {
        match side {
            Side::Business => self.unread_business,
            Side::Mobile => self.unread_mobile,
        }
    }

    /// The display name of a side.
    pub fn name(&self, side: Side) -> Arc<str> {
        match side {
            Side::Business => Arc::clone(&self.business_name),
            Side::Mobile => self.phone.as_str().into(),
        }
    }
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::Business => Side::Mobile,
            Side::Mobile => Side::Business,
        }
    }
}

/// The rules that a chat message violates.
pub fn broken_rules(draft: &MessageDraft, client_message_id: Option<&str>) -> Vec<FieldError> {
    let mut broken = draft.broken_rules();
    if draft.subject.is_some() {
        let message = "a chat message cannot have a subject";
        broken.push(FieldError::new("subject", "not_allowed", message));
    }
    if client_message_id.is_some_and(|id| {
        id.is_empty() || id.contains('\0') || id.chars().count() > MAX_CLIENT_MESSAGE_ID_LEN
    }) {
        let message =
            format!("clientMessageId must have 1 to {MAX_CLIENT_MESSAGE_ID_LEN} characters");
        broken.push(FieldError::new("clientMessageId", "out_of_range", message));
    }
    broken
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_its_two_are_in_it() {
        let conversation = Conversation {
            id: ConversationId(Uuid::nil()),
            business: UserId(Uuid::from_u128(1)),
            business_name: "shop".into(),
            phone: Phone::from_stored("+967771234567"),
            status: ConversationStatus::Active,
            last_seq: 0,
            last_at: OffsetDateTime::UNIX_EPOCH,
            unread_business: 1,
            unread_mobile: 2,
            created_at: OffsetDateTime::UNIX_EPOCH,
        };
        for side in [Side::Business, Side::Mobile] {
            assert_eq!(conversation.side(&conversation.party(side)), Some(side));
            assert_eq!(side.other().other(), side);
        }
        let strangers = [
            Party::Business(UserId(Uuid::from_u128(2))),
            Party::Mobile(Phone::from_stored("+967771234568")),
        ];
        assert!(strangers.iter().all(|stranger| conversation.side(stranger).is_none()));
        assert_eq!(conversation.unread(Side::Mobile), 2);
        assert_eq!(&*conversation.name(Side::Mobile), "+967771234567");
    }

    #[test]
    fn a_closed_conversation_stays_closed_and_an_archived_one_wakes() {
        use ConversationStatus::{Active, Archived, Closed};
        let after = ConversationStatus::ALL.map(ConversationStatus::after_message);
        assert_eq!(after, [Some(Active), Some(Active), None]);
        assert!(
            [Active, Archived, Closed]
                .iter()
                .all(|status| ConversationStatus::parse(status.name()) == Some(*status))
        );
    }
}
