//! What clients may call on the hub.
//!
//! | method | argument | returns |
//! | --- | --- | --- |
//! | `Acknowledge` | ids | how many this changed |
//! | `MarkRead` | `{"messageIds": […]}` | how many this changed |
//! | `GetPendingMessages` | – | what is not acknowledged, oldest first, at most 100 |
//! | `SendMessage` | `{"conversationId" or "to", "content", …}` | the message |
//! | `GetHistory` | `{"conversationId", "before"?, "after"?, "limit"?}` | messages |
//! | `GetConversations` | `{"status"?, "limit"?}` | conversations |
//! | `Typing` | `{"conversationId"}` | – |
//! | `Echo` | anything | its argument |

use std::time::Instant;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    codec::{Data, Outcome},
    session::Kind,
};
use crate::{
    app::{
        App, Caller, Error,
        conversations::{ChatRequest, Page},
        ledger::Said,
    },
    domain::{
        ContentType, ConversationId, ConversationStatus, Message, MessageId, Party, Phone,
        feed::PAGE, message::Draft,
    },
    server::{reply, view},
};

/// Messages or conversations in an answer, usually and at most.
const USUAL_PAGE: usize = 50;
const LARGEST_PAGE: usize = 200;

/// How messages look to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As over HTTP.
    Current,
    /// As the existing system writes them.
    Legacy,
}

/// A call that reads as one of a method.
#[derive(Debug)]
pub enum Call {
    /// The recipient has these.
    Acknowledge(Vec<MessageId>),
    /// The recipient has this one, in the words of the existing apps.
    AcknowledgeMessage(MessageId),
    /// The recipient opened these.
    MarkRead(Vec<MessageId>),
    /// The recipient has read a conversation, up to a `seq` or whole.
    ReadConversation(ConversationId, Option<i64>),
    /// What is not acknowledged.
    GetPendingMessages,
    /// Says something in a conversation.
    SendMessage {
        /// Where.
        to: ChatTo,
        /// Who the caller claims to be, where it has to.
        from: Option<String>,
        /// What.
        request: ChatRequest,
    },
    /// What was said in a conversation.
    GetHistory(ConversationId, Page),
    /// The caller's conversations.
    GetConversations(ConversationsArgument),
    /// The caller is writing.
    Typing(ConversationId),
    /// Gives its argument back.
    Echo(Data),
}

/// Where something is said.
#[derive(Clone, Debug)]
pub enum ChatTo {
    /// In this conversation.
    Conversation(ConversationId),
    /// In the one with the user of this phone number.
    Phone(String),
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GetHistoryArgument {
    conversation_id: uuid::Uuid,
    before: Option<i64>,
    after: Option<i64>,
    limit: Option<usize>,
}

/// Which conversations.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConversationsArgument {
    status: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TypingArgument {
    conversation_id: uuid::Uuid,
}

/// How a call went.
pub struct Done {
    /// The answer.
    pub outcome: Outcome,
    /// The recipient has these: they leave the connection's window.
    pub acknowledged: Vec<MessageId>,
}

impl Done {
    /// As of a method that returns nothing; errors stay.
    pub(super) fn without_value(self) -> Done {
        let outcome = match self.outcome {
            Outcome::Value(_) | Outcome::Void => Outcome::Value(Value::Null.into()),
            error @ Outcome::Error(_) => error,
        };
        Done { outcome, ..self }
    }
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

impl Call {
    /// The method's name, as documented.
    pub fn method(&self) -> &'static str {
        match self {
            Call::Acknowledge(_) => "Acknowledge",
            Call::AcknowledgeMessage(_) => "AcknowledgeMessage",
            Call::MarkRead(_) => "MarkRead",
            Call::ReadConversation(..) => "MarkRead",
            Call::GetPendingMessages => "GetPendingMessages",
            Call::SendMessage { .. } => "SendMessage",
            Call::GetHistory(..) => "GetHistory",
            Call::GetConversations(_) => "GetConversations",
            Call::Typing(_) => "Typing",
            Call::Echo(_) => "Echo",
        }
    }

