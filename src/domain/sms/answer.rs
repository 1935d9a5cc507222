//! What a gateway's answer means.

use regex::{Regex, RegexBuilder};

/// Bounds the memory of a pattern.
const MAX_PATTERN_SIZE: usize = 1 << 20;

/// What the answer of a gateway means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmsVerdict {
    /// The gateway took the message.
    Sent,
    /// It will never take this message.
    Permanent,
    /// It, or another one, may take the message later.
    Passing,
}

impl SmsVerdict {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            SmsVerdict::Sent => "sent",
            SmsVerdict::Permanent => "permanent",
            SmsVerdict::Passing => "passing",
        }
    }
}

/// A condition on an answer; all that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct AnswerRule {
    /// Statuses, both ends included.
    status: Vec<(u16, u16)>,
    body: Option<Regex>,
    json: Option<JsonRule>,
}

/// A condition on one value of a JSON answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct JsonRule {
    pointer: String,
    /// The text of the value; `None`: any but null.
    value: Option<String>,
}

/// Finds the text of a value in a JSON answer by its pointer; `None` for none and for null.
pub type JsonLookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl AnswerRule {
    /// Any status from 200 to 299.
    pub fn success() -> AnswerRule {
        AnswerRule { status: vec![(200, 299)], ..AnswerRule::default() }
    }

    /// Adds statuses: `2xx`, `404`, or several with commas.
    ///
    /// # Errors
    /// It is no list of statuses.
    pub fn with_status(self, text: &str) -> Result<AnswerRule, String> {
        let range = |text: &str| match text.strip_suffix("xx") {
            Some(class) => {
                let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
                Some((class * 100, class * 100 + 99))
            }
            None => {
                let status: u16 = text.parse().ok().filter(|s| (100..=599).contains(s))?;
                Some((status, status))
            }
        };
        let status: Option<Vec<_>> = text.split(',').map(|part| range(part.trim())).collect();
        let status = status.ok_or("must be statuses such as 2xx or 400,404".to_owned())?;
        Ok(AnswerRule { status, ..self })
    }

    /// Adds a pattern that the body must contain.
    ///
    /// # Errors
    /// It is no regular expression, or too large.
    pub fn with_body(self, pattern: &str) -> Result<AnswerRule, String> {
        let built = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_SIZE).build();
        let body = built.map_err(|_| "is no regular expression, or a too large one".to_owned())?;
        Ok(AnswerRule { body: Some(body), ..self })
    }

    /// Adds a value of a JSON answer: `/pointer=value`, or `/pointer` for any value but null.
    ///
    /// # Errors
    /// It is no JSON pointer.
    pub fn with_json(self, text: &str) -> Result<AnswerRule, String> {
        let (at, value) = match text.split_once('=') {
            Some((pointer, value)) => (pointer, Some(value.to_owned())),
            None => (text, None),
        };
        let json = JsonRule { pointer: pointer(at)?, value };
        Ok(AnswerRule { json: Some(json), ..self })
    }

    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        self.status.is_empty() && self.body.is_none() && self.json.is_none()
    }

    /// Whether it holds for an answer.
    pub fn holds(&self, status: u16, body: &str, json: JsonLookup<'_>) -> bool {
        let is_status =
            self.status.is_empty() || self.status.iter().any(|(a, b)| (*a..=*b).contains(&status));
        is_status
            && self.body.as_ref().is_none_or(|pattern| pattern.is_match(body))
            && self.json.as_ref().is_none_or(|rule| {
                let found = json(&rule.pointer);
                rule.value.as_ref().map_or(found.is_some(), |wanted| found.as_ref() == Some(wanted))
            })
    }
}

/// Parses a JSON pointer (RFC 6901).
///
/// # Errors
/// It is none.
pub fn pointer(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("must be a JSON pointer such as /messages/0/id".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_given_must_hold() {
        let json = |at: &str| (at == "/status").then(|| "ok".to_owned());
        let all = AnswerRule::default()
            .with_status("2xx,404")
            .and_then(|rule| rule.with_body("^OK"))
            .and_then(|rule| rule.with_json("/status=ok"))
            .unwrap();
        assert!(all.holds(200, "OK 1", &json) && all.holds(404, "OK", &json));
        assert!(!all.holds(500, "OK", &json), "status");
        assert!(!all.holds(200, "ERR OK", &json), "body");
        assert!(!all.holds(200, "OK", &|_| None), "json");
        assert!(!all.holds(200, "OK", &|_| Some("no".to_owned())), "json");
        let any = AnswerRule::default().with_json("/status").unwrap();
        assert!(any.holds(500, "", &json) && !any.holds(200, "", &|_| None));
        assert!(AnswerRule::success().holds(299, "", &|_| None));
        assert!(!AnswerRule::success().holds(302, "", &|_| None));
    }

    #[test]
    fn what_is_no_rule_is_told() {
        for wrong in ["", "2x", "9xx", "99", "200,", "ok"] {
            assert!(AnswerRule::default().with_status(wrong).is_err(), "{wrong}");
        }
        assert!(AnswerRule::default().with_body("(").is_err());
        assert!(AnswerRule::default().with_body(&"a{1000}".repeat(1000)).is_err());
        assert!(AnswerRule::default().with_json("status=ok").is_err());
    }
}
