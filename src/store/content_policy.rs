//! Content policies of business users: kept as JSON, as the administrator wrote them.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Client, Error, Statements, statement::statements};
use crate::domain::{
    UserId,
    content_policy::{
        ContentPolicy, LinkRules, MAX_POLICY_LEN, PatternRule, PolicyAction, PolicyError,
    },
};

statements! {
    OF_USER = "SELECT content_policy_id, content_policy::text AS content_policy FROM business_users WHERE id = $1";
}

/// Why a text is not a content policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyTextError {
    #[error("a content policy has at most {MAX_POLICY_LEN} bytes")]
    TooLong,
    #[error("the content policy is not JSON")]
    NotJson,
    #[error("{0}")]
    Shape(String),
    #[error(transparent)]
    Rule(#[from] PolicyError),
}

/// Parses and compiles a policy.
///
/// # Errors
/// [`PolicyTextError`] for what cannot be used.
pub fn parse(text: &str) -> Result<ContentPolicy, PolicyTextError> {
    if text.len() > MAX_POLICY_LEN {
        return Err(PolicyTextError::TooLong);
    }
    let value: Value = serde_json::from_str(text).map_err(|_| PolicyTextError::NotJson)?;
    let fields = object(&value, "the content policy", &["links", "patterns"])?;
    let links = match fields.get("links") {
        None | Some(Value::Null) => None,
        Some(value) => Some(links(value)?),
    };
    let patterns = match fields.get("patterns") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.iter().map(pattern).collect::<Result<_, _>>()?,
        Some(_) => return Err(shape("patterns must be a list")),
    };
    Ok(ContentPolicy::new(links, patterns)?)
}

fn shape(text: impl Into<String>) -> PolicyTextError {
    PolicyTextError::Shape(text.into())
}

fn object<'a>(
    value: &'a Value,
    what: &str,
    known: &[&str],
) -> Result<&'a Map<String, Value>, PolicyTextError> {
    let Value::Object(fields) = value else {
        return Err(shape(format!("{what} must be an object")));
    };
    if fields.keys().any(|name| !known.contains(&name.as_str())) {
        return Err(shape(format!("{what} has only the fields {}", known.join(", "))));
    }
    Ok(fields)
}

fn links(value: &Value) -> Result<LinkRules, PolicyTextError> {
    let fields = object(value, "links", &["allow", "deny", "shorteners", "action"])?;
    let shorteners = match fields.get("shorteners") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(permitted)) => *permitted,
        Some(_) => return Err(shape("links.shorteners must be true or false")),
    };
    Ok(LinkRules {
        allow: hosts(fields, "allow")?,
        deny: hosts(fields, "deny")?.unwrap_or_default(),
        shorteners,
        action: action(fields, "links")?,
    })
}

fn hosts(fields: &Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, PolicyTextError> {
    let wrong = || shape(format!("links.{name} must be a list of hosts"));
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let host = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(wrong);
            items.iter().map(host).collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(wrong()),
    }
}

fn action(fields: &Map<String, Value>, what: &str) -> Result<PolicyAction, PolicyTextError> {
    match fields.get("action").and_then(Value::as_str) {
        Some("refuse") => Ok(PolicyAction::Refuse),
        Some("flag") => Ok(PolicyAction::Flag),
        _ => Err(shape(format!("the action of {what} must be refuse or flag"))),
    }
}

fn pattern(value: &Value) -> Result<PatternRule, PolicyTextError> {
    let fields = object(value, "a pattern", &["name", "regex", "action"])?;
    let text = |name: &str| {
        let text = fields.get(name).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| shape(format!("a pattern needs the text {name}")))
    };
    Ok(PatternRule {
        name: text("name")?,
        regex: text("regex")?,
        action: action(fields, "a pattern")?,
    })
}

/// The policy of a business user, with its id; `None` if it has none.
///
/// # Errors
/// Any failure of the database; [`Error::Corrupt`] for a policy that cannot be used.
pub async fn of_user(
    client: &Client,
    user: UserId,
) -> Result<Option<(Uuid, ContentPolicy)>, Error> {
    let Some(row) = client.query_opt(&OF_USER, &[&user.0]).await? else { return Ok(None) };
    let id: Option<Uuid> = row.try_get("content_policy_id")?;
    let text: Option<String> = row.try_get("content_policy")?;
    let Some((id, text)) = id.zip(text) else { return Ok(None) };
    let policy = parse(&text);
    let policy = policy.map_err(|error| Error::Corrupt(format!("a content policy: {error}")))?;
    Ok(Some((id, policy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_from_json() {
        let policy = parse(
            r#"{"links": {"allow": ["example.com", "*.example.org"], "deny": ["bad.example.org"], "shorteners": false,
                "action": "refuse"}, "patterns": [{"name": "pin", "regex": "(?i)pin", "action": "flag"}]}"#,
        )
        .unwrap();
        assert_eq!((policy.rules(), policy.hosts()), (4, 3));
        for empty in ["{}", r#"{"patterns": []}"#] {
            assert_eq!(parse(empty).unwrap().rules(), 0, "{empty}");
        }
    }

    #[test]
    fn other_texts_are_no_policies() {
        for text in [
            "",
            "[]",
            r#"{"link": {}}"#,
            r#"{"links": {}}"#,
            r#"{"links": {"allow": "example.com", "action": "flag"}}"#,
            r#"{"links": {"allow": ["https://example.com"], "action": "flag"}}"#,
            r#"{"links": {"shorteners": 1, "action": "flag"}}"#,
            r#"{"patterns": [{"name": "a", "regex": "a"}]}"#,
            r#"{"patterns": [{"name": "a", "regex": "(", "action": "flag"}]}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse(&" ".repeat(MAX_POLICY_LEN + 1)).unwrap_err(), PolicyTextError::TooLong);
    }
}