    /// Finds the method, without regard to case as the official server does, and binds the arguments.
    ///
    /// # Errors
    /// The text of the completion's error (reference: the official server's texts, which clients
    /// show).
    pub fn bind(target: &str, arguments: Vec<Data>) -> Result<Call, String> {
        let is = |name: &str| target.eq_ignore_ascii_case(name);
        if is("Acknowledge") {
            let ids: Vec<uuid::Uuid> = one(target, arguments)?;
            Ok(Call::Acknowledge(ids.into_iter().map(MessageId).collect()))
        } else if is("MarkRead") {
            let argument: MarkReadArgument = one(target, arguments)?;
            match (argument.message_ids, argument.conversation_id) {
                (Some(ids), None) if argument.up_to_seq.is_none() => {
                    Ok(Call::MarkRead(ids.into_iter().map(MessageId).collect()))
                }
                (None, Some(id)) => {
                    Ok(Call::ReadConversation(ConversationId(id), argument.up_to_seq))
                }
                _ => Err(misfit(target, "give messageIds, or conversationId and perhaps upToSeq")),
            }
        } else if is("GetPendingMessages") {
            none(target, &arguments)?;
            Ok(Call::GetPendingMessages)
        } else if is("SendMessage") {
            let argument: SendMessageArgument = one(target, arguments)?;
            let to = match (argument.conversation_id, argument.to) {
                (Some(id), None) => ChatTo::Conversation(ConversationId(id)),
                (None, Some(phone)) => ChatTo::Phone(phone),
                _ => return Err(misfit(target, "give one of conversationId and to")),
            };
            let content_type = match argument.content_type.as_deref() {
                None => ContentType::default(),
                Some(name) => ContentType::parse(name)
                    .ok_or_else(|| misfit(target, "contentType is text or json"))?,
            };
            let draft = Draft { content: argument.content, content_type, ..Draft::default() };
            let client_message_id = argument.client_message_id;
            let request = ChatRequest { draft, client_message_id };
            Ok(Call::SendMessage { to, from: None, request })
        } else if is("GetHistory") {
            let GetHistoryArgument { conversation_id, before, after, limit } =
                one(target, arguments)?;
            let page = Page { before, after, limit: page_of(target, limit)? };
            Ok(Call::GetHistory(ConversationId(conversation_id), page))
        } else if is("GetConversations") {
            let argument: Option<ConversationsArgument> = match arguments.is_empty() {
                true => None,
                false => one(target, arguments)?,
            };
            let argument = argument.unwrap_or_default();
            page_of(target, argument.limit)?;
            Ok(Call::GetConversations(argument))
        } else if is("Typing") {
            let argument: TypingArgument = one(target, arguments)?;
            Ok(Call::Typing(ConversationId(argument.conversation_id)))
        } else if is("Echo") {
            let [argument] = <[Data; 1]>::try_from(arguments)
                .map_err(|given| miscounted(target, given.len(), 1))?;
            Ok(Call::Echo(argument))
        } else {
            Err(unknown(target))
        }
    }

    /// The messages of which this is the recipient's word.
    pub fn words(&self) -> &[MessageId] {
        match self {
            Call::Acknowledge(ids) | Call::MarkRead(ids) => ids,
            Call::AcknowledgeMessage(id) => std::slice::from_ref(id),
            _ => &[],
        }
    }

