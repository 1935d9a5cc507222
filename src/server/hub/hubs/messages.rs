//! The methods of the hub for messages.
//!
//! | method | argument | returns |
//! | --- | --- | --- |
//! | `Acknowledge` | ids | how many this changed |
//! | `MarkRead` | `{"messageIds": […]}`, or `{"conversationId", "upToSeq"?}` | how many this changed |
//! | `GetPendingMessages` | – | what is not acknowledged, oldest first, at most 100 |
//! | `SendMessage` | `{"conversationId" or "to", "content", …}` | the message |
//! | `GetHistory` | `{"conversationId", "before"?, "after"?, "limit"?}` | messages |
//! | `GetConversations` | `{"status"?, "limit"?}` | conversations |
//! | `Typing` | `{"conversationId"}` | – |
//! | `Echo` | anything | its argument |
//!
//! A list ends where an answer would be longer than [`PAGE_BYTES`](crate::domain::message::MAX_PAGE_BYTES), with
//! at least one item. A client that asks for the items after its last one gets the rest. Lists are measured
//! as JSON, which is the longer encoding.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use super::method::{Argument, Invocation, Method, MethodCall, NoArgument, method, one};
use crate::{
    app::{
        Error,
        chat::{
            ChatService,
            conversations::{ChatRequest, Page},
        },
        delivery::receipts::ReceiptKind,
    },
    domain::{
        ContentType, ConversationId, ConversationStatus, Message, MessageId, Party,
        Permission::Chat, Phone, feed::PAGE_SIZE, message::MessageDraft,
    },
    server::{
        hub::protocol::{codec::Data, error_text::binding_failed},
        route::{Who::Either, Writes},
        view,
    },
};

/// Messages or conversations in an answer.
const DEFAULT_PAGE_SIZE: usize = 50;
const MAX_PAGE_SIZE: usize = 200;

pub(super) fn rows() -> Vec<Method> {
    vec![
        method(ACKNOWLEDGE, Either(None), acknowledge).writes(Writes::Receipts),
        method("MarkRead", Either(None), mark_read).writes(Writes::Receipts),
        method("GetPendingMessages", Either(None), pending).reads(),
        // The conversation that it may open is counted there.
        method("SendMessage", Either(Some(Chat)), send_message).writes(Writes::Messages),
        method("GetHistory", Either(Some(Chat)), history).reads(),
        method("GetConversations", Either(Some(Chat)), conversations).reads(),
        // Sent and not stored; typing has a limit of its own.
        method("Typing", Either(Some(Chat)), typing).reads(),
        echo(),
    ]
}

const ACKNOWLEDGE: &str = "Acknowledge";

/// On every hub.
pub fn echo() -> Method {
    method("Echo", Either(None), |_, argument: Data| async { Ok(argument) }).reads()
}

/// An acknowledgement that the server infers; the client did not call.
pub fn acknowledging(ids: Vec<MessageId>) -> MethodCall {
    MethodCall::new(ACKNOWLEDGE, MessageIds(ids), acknowledge)
}

pub struct MessageIds(pub Vec<MessageId>);

impl MessageIds {
    fn of(ids: Vec<uuid::Uuid>) -> MessageIds {
        MessageIds(ids.into_iter().map(MessageId).collect())
    }
}

impl Argument for MessageIds {
    fn read(target: &str, arguments: Vec<Data>) -> Result<MessageIds, String> {
        one(target, arguments).map(MessageIds::of)
    }

    fn acknowledged(&self) -> &[MessageId] {
        &self.0
    }
}

/// Returns how many messages this changed.
pub async fn acknowledge(call: Invocation, ids: MessageIds) -> Result<Data, Error> {
    record(call, ReceiptKind::Delivered, &ids).await
}

async fn record(call: Invocation, said: ReceiptKind, ids: &MessageIds) -> Result<Data, Error> {
    let times = call.written_at.into_iter().chain(std::iter::repeat(None));
    let words = ids.0.iter().copied().zip(times).collect();
    Ok(json!(call.app.delivery.acknowledge(&call.caller, said, words).await?.len()).into())
}

