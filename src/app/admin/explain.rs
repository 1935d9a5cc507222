//! What became of a message: the facts from everywhere, and the verdict that follows from them.

use super::AdminService;
use crate::app::{By, Caller, Error};
use crate::{
    domain::{
        Message, MessageId, Party,
        audit::AuditAction,
        timeline::{ParticipantView, participant_view},
        verdict::{MessageEvent, MessageFacts, Verdict},
    },
    store::{self, messages, presence_log, timeline, timeline::MessageTimeline},
};

/// The whole story of a message.
pub struct Explanation {
    /// The message as it is now.
    pub message: Message,
    /// What its columns do not tell.
    pub story: MessageTimeline,
    pub verdict: Verdict,
}

impl AdminService {
    /// Explains a message that the caller may see, by the message alone: not by what is known of the phone
    /// or of the installation.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn explain(&self, caller: &Caller, id: MessageId) -> Result<Explanation, Error> {
        let message = self.messages.get(caller, id).await?;
        let client = self.core.store().of(&caller.party()).client().await?;
        let mut story = timeline::of(&client, message.id).await?;
        story.events.retain_mut(|event| match participant_view(&event.kind) {
            ParticipantView::Whole => true,
            ParticipantView::WithoutDetail => {
                event.detail.clear();
                true
            }
            ParticipantView::Hidden => false,
        });
        let verdict = Verdict::for_participant(&message, story.import.as_ref());
        Ok(Explanation { message, story, verdict })
    }

    /// Explains any message, for an administrator on the server.
    ///
    /// # Errors
    /// As [`AdminService::explain`], and [`Error::Conflict`] for a message that cannot be read.
    pub async fn explain_any(&self, by: &By, id: MessageId) -> Result<Explanation, Error> {
        let explained = self.explained(by, id).await;
        let phones = explained.iter().flat_map(|explained| explained.message.phones());
        let entry = self.core.entry(by, AuditAction::MessageExplain).of(id).about(phones);
        self.core.record_end(entry, explained).await
    }

    async fn explained(&self, by: &By, id: MessageId) -> Result<Explanation, Error> {
        let party = by.party();
        let store = self.core.store().of(party.as_ref());
        let message = match messages::get_any(&store.client().await?, id).await {
            // An administrator can do something about it; "internal error" would say nothing.
            Err(store::Error::Corrupt(what)) => {
                return Err(Error::Conflict(format!(
                    "what is stored of this message cannot be read ({what}); it is given up when its \
                     recipient connects: esh3ar dlq list --class content"
                )));
            }
            found => found?,
        };
        self.explanation(party.as_ref(), message.ok_or(Error::NotFound("message"))?).await
    }

    async fn explanation(
        &self,
        party: Option<&Party>,
        message: Message,
    ) -> Result<Explanation, Error> {
        let client = self.core.store().of(party).client().await?;
        let now = self.core.clock().now();
        let story = timeline::of(&client, message.id).await?;
        // What was before its import happened elsewhere.
        let from = story.import.as_ref().map_or(message.created_at, |import| import.at);
        let (next_attempt_at, dead_letter) =
            presence_log::next_attempt(&client, message.id).await?;
        let recipient = presence_log::recipient(&client, &message.recipient, now).await?;
        let facts = MessageFacts {
            now,
            next_attempt_at,
            events: story
                .events
                .iter()
                .map(|event| MessageEvent {
                    at: event.last_at,
                    count: event.count,
                    kind: event.kind.clone(),
                    detail: event.detail.clone(),
                })
                .collect(),
            recipient,
            dead_letter: dead_letter.map(|id| id.to_string()),
            runs: presence_log::runs(&client, from).await?,
            outages: presence_log::outages(&client, from).await?,
            retries: self.core.runtime_settings().retry.attempts,
            import: story.import.clone(),
            message,
        };
        let verdict = facts.verdict();
        Ok(Explanation { message: facts.message, story, verdict })
    }
}