    /// Does what was asked. `written_at` tells when each message of an acknowledgement was written to
    /// the calling connection, and `connection` which that is.
    pub async fn run(
        self,
        app: App,
        caller: Caller,
        written_at: Vec<Option<OffsetDateTime>>,
        connection: u64,
    ) -> Done {
        let method = self.method();
        metrics::counter!("esh3ar_hub_invocations_total", "method" => method).increment(1);
        let acknowledged = self.words().to_vec();
        let result: Result<Data, Error> = match self {
            Call::Acknowledge(ids) => {
                say(&app, &caller, Said::Acknowledged, &ids, written_at).await.map(Data::from)
            }
            // Nothing is returned there, whatever was changed.
            Call::AcknowledgeMessage(id) => {
                say(&app, &caller, Said::Acknowledged, &[id], written_at)
                    .await
                    .map(|_| Value::Null.into())
            }
            Call::MarkRead(ids) => {
                say(&app, &caller, Said::Opened, &ids, written_at).await.map(Data::from)
            }
            Call::GetPendingMessages => {
                app.pending(&caller, PAGE).await.map(|found| json!(view::messages(&found)).into())
            }
            Call::Echo(value) => Ok(value),
            Call::ReadConversation(id, up_to) => {
                app.read_conversation(&caller, id, up_to).await.map(|(read, _)| json!(read).into())
            }
            Call::SendMessage { to, from, request } => {
                let sent = send(&app, &caller, to, from, request, connection).await;
                sent.map(|message| json!(view::MessageView::from(&message)).into())
            }
            Call::GetHistory(id, page) if page.is_latest() => app
                .latest(&caller, id, page.limit, view::history)
                .await
                .map(|page| read(&page).into()),
            Call::GetHistory(id, page) => app
                .history(&caller, id, page)
                .await
                .map(|found| json!(view::messages(&found)).into()),
            Call::GetConversations(argument) => list(&app, &caller, &argument).await,
            Call::Typing(id) => app.typing(&caller, id).await.map(|()| Value::Null.into()),
        };
        match result {
            Ok(value) => Done { outcome: Outcome::Value(value), acknowledged },
            // What could not be stored stays in the window: it will be said again.
            Err(error) => {
                Done { outcome: Outcome::Error(failed(method, &error)), acknowledged: Vec::new() }
            }
        }
    }
}

async fn send(
    app: &App,
    caller: &Caller,
    to: ChatTo,
    from: Option<String>,
    request: ChatRequest,
    connection: u64,
) -> Result<Message, Error> {
    let came = Instant::now();
    if let Some(from) = &from {
        let own = match caller.party() {
            Party::Mobile(own) => Some(own),
            Party::Business(id) => {
                app.learn_business_phones(&[id]).await?;
                app.business_phone(id).flatten()
            }
        };
        // A business user without a number of its own is known by its token alone.
        let is_own = |own: Phone| app.stored_phone("from", from).is_ok_and(|from| from == own);
        if own.is_some_and(|own| !is_own(own)) {
            return Err(Error::field("from", "not_yours", "from must be your own number"));
        }
    }
    let id = match to {
        ChatTo::Conversation(id) => id,
        ChatTo::Phone(phone) => {
            App::check_said(&request)?;
            app.open_conversation(caller, &phone).await?.0.id
        }
    };
    let (message, new) = app.say_in(caller, id, request, connection).await?;
    if new {
        // A call brings no word of what its caller was doing.
        app.trace_accepted(came, || None, [&message]);
    }
    Ok(message)
}

async fn list(app: &App, caller: &Caller, argument: &ConversationsArgument) -> Result<Data, Error> {
    let status = match argument.status.as_deref() {
        None => None,
        Some(name) => Some(ConversationStatus::parse(name).ok_or_else(|| {
            Error::field("status", "unknown", "status is active, archived or closed")
        })?),
    };
    let limit = argument.limit.unwrap_or(USUAL_PAGE).min(LARGEST_PAGE);
    let page = app.newest_conversations(caller, status, limit, view::conversations).await?;
    Ok(read(&page)["items"].take().into())
}

/// What a page is, which was written as JSON.
fn read(page: &[u8]) -> Value {
    serde_json::from_slice(page).unwrap_or_default()
}

async fn say(
    app: &App,
    caller: &Caller,
    said: Said,
    ids: &[MessageId],
    written_at: Vec<Option<OffsetDateTime>>,
) -> Result<Value, Error> {
    let times = written_at.into_iter().chain(std::iter::repeat(None));
    let words = ids.iter().copied().zip(times).collect();
    Ok(json!(app.say(caller, said, words).await?.len()))
}

/// The text for an error of the application; clients see everything after `HubException: `.
fn failed(method: &str, error: &Error) -> String {
    let (_, code) = reply::classify(error);
    metrics::counter!("esh3ar_errors_total", "way" => "hub", "code" => code).increment(1);
    failed_with(method, &format!("{code}: {error}"))
}

/// The text for an application error of a method.
pub(super) fn failed_with(method: &str, text: &str) -> String {
    let method = shown(method);
    format!("An unexpected error occurred invoking '{method}' on the server. HubException: {text}")
}

/// The text for a method that is not there.
pub fn unknown(target: &str) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. HubException: Method does not exist.",
        shown(target)
    )
}