/// These messages, or a conversation up to a `seq`, or a whole conversation.
enum ReadTarget {
    Messages(MessageIds),
    Conversation(ConversationId, Option<i64>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MarkReadArgument {
    #[serde(default)]
    message_ids: Option<Vec<uuid::Uuid>>,
    #[serde(default)]
    conversation_id: Option<uuid::Uuid>,
    #[serde(default)]
    up_to_seq: Option<i64>,
}

impl Argument for ReadTarget {
    fn read(target: &str, arguments: Vec<Data>) -> Result<ReadTarget, String> {
        let argument: MarkReadArgument = one(target, arguments)?;
        match (argument.message_ids, argument.conversation_id) {
            (Some(ids), None) if argument.up_to_seq.is_none() => {
                Ok(ReadTarget::Messages(MessageIds::of(ids)))
            }
            (None, Some(id)) => {
                Ok(ReadTarget::Conversation(ConversationId(id), argument.up_to_seq))
            }
            _ => Err(binding_failed(
                target,
                "give messageIds, or conversationId and perhaps upToSeq",
            )),
        }
    }

    fn acknowledged(&self) -> &[MessageId] {
        match self {
            ReadTarget::Messages(ids) => ids.acknowledged(),
            ReadTarget::Conversation(..) => &[],
        }
    }
}

async fn mark_read(call: Invocation, opened: ReadTarget) -> Result<Data, Error> {
    match opened {
        ReadTarget::Messages(ids) => record(call, ReceiptKind::Read, &ids).await,
        ReadTarget::Conversation(id, up_to) => {
            let (read, _) = call.app.chat.mark_read(&call.caller, id, up_to).await?;
            Ok(json!(read).into())
        }
    }
}

async fn pending(call: Invocation, _: NoArgument) -> Result<Data, Error> {
    let found = call.app.delivery.pending(&call.caller, PAGE_SIZE).await?;
    Ok(read(&view::history(&found)).into())
}

#[derive(Clone, Debug)]
pub enum ChatTarget {
    Conversation(ConversationId),
    /// The conversation with the user of this phone number.
    Phone(String),
}

/// A chat message to send.
pub struct SendChat {
    pub to: ChatTarget,
    /// The number that the caller claims, where it has to.
    pub from: Option<String>,
    pub request: ChatRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SendMessageArgument {
    conversation_id: Option<uuid::Uuid>,
    to: Option<String>,
    content: String,
    content_type: Option<String>,
    client_message_id: Option<String>,
}

impl Argument for SendChat {
    fn read(target: &str, arguments: Vec<Data>) -> Result<SendChat, String> {
        let argument: SendMessageArgument = one(target, arguments)?;
        let to = match (argument.conversation_id, argument.to) {
            (Some(id), None) => ChatTarget::Conversation(ConversationId(id)),
            (None, Some(phone)) => ChatTarget::Phone(phone),
            _ => return Err(binding_failed(target, "give one of conversationId and to")),
        };
        let content_type = match argument.content_type.as_deref() {
            None => ContentType::default(),
            Some(name) => ContentType::parse(name)
                .ok_or_else(|| binding_failed(target, "contentType must be text or json"))?,
        };
        let draft =
            MessageDraft { content: argument.content, content_type, ..MessageDraft::default() };
        let client_message_id = argument.client_message_id;
        Ok(SendChat { to, from: None, request: ChatRequest { draft, client_message_id } })
    }
}

async fn send_message(call: Invocation, chat: SendChat) -> Result<Data, Error> {
    let message = send(call, chat).await?;
    Ok(json!(view::MessageView::with_flags(&message)).into())
}

/// Fails when not permitted, when `from` is not the caller's number, and for an unknown conversation.
pub async fn send(call: Invocation, chat: SendChat) -> Result<Message, Error> {
    let came = Instant::now();
    let SendChat { to, from, request } = chat;
    let Invocation { app, caller, connection, .. } = call;
    if let Some(from) = &from {
        let own = match caller.party() {
            Party::Mobile(own) => Some(own),
            Party::Business(id) => {
                app.identity.load_business_phones(&[id]).await?;
                app.identity.business_phone(id).flatten()
            }
        };
        // A business user without a number is authenticated by its token alone.
        let is_own = |own: Phone| {
            app.identity.parse_stored_phone("from", from).is_ok_and(|from| from == own)
        };
        if own.is_some_and(|own| !is_own(own)) {
            return Err(Error::field("from", "not_yours", "from must be your own number"));
        }
    }
    let id = match to {
        ChatTarget::Conversation(id) => id,
        ChatTarget::Phone(phone) => {
            ChatService::check_message(&request)?;
            // What is refused must not begin a conversation.
            app.chat.check_content(&caller, &request).await?;
            app.chat.open(&caller, &phone).await?.0.id
        }
    };
    let (message, new) = app.chat.send(&caller, id, request, connection).await?;
    if new {
        // A call carries no trace context.
        app.delivery.trace_accepted(came, || None, [&message]);
    }
    Ok(message)
}

struct HistoryQuery(ConversationId, Page);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GetHistoryArgument {
    conversation_id: uuid::Uuid,
    before: Option<i64>,
    after: Option<i64>,
    limit: Option<usize>,
}

impl Argument for HistoryQuery {
    fn read(target: &str, arguments: Vec<Data>) -> Result<HistoryQuery, String> {
        let GetHistoryArgument { conversation_id, before, after, limit } = one(target, arguments)?;
        let page = Page { before, after, limit: page_size(target, limit)? };
        Ok(HistoryQuery(ConversationId(conversation_id), page))
    }
}

async fn history(call: Invocation, HistoryQuery(id, page): HistoryQuery) -> Result<Data, Error> {
    let Invocation { app, caller, .. } = call;
    let found = if page.is_latest() {
        app.chat.latest_page(&caller, id, page.limit, view::history).await?
    } else {
        view::history(&app.chat.history(&caller, id, page).await?).into()
    };
    Ok(read(&found).into())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConversationsArgument {
    status: Option<String>,
    limit: Option<usize>,
}

impl Argument for ConversationsArgument {
    fn read(target: &str, arguments: Vec<Data>) -> Result<ConversationsArgument, String> {
        let argument: Option<ConversationsArgument> = match arguments.is_empty() {
            true => None,
            false => one(target, arguments)?,
        };
        let argument = argument.unwrap_or_default();
        page_size(target, argument.limit)?;
        Ok(argument)
    }
}

async fn conversations(call: Invocation, wanted: ConversationsArgument) -> Result<Data, Error> {
    let status = match wanted.status.as_deref() {
        None => None,
        Some(name) => Some(ConversationStatus::parse(name).ok_or_else(|| {
            Error::field("status", "unknown", "status must be active, archived or closed")
        })?),
    };
    let limit = wanted.limit.unwrap_or(DEFAULT_PAGE_SIZE).min(MAX_PAGE_SIZE);
    let Invocation { app, caller, .. } = call;
    let page = app.chat.first_page(&caller, status, limit, view::conversations).await?;
    Ok(read(&page)["items"].take().into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TypingArgument {
    conversation_id: uuid::Uuid,
}

impl Argument for TypingArgument {
    fn read(target: &str, arguments: Vec<Data>) -> Result<TypingArgument, String> {
        one(target, arguments)
    }
}

async fn typing(call: Invocation, argument: TypingArgument) -> Result<Data, Error> {
    call.app.chat.typing(&call.caller, ConversationId(argument.conversation_id)).await?;
    Ok(Value::Null.into())
}

/// Parses a page that was encoded as JSON.
fn read(page: &[u8]) -> Value {
    serde_json::from_slice(page).unwrap_or_default()
}

/// Zero is refused: an empty page would look like the end of the list.
fn page_size(target: &str, limit: Option<usize>) -> Result<usize, String> {
    match limit {
        Some(0) => {
            Err(binding_failed(target, &format!("limit is a number from 1 to {MAX_PAGE_SIZE}")))
        }
        limit => Ok(limit.unwrap_or(DEFAULT_PAGE_SIZE).min(MAX_PAGE_SIZE)),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::method::{BoundCall, find},
        *,
    };
    use crate::server::hub::protocol::session::InvocationKind;

    fn bind(target: &str, arguments: Vec<Data>) -> Result<MethodCall, String> {
        match find(&rows(), target)?.bind(target, arguments, &[], InvocationKind::Plain)? {
            BoundCall::Method(call) => Ok(call),
            BoundCall::Diagnostic(call) => panic!("{call:?} is of another hub"),
        }
    }

    #[test]
    fn names_are_matched_without_case_and_arguments_are_counted() {
        assert!(bind("echo", vec![json!(1).into()]).is_ok());
        let id = uuid::Uuid::from_u128(7);
        let call = bind("ACKNOWLEDGE", vec![json!([id]).into()]).unwrap();
        assert_eq!(call.acknowledged(), [MessageId(id)]);
        let text = bind("Echo", vec![]).unwrap_err();
        assert!(
            text.ends_with("Invocation provides 0 argument(s) but target expects 1."),
            "{text}"
        );
        let text = bind("Acknowledge", vec![json!("no list").into()]).unwrap_err();
        assert!(text.contains("Error binding arguments."), "{text}");
        let misspelt = json!({ "conversationId": id, "contnet": "x" });
        let text = bind("SendMessage", vec![misspelt.into()]).unwrap_err();
        assert!(
            text.contains("InvalidDataException: Error binding arguments.")
                && text.contains("unknown field `contnet`, expected one of")
                && text.ends_with("`clientMessageId`."),
            "{text}"
        );
        let missing = json!({ "conversationId": id });
        let text = bind("SendMessage", vec![missing.into()]).unwrap_err();
        assert!(text.ends_with("missing field `content`."), "{text}");
        for (method, argument, why) in [
            ("SendMessage", json!({ "content": "x" }), "conversationId and to"),
            ("SendMessage", json!({ "conversationId": id, "to": "+1", "content": "x" }), "one of"),
            (
                "SendMessage",
                json!({ "to": "+1", "content": "x", "contentType": "html" }),
                "contentType",
            ),
            ("MarkRead", json!({}), "messageIds"),
            ("MarkRead", json!({ "messageIds": [], "conversationId": id }), "messageIds"),
            ("GetHistory", json!({ "conversationId": id, "limit": 0 }), "1 to 200"),
            ("GetConversations", json!({ "limit": 0 }), "1 to 200"),
        ] {
            let text = bind(method, vec![argument.into()]).unwrap_err();
            assert!(text.contains("Error binding") && text.contains(why), "{text}");
        }
        let text = bind("Nothing", vec![]).unwrap_err();
        assert!(text.ends_with("HubException: Method does not exist."), "{text}");
        assert!(bind(&"x".repeat(10_000), vec![]).unwrap_err().len() < 300);
    }
}
