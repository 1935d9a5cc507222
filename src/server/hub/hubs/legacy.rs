//! The hubs of the existing system: payloads are JSON in a string, with names in PascalCase.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{
    messages::{self, ChatTarget, MessageIds, SendChat},
    method::{Argument, Invocation, Method, method, one},
};
use crate::{
    app::{Error, chat::conversations::ChatRequest},
    domain::{Message, MessageId, Party, Permission::Chat, Phone, UserId, message::MessageDraft},
    server::{
        hub::protocol::codec::Data,
        legacy::{e164, phone, sanitize::sanitized, status},
        route::{Who, Writes},
    },
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MessageText<'a> {
    id: Uuid,
    creator_id: Option<Uuid>,
    recipient_phone_number: String,
    message_content: Cow<'a, str>,
    status: u8,
    from: Cow<'a, str>,
    access_url: Option<&'a str>,
    url_expires_at: Option<&'a str>,
}

impl<'a> MessageText<'a> {
    fn new(message: &'a Message, account: Option<Phone>, sanitizes: bool) -> MessageText<'a> {
        let creator_id = match &message.sender {
            Party::Business(id) => Some(id.0),
            Party::Mobile(_) => None,
        };
        let recipient = match &message.recipient {
            Party::Mobile(number) => Some(number.clone()),
            Party::Business(_) => account,
        };
        let recipient = recipient.as_ref().map_or("", |number| phone(number.as_str()));
        MessageText {
            id: message.id.0,
            creator_id,
            recipient_phone_number: recipient.to_owned(),
            message_content: sanitized(&message.content, sanitizes),
            status: status(message.status),
            from: sanitized(phone(&message.from), sanitizes),
            access_url: None,
            url_expires_at: None,
        }
    }
}

/// Chat, with the field names of one-way messages and those of `SendMessage`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ChatText<'a> {
    #[serde(flatten)]
    message: MessageText<'a>,
    message_id: Uuid,
    sender_id: Option<Uuid>,
    receipient_mobile_number: Option<&'a str>,
    /// The number of the business user, whichever side writes.
    mobile_account: Option<&'a str>,
    content: Cow<'a, str>,
}

/// The business user of a chat message; its text needs the user's number.
pub fn account(message: &Message) -> Option<UserId> {
    message.position?;
    match (&message.sender, &message.recipient) {
        (Party::Business(id), _) | (_, Party::Business(id)) => Some(*id),
        _ => None,
    }
}

/// A live message: the target of the call, and its text. `account` is the number of its business user, if it
/// has one; `sanitizes` takes tags out of what people wrote.
pub fn message(
    message: &Message,
    account: Option<&Phone>,
    sanitizes: bool,
) -> (&'static str, String) {
    if message.position.is_none() {
        return ("ReceiveMessage", text(&MessageText::new(message, account.cloned(), sanitizes)));
    }
    let shown = MessageText::new(message, account.cloned(), sanitizes);
    let chat = ChatText {
        message_id: shown.id,
        sender_id: shown.creator_id,
        receipient_mobile_number: match &message.recipient {
            Party::Mobile(number) => Some(phone(number.as_str())),
            Party::Business(_) => None,
        },
        mobile_account: account.map(|account| phone(account.as_str())),
        content: shown.message_content.clone(),
        message: shown,
    };
    ("ReceiveChatMessage", text(&chat))
}

/// A waiting message, as it stands in the text of `ReceivePendingMessages`. `account` is the number of its
/// business user, if it has one.
pub fn waiting(message: &Message, account: Option<Phone>, sanitizes: bool) -> String {
    text(&MessageText::new(message, account, sanitizes))
}

/// The text of `ReceivePendingMessages`, from the texts of its messages.
pub fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(","))
}

fn text<T: Serialize>(value: &T) -> String {
    // Serialising strings and numbers to memory cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

pub fn mobile_rows() -> Vec<Method> {
    vec![
        method("AcknowledgeMessage", Who::Mobile, acknowledge).writes(Writes::Receipts),
        method("SendMessage", Who::Mobile, |call, FromMobile(chat)| send(call, chat))
            .writes(Writes::Messages),
        messages::echo(),
    ]
}

pub fn business_rows() -> Vec<Method> {
    vec![
        method("SendMessage", Who::Business(Some(Chat)), |call, FromBusiness(chat)| {
            send(call, chat)
        })
        .writes(Writes::Messages),
        messages::echo(),
    ]
}

struct OneId(MessageIds);

impl Argument for OneId {
    fn read(target: &str, arguments: Vec<Data>) -> Result<OneId, String> {
        let id: Uuid = one(target, arguments)?;
        Ok(OneId(MessageIds(vec![MessageId(id)])))
    }

    fn acknowledged(&self) -> &[MessageId] {
        self.0.acknowledged()
    }
}

/// The existing hubs return nothing.
async fn acknowledge(call: Invocation, OneId(ids): OneId) -> Result<Data, Error> {
    messages::acknowledge(call, ids).await.map(|_| Value::Null.into())
}

/// The existing hubs return nothing.
async fn send(call: Invocation, chat: SendChat) -> Result<Data, Error> {
    messages::send(call, chat).await.map(|_| Value::Null.into())
}

#[derive(Deserialize)]
struct MobileText {
    #[serde(alias = "Id")]
    id: Option<Uuid>,
    #[serde(alias = "From")]
    from: String,
    #[serde(rename = "mobileAccount", alias = "MobileAccount")]
    mobile_account: String,
    #[serde(alias = "Content")]
    content: String,
}

#[derive(Deserialize)]
struct BusinessText {
    #[serde(rename = "messageId", alias = "MessageId")]
    message_id: Option<Uuid>,
    #[serde(alias = "Content")]
    content: String,
    #[serde(rename = "mobileAccount", alias = "MobileAccount")]
    mobile_account: Option<String>,
    #[serde(rename = "receipientMobileNumber", alias = "ReceipientMobileNumber")]
    recipient: String,
}

/// A mobile user names itself as the sender, and may name nobody else.
struct FromMobile(SendChat);

impl Argument for FromMobile {
    fn read(target: &str, arguments: Vec<Data>) -> Result<FromMobile, String> {
        let message: MobileText = one(target, arguments)?;
        Ok(FromMobile(SendChat {
            to: ChatTarget::Phone(e164(&message.mobile_account)),
            from: Some(e164(&message.from)),
            request: chat_request(message.content, message.id),
        }))
    }
}

struct FromBusiness(SendChat);

impl Argument for FromBusiness {
    fn read(target: &str, arguments: Vec<Data>) -> Result<FromBusiness, String> {
        let message: BusinessText = one(target, arguments)?;
        Ok(FromBusiness(SendChat {
            to: ChatTarget::Phone(e164(&message.recipient)),
            from: message.mobile_account.map(|account| e164(&account)),
            request: chat_request(message.content, message.message_id),
        }))
    }
}

fn chat_request(content: String, id: Option<Uuid>) -> ChatRequest {
    ChatRequest {
        draft: MessageDraft { content, ..MessageDraft::default() },
        client_message_id: id.map(|id| id.to_string()),
    }
}