/// Whether a method is called in the way that it answers.
pub(super) fn check_kind(method: &str, streams: bool, kind: Kind) -> Result<(), String> {
    match (streams, kind) {
        (false, Kind::Plain) | (true, Kind::Stream) => Ok(()),
        (true, Kind::Plain) => Err(format!(
            "The client attempted to invoke the streaming '{method}' method with a non-streaming \
             invocation."
        )),
        (false, Kind::Stream) => Err(format!(
            "The client attempted to invoke the non-streaming '{method}' method with a streaming \
             invocation."
        )),
    }
}

pub(super) fn check_uploads(method: &str, given: usize, expected: usize) -> Result<(), String> {
    if given == expected {
        return Ok(());
    }
    let text = format!("Client sent {given} stream(s), Hub method expects {expected}.");
    Err(failed_with(method, &text))
}

/// Reads the one argument of a method.
pub fn one<T: DeserializeOwned>(target: &str, arguments: Vec<Data>) -> Result<T, String> {
    let [argument] =
        <[Data; 1]>::try_from(arguments).map_err(|given| miscounted(target, given.len(), 1))?;
    // The official server does not say what is wrong; who misspelt a field would look for it long.
    serde_json::from_value(argument.into_json())
        .map_err(|error| misfit(target, cut(&error.to_string(), 300)))
}

pub(super) fn none(target: &str, arguments: &[Data]) -> Result<(), String> {
    if arguments.is_empty() { Ok(()) } else { Err(miscounted(target, arguments.len(), 0)) }
}

pub(super) fn miscounted(target: &str, given: usize, expected: usize) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. InvalidDataException: Invocation \
         provides {given} argument(s) but target expects {expected}.",
        shown(target)
    )
}

/// Arguments of which nothing can be made, and why.
fn misfit(target: &str, why: &str) -> String {
    format!(
        "Failed to invoke '{}' due to an error on the server. InvalidDataException: Error binding \
         arguments. Make sure that the types of the provided values match the types of the hub \
         method being invoked. {why}.",
        shown(target)
    )
}

/// How many a page is to hold. Nothing at all would look like the end of the list.
fn page_of(target: &str, limit: Option<usize>) -> Result<usize, String> {
    match limit {
        Some(0) => Err(misfit(target, &format!("limit is a number from 1 to {LARGEST_PAGE}"))),
        limit => Ok(limit.unwrap_or(USUAL_PAGE).min(LARGEST_PAGE)),
    }
}

/// What a client sent, cut so that an answer cannot be blown up with it.
fn shown(text: &str) -> &str {
    cut(text, 100)
}

fn cut(text: &str, chars: usize) -> &str {
    let end = text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_without_case_and_arguments_are_counted() {
        assert!(matches!(Call::bind("echo", vec![json!(1).into()]), Ok(Call::Echo(_))));
        let id = uuid::Uuid::from_u128(7);
        assert!(
            matches!(Call::bind("ACKNOWLEDGE", vec![json!([id]).into()]), Ok(Call::Acknowledge(v)) if v == [MessageId(id)])
        );
        let text = Call::bind("Echo", vec![]).unwrap_err();
        assert!(
            text.ends_with("Invocation provides 0 argument(s) but target expects 1."),
            "{text}"
        );
        let text = Call::bind("Acknowledge", vec![json!("no list").into()]).unwrap_err();
        assert!(text.contains("Error binding arguments."), "{text}");
        let misspelt = json!({ "conversationId": id, "contnet": "x" });
        let text = Call::bind("SendMessage", vec![misspelt.into()]).unwrap_err();
        assert!(
            text.contains("InvalidDataException: Error binding arguments.")
                && text.contains("unknown field `contnet`, expected one of")
                && text.ends_with("`clientMessageId`."),
            "{text}"
        );
        let missing = json!({ "conversationId": id });
        let text = Call::bind("SendMessage", vec![missing.into()]).unwrap_err();
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
            let text = Call::bind(method, vec![argument.into()]).unwrap_err();
            assert!(text.contains("Error binding") && text.contains(why), "{text}");
        }
        let text = Call::bind("Nothing", vec![]).unwrap_err();
        assert!(text.ends_with("HubException: Method does not exist."), "{text}");
        assert!(Call::bind(&"x".repeat(10_000), vec![]).unwrap_err().len() < 300);
    }
}
