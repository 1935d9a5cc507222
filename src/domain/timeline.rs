//! Which exceptional steps of a message its sender and its recipient are shown.
//!
//! They are shown facts about the message only: not when a phone was connected, and not who administers.

/// The kind of an exceptional step; see `delivery_events.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Written to a connection, in a generation before the present one.
    Sent,
    /// Not acknowledged in time.
    Retry,
    /// Failed.
    GivenUp,
    /// The connection that it was written to ended.
    ConnectionLost,
    /// Acknowledged after it had failed.
    LateAcknowledgement,
    /// Sent again by an administrator.
    Requeued,
    /// Its dead letter was deleted by an administrator.
    DeadLetterDeleted,
    /// Its dead letter was deleted by age.
    DeadLetterExpired,
    /// Deleted by an administrator.
    Deleted,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [EventKind; 9] = [
        EventKind::Sent,
        EventKind::Retry,
        EventKind::GivenUp,
        EventKind::ConnectionLost,
        EventKind::LateAcknowledgement,
        EventKind::Requeued,
        EventKind::DeadLetterDeleted,
        EventKind::DeadLetterExpired,
        EventKind::Deleted,
    ];

    /// The stored name.
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::Sent => "sent",
            EventKind::Retry => "retry",
            EventKind::GivenUp => "given_up",
            EventKind::ConnectionLost => "connection_lost",
            EventKind::LateAcknowledgement => "late_acknowledgement",
            EventKind::Requeued => "requeued",
            EventKind::DeadLetterDeleted => "dead_letter_deleted",
            EventKind::DeadLetterExpired => "dead_letter_expired",
            EventKind::Deleted => "deleted",
        }
    }

    const fn participant_view(self) -> ParticipantView {
        match self {
            EventKind::Sent | EventKind::Retry | EventKind::GivenUp => ParticipantView::Whole,
            EventKind::Requeued | EventKind::Deleted => ParticipantView::WithoutDetail,
            EventKind::ConnectionLost
            | EventKind::LateAcknowledgement
            | EventKind::DeadLetterDeleted
            | EventKind::DeadLetterExpired => ParticipantView::Hidden,
        }
    }
}

/// What the sender and the recipient of a message are shown of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParticipantView {
    /// The step with its detail.
    Whole,
    /// The step without its detail, which names an administrator.
    WithoutDetail,
    /// Nothing.
    Hidden,
}

/// What the sender and the recipient are shown of a step of this kind. An unknown kind is hidden.
pub fn participant_view(kind: &str) -> ParticipantView {
    let known = EventKind::ALL.into_iter().find(|known| known.name() == kind);
    known.map_or(ParticipantView::Hidden, EventKind::participant_view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn participants_are_not_shown_when_a_phone_was_connected() {
        let shown: Vec<&str> = EventKind::ALL
            .into_iter()
            .map(EventKind::name)
            .filter(|kind| participant_view(kind) != ParticipantView::Hidden)
            .collect();
        assert_eq!(shown, ["sent", "retry", "given_up", "requeued", "deleted"]);
        assert_eq!(participant_view("a kind of a later version"), ParticipantView::Hidden);
    }
}
