//! The existing hubs: payloads are JSON in a text, with names in PascalCase.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{e164, phone, status};
use crate::{
    app::conversations::ChatRequest,
    domain::{Message, MessageId, Party, message::Draft},
    server::hub::{
        codec::Data,
        methods::{self, Call, ChatTo},
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
    /// Of chat, the content in the words of the other hub too.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl<'a> From<&'a Message> for MessageText<'a> {
    fn from(message: &'a Message) -> Self {
        let creator_id = match &message.sender {
            Party::Business(id) => Some(id.0),
            Party::Mobile(_) => None,
        };
        let recipient_phone_number = match &message.recipient {
            Party::Mobile(number) => phone(number.as_str()).to_owned(),
            Party::Business(id) => id.to_string(),
        };
        MessageText {
            id: message.id.0,
            creator_id,
            recipient_phone_number,
            message_content: &message.content,
            status: status(message.status),
            from: phone(&message.from),
            access_url: None,
            url_expires_at: None,
            content: message.place.is_some().then_some(message.content.as_str()),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ChatText<'a> {
    id: Uuid,
    from: &'a str,
    mobile_account: &'a str,
    content: &'a str,
    status: u8,
}

/// A live message: what is called, and the text that it brings. `account` is the phone number of the
/// business user that is told, if it is one.
pub fn message(message: &Message, account: &str) -> (&'static str, String) {
    match (&message.place, &message.recipient) {
        (None, _) => ("ReceiveMessage", text(&MessageText::from(message))),
        (Some(_), Party::Mobile(_)) => ("ReceiveChatMessage", text(&MessageText::from(message))),
        (Some(_), Party::Business(_)) => {
            let chat = ChatText {
                id: message.id.0,
                from: phone(&message.from),
                mobile_account: phone(account),
                content: &message.content,
                status: status(message.status),
            };
            ("ReceiveChatMessage", text(&chat))
        }
    }
}

/// Waiting messages, as the text that `ReceivePendingMessages` brings.
pub fn pending(messages: &[&Message]) -> String {
    text(&messages.iter().map(|message| MessageText::from(*message)).collect::<Vec<_>>())
}

fn text<T: Serialize>(value: &T) -> String {
    // Texts and numbers written to memory: there is no way to fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// What mobile users call.
///
/// # Errors
/// The text of the completion's error.
pub fn bind_mobile(target: &str, arguments: Vec<Data>) -> Result<Call, String> {
    if target.eq_ignore_ascii_case("AcknowledgeMessage") {
        let id: Uuid = methods::one(target, arguments)?;
        return Ok(Call::AcknowledgeMessage(MessageId(id)));
    }
    if target.eq_ignore_ascii_case("SendMessage") {
        let message: FromMobile = methods::one(target, arguments)?;
        // It says who it is from, and may say nothing else than who it is.
        return Ok(Call::SendMessage {
            to: ChatTo::Phone(e164(&message.mobile_account).into_owned()),
            from: Some(e164(&message.from).into_owned()),
            request: said(message.content, message.id),
        });
    }
    echo(target, arguments)
}

#[derive(Deserialize)]
struct FromMobile {
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
struct FromBusiness {
    #[serde(rename = "messageId", alias = "MessageId")]
    message_id: Option<Uuid>,
    #[serde(alias = "Content")]
    content: String,
    #[serde(rename = "receipientMobileNumber", alias = "ReceipientMobileNumber")]
    recipient: String,
}

fn said(content: String, id: Option<Uuid>) -> ChatRequest {
    ChatRequest {
        draft: Draft { content, ..Draft::default() },
        client_message_id: id.map(|id| id.to_string()),
    }
}

/// What business users call.
///
/// # Errors
/// The text of the completion's error.
pub fn bind_business(target: &str, arguments: Vec<Data>) -> Result<Call, String> {
    if target.eq_ignore_ascii_case("SendMessage") {
        let message: FromBusiness = methods::one(target, arguments)?;
        return Ok(Call::SendMessage {
            to: ChatTo::Phone(e164(&message.recipient).into_owned()),
            from: None,
            request: said(message.content, message.message_id),
        });
    }
    echo(target, arguments)
}

/// On every hub.
fn echo(target: &str, arguments: Vec<Data>) -> Result<Call, String> {
    if target.eq_ignore_ascii_case("Echo") {
        return Call::bind(target, arguments);
    }
    Err(methods::unknown(target))
}
