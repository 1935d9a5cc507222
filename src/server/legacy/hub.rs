//! The existing hubs: payloads are JSON in a text, with names in PascalCase.

use serde::Serialize;
use uuid::Uuid;

use super::{phone, status};
use crate::{
    domain::{Message, MessageId, Party},
    server::hub::{
        codec::Data,
        methods::{self, Call},
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
            from: &message.from,
            access_url: None,
            url_expires_at: None,
        }
    }
}

/// A live message, as the text that `ReceiveMessage` brings.
pub fn message(message: &Message) -> String {
    text(&MessageText::from(message))
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
    echo(target, arguments)
}

/// What business users call.
///
/// # Errors
/// The text of the completion's error.
pub fn bind_business(target: &str, arguments: Vec<Data>) -> Result<Call, String> {
    echo(target, arguments)
}

/// On every hub.
fn echo(target: &str, arguments: Vec<Data>) -> Result<Call, String> {
    if target.eq_ignore_ascii_case("Echo") {
        return Call::bind(target, arguments);
    }
    Err(methods::unknown(target))
}
