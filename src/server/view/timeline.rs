//! The timeline of a message, and the explanation of what happened to it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{MessageView, addressee};
use crate::{
    app::admin::explain::Explanation,
    domain::{Message, Status},
    store::timeline::MessageTimeline,
};

/// A step of a message's timeline.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Step)]
pub struct StepView {
    /// When the step happened; for a repeated step, the first time.
    #[serde(with = "crate::server::timestamp")]
    pub at: OffsetDateTime,
    /// `pending`, `sent`, `delivered`, `read`, `failed`, `imported`, `retry`, `requeued` or `deleted`; administrators
    /// also see events such as `connection_lost`.
    pub step: String,
    /// Details; for a repeated step, of the last time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Number of times; only for a repeated step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// The last time; only for a repeated step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "crate::server::timestamp::option")]
    pub last_at: Option<OffsetDateTime>,
}

impl StepView {
    fn once(at: OffsetDateTime, step: &str, detail: impl Into<String>) -> StepView {
        StepView { at, step: step.to_owned(), detail: detail.into(), count: None, last_at: None }
    }
}

/// The timeline of a message, in order; `for_administrator` includes who imported it and from which file.
pub fn timeline(
    message: &Message,
    story: &MessageTimeline,
    for_administrator: bool,
) -> Vec<StepView> {
    const ELSEWHERE: &str = "in the previous system";
    const WRITTEN: &str = "written to a connection of the recipient";
    let import = story.import.as_ref();
    let columns = [
        (Some(message.created_at), Status::Pending, "accepted and durable"),
        (message.sent_at, Status::Sent, WRITTEN),
        (message.delivered_at, Status::Delivered, "acknowledged by the recipient's device"),
        (message.read_at, Status::Read, "opened by the recipient"),
    ];
    let mut steps: Vec<StepView> = columns
        .into_iter()
        .filter_map(|(at, status, detail)| {
            at.map(|at| {
                let elsewhere = import.is_some_and(|import| at <= import.at);
                let detail = if elsewhere { ELSEWHERE } else { detail };
                StepView::once(at, status.name(), detail)
            })
        })
        .chain(import.map(|import| {
            let from = format!("from {} by {}", import.file, import.by);
            StepView::once(
                import.at,
                "imported",
                if for_administrator { from } else { String::new() },
            )
        }))
        .chain(story.events.iter().map(|event| {
            let step = if event.kind == "given_up" { "failed" } else { event.kind.as_str() };
            // From the generation before a requeue.
            let is_sent = event.kind == Status::Sent.name();
            let often = event.count > 1;
            StepView {
                count: often.then_some(event.count),
                last_at: often.then_some(event.last_at),
                ..StepView::once(
                    event.at,
                    step,
                    if is_sent { WRITTEN } else { event.detail.as_str() },
                )
            }
        }))
        .collect();
    // A stable sort: steps of the same time keep their natural order.
    steps.sort_by_key(|step| step.at);
    steps
}

/// A message with its timeline.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = MessageStory)]
pub struct MessageStoryView<'a> {
    #[serde(flatten, borrow)]
    pub(crate) message: MessageView<'a>,
    /// Every step, oldest first.
    pub(crate) timeline: Vec<StepView>,
}

impl<'a> MessageStoryView<'a> {
    /// The view for administrators.
    pub fn new(message: &'a Message, story: &MessageTimeline) -> MessageStoryView<'a> {
        MessageStoryView {
            message: MessageView::with_flags(message),
            timeline: timeline(message, story, true),
        }
    }
}

/// An explanation of what happened to a message.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Explanation)]
pub struct ExplanationView {
    pub(crate) id: uuid::Uuid,
    /// Display name of the sender.
    pub(crate) from: String,
    /// Recipient: a phone number in E.164, or the id of a business user.
    pub(crate) to: String,
    /// `pending`, `sent`, `delivered`, `read` or `failed`.
    pub(crate) status: String,
    /// `low`, `normal` or `high`.
    pub(crate) priority: String,
    /// Every step, oldest first.
    pub(crate) steps: Vec<StepView>,
    pub(crate) verdict: VerdictView,
}

#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Verdict)]
pub(crate) struct VerdictView {
    /// Stable identifier, snake_case.
    pub(crate) code: String,
    /// One sentence for people.
    pub(crate) sentence: String,
    /// The command to run next; only for administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

impl ExplanationView {
    /// The view for a party of the message; `for_administrator` adds the command to run next.
    pub fn new(explanation: &Explanation, for_administrator: bool) -> ExplanationView {
        let verdict = &explanation.verdict;
        ExplanationView {
            id: explanation.message.id.0,
            from: explanation.message.from.to_string(),
            to: addressee(&explanation.message),
            status: explanation.message.status.name().to_owned(),
            priority: explanation.message.priority.name().to_owned(),
            steps: timeline(&explanation.message, &explanation.story, for_administrator),
            verdict: VerdictView {
                code: verdict.code.to_owned(),
                sentence: verdict.sentence.clone(),
                next: verdict.next.clone().filter(|_| for_administrator),
            },
        }
    }
}
