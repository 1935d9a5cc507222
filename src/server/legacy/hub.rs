//! The existing hubs: payloads are JSON in a text, with names in PascalCase.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{e164, phone, status};
use crate::{
    app::{Error, conversations::ChatRequest},
    domain::{Message, MessageId, Party, Permission::Chat, Phone, UserId, message::Draft},
    server::{
        hub::{
            codec::Data,
            method::{Argument, Invocation, Method, method, one},
            methods::{self, ChatTo, Ids, Saying},
        },
        route::{Who, Writes},
    },
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MessageText<'a> {
    id: Uuid,
    creator_id: Option<Uuid>,
    recipient_phone_number: String,
    message_content: &'a str,
    status: u8,
    from: &'a str,
    access_url: Option<&'a str>,
    url_expires_at: Option<&'a str>,
}

impl<'a> MessageText<'a> {
    fn new(message: &'a Message, account: Option<Phone>) -> MessageText<'a> {
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
            message_content: &message.content,
            status: status(message.status),
            from: phone(&message.from),
            access_url: None,
            url_expires_at: None,
        }
    }
}

/// Chat, in the names that mobile users know of all messages, and in those in which either side sends it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ChatText<'a> {
    #[serde(flatten)]
    message: MessageText<'a>,
    message_id: Uuid,
    sender_id: Option<Uuid>,
    receipient_mobile_number: Option<&'a str>,
    /// The number of the business user, whoever of the two writes.
    mobile_account: Option<&'a str>,
    content: &'a str,
}

/// The business user of a chat message, whose number its text needs.
pub fn account(message: &Message) -> Option<UserId> {
    message.place?;
    match (&message.sender, &message.recipient) {
        (Party::Business(id), _) | (_, Party::Business(id)) => Some(*id),
        _ => None,
    }
}

/// A live message: what is called, and the text that it brings. `account` is the number of its business
/// user, if it has one.
pub fn message(message: &Message, account: Option<&Phone>) -> (&'static str, String) {
    if message.place.is_none() {
        return ("ReceiveMessage", text(&MessageText::new(message, account.cloned())));
    }
    let shown = MessageText::new(message, account.cloned());
    let chat = ChatText {
        message_id: shown.id,
        sender_id: shown.creator_id,
        receipient_mobile_number: match &message.recipient {
            Party::Mobile(number) => Some(phone(number.as_str())),
            Party::Business(_) => None,
        },
        mobile_account: account.map(|account| phone(account.as_str())),
        content: &message.content,
        message: shown,
    };
    ("ReceiveChatMessage", text(&chat))
}

/// A waiting message, as it stands in the text that `ReceivePendingMessages` brings. `account` is the number
/// of its business user, if it has one.
pub fn waiting(message: &Message, account: Option<Phone>) -> String {
    text(&MessageText::new(message, account))
}

/// The text that `ReceivePendingMessages` brings, of those of its messages.
pub fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(","))
}

fn text<T: Serialize>(value: &T) -> String {
    // Texts and numbers written to memory: there is no way to fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// What mobile users call.
pub fn mobile_rows() -> Vec<Method> {
    vec![
        method("AcknowledgeMessage", Who::Mobile, acknowledge).writes(Writes::Receipts),
        method("SendMessage", Who::Mobile, |call, FromMobile(saying)| send(call, saying))
            .writes(Writes::Messages),
        methods::echo(),
    ]
}

/// What business users call.
pub fn business_rows() -> Vec<Method> {
    vec![
        method("SendMessage", Who::Business(Some(Chat)), |call, FromBusiness(saying)| {
            send(call, saying)
        })
        .writes(Writes::Messages),
        methods::echo(),
    ]
}

struct OneId(Ids);

impl Argument for OneId {
    fn read(target: &str, arguments: Vec<Data>) -> Result<OneId, String> {
        let id: Uuid = one(target, arguments)?;
        Ok(OneId(Ids(vec![MessageId(id)])))
    }

    fn acknowledged(&self) -> &[MessageId] {
        self.0.acknowledged()
    }
}

/// Nothing is returned there, whatever was changed.
async fn acknowledge(call: Invocation, OneId(ids): OneId) -> Result<Data, Error> {
    methods::acknowledge(call, ids).await.map(|_| Value::Null.into())
}

/// The existing hubs return nothing, and their messages look otherwise.
async fn send(call: Invocation, saying: Saying) -> Result<Data, Error> {
    methods::send(call, saying).await.map(|_| Value::Null.into())
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

/// What a mobile user says. It says who it is from, and may say nothing else than who it is.
struct FromMobile(Saying);

impl Argument for FromMobile {
    fn read(target: &str, arguments: Vec<Data>) -> Result<FromMobile, String> {
        let message: MobileText = one(target, arguments)?;
        Ok(FromMobile(Saying {
            to: ChatTo::Phone(e164(&message.mobile_account)),
            from: Some(e164(&message.from)),
            request: said(message.content, message.id),
        }))
    }
}

/// What a business user says.
struct FromBusiness(Saying);

impl Argument for FromBusiness {
    fn read(target: &str, arguments: Vec<Data>) -> Result<FromBusiness, String> {
        let message: BusinessText = one(target, arguments)?;
        Ok(FromBusiness(Saying {
            to: ChatTo::Phone(e164(&message.recipient)),
            from: message.mobile_account.map(|account| e164(&account)),
            request: said(message.content, message.message_id),
        }))
    }
}

fn said(content: String, id: Option<Uuid>) -> ChatRequest {
    ChatRequest {
        draft: Draft { content, ..Draft::default() },
        client_message_id: id.map(|id| id.to_string()),
    }
}
