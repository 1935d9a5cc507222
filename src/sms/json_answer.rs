//! JSON of gateways: the check of a body, and single values of an answer.

use serde_json::Value;
use uuid::Uuid;

use crate::domain::{
    Phone,
    sms::{SmsGateway, SmsValues},
};

/// An answer as JSON; `None` for anything else.
pub(super) fn parse(body: &str) -> Option<Value> {
    serde_json::from_str(body).ok()
}

/// The text of the value at a pointer: of a string its contents, of a number or truth value how JSON writes it.
pub(super) fn text_at(answer: Option<&Value>, pointer: &str) -> Option<String> {
    match answer?.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null => None,
        Value::Array(_) | Value::Object(_) => Some(String::new()),
    }
}

/// Whether the body of a gateway is JSON for every message, if it is said to be JSON.
///
/// # Errors
/// What is wrong; the text follows the name of the key.
pub fn check_body(gateway: &SmsGateway) -> Result<(), String> {
    if !gateway.has_json_body() {
        return Ok(());
    }
    let (to, id) = (Phone::from_stored("+967771234567"), Uuid::nil().to_string());
    let values = SmsValues {
        to: &to,
        text: "text",
        code: "000000",
        locale: "en",
        id: &id,
        sender: "",
        user: "",
        secret: "",
        basic: "",
        masked: true,
    };
    let body = gateway.render(&values).body.unwrap_or_default();
    match serde_json::from_str::<Value>(&body) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = format!("line {}, column {}", error.line(), error.column());
            Err(format!("is not JSON once the variables are replaced ({at})"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_is_written_in_a_rule() {
        let answer = parse(r#"{"messages":[{"status":"0","n":7,"ok":true,"none":null}]}"#);
        let at = |pointer| text_at(answer.as_ref(), pointer);
        assert_eq!(at("/messages/0/status").as_deref(), Some("0"));
        assert_eq!(at("/messages/0/n").as_deref(), Some("7"));
        assert_eq!(at("/messages/0/ok").as_deref(), Some("true"));
        assert_eq!(at("/messages/0/none"), None);
        assert_eq!(at("/messages/1/status"), None);
        assert_eq!(text_at(parse("OK").as_ref(), "/status"), None);
    }
}
