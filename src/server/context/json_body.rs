//! The body of a request as JSON, and the error for one that cannot be parsed.

use serde::Deserialize;

use super::RequestContext;
use crate::{
    app::blocking::run_blocking,
    domain::{suggestion::nearest, text::excerpt_of_fault},
    server::reply::Problem,
};

/// Some programs write it before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl RequestContext {
    /// The body as JSON.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Problem> {
        let given = self.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media = given.map(|value| value.split(';').next().unwrap_or_default().trim());
        if media.is_some_and(|media| {
            !media.eq_ignore_ascii_case("application/json") && !media.ends_with("+json")
        }) {
            return Err(Problem::new(
                http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send application/json",
            ));
        }
        let read = run_blocking(self.body.len(), || serde_json::from_slice(self.document()));
        read.map_err(|error| unreadable(&error))
    }

    /// Without the byte order mark.
    pub(super) fn document(&self) -> &[u8] {
        self.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.body)
    }
}

/// The error of a document, with a suggestion for an unknown field.
pub fn unreadable(error: &serde_json::Error) -> Problem {
    let told = error.to_string();
    let mut text = excerpt_of_fault(&told).into_owned();
    let code = if error.is_data() && text.starts_with("unknown field") {
        // "unknown field `x`, expected one of `y`, `z`": every other part is a name.
        let mut names = text.split('`').skip(1).step_by(2);
        let near = names.next().and_then(|given| nearest(given, names));
        if let Some(near) = near.map(|near| format!("; did you mean `{near}`?")) {
            text.push_str(&near);
        }
        "unknown_field"
    } else if error.is_data() {
        "invalid_body"
    } else {
        "invalid_json"
    };
    Problem::bad_request(code, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_told_with_its_neighbour() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Body {
            content: String,
            subject: Option<String>,
        }
        let told = |text| {
            let problem = unreadable(&serde_json::from_str::<Body>(text).unwrap_err());
            (problem.code, problem.detail)
        };
        let (code, text) = told(r#"{"contnet":"x"}"#);
        assert_eq!(code, "unknown_field");
        assert!(text.ends_with("did you mean `content`?"), "{text}");
        let long = format!(r#"{{"{}":"x"}}"#, "contnet".repeat(10_000));
        let (code, text) = told(&long);
        assert_eq!(code, "unknown_field");
        assert!(text.chars().count() < 200 && text.contains("expected"), "{text}");
        let wrong = format!(r#"{{"content":["{}"]}}"#, "x".repeat(100_000));
        assert!(told(&wrong).1.chars().count() < 200);
        let (code, text) = told(r#"{"weather":"x"}"#);
        assert!(code == "unknown_field" && !text.contains("did you mean"), "{text}");
        assert_eq!(told("{}").0, "invalid_body");
        assert_eq!(told("{").0, "invalid_json");
    }
}
