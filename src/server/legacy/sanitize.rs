//! Texts for the existing apps, which may show them as HTML: without tags and scripts.

use std::borrow::Cow;

use serde_json::Value;

use crate::domain::html::without_tags;

/// JSON in a string of JSON, and so on, is followed this far; what is deeper is sanitised as text.
const MAX_NESTED: usize = 4;

/// The text as it is sent. In a JSON document each name and value is sanitised for itself, so that the document
/// stays valid.
pub fn sanitized(text: &str, enabled: bool) -> Cow<'_, str> {
    // In JSON a tag may be written with escapes.
    if !enabled || !text.contains(['<', '\\']) {
        return Cow::Borrowed(text);
    }
    clean(text, MAX_NESTED)
}

fn clean(text: &str, depth: usize) -> Cow<'_, str> {
    if depth == 0 || !text.trim_start().starts_with(['{', '[', '"']) {
        return without_tags(text);
    }
    let Ok(mut document) = serde_json::from_str(text) else { return without_tags(text) };
    if clean_value(&mut document, depth - 1) {
        Cow::Owned(document.to_string())
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether something was changed.
fn clean_value(value: &mut Value, depth: usize) -> bool {
    match value {
        Value::String(text) => match clean(text, depth) {
            Cow::Owned(plain) if plain != *text => {
                *text = plain;
                true
            }
            _ => false,
        },
        Value::Array(items) => {
            items.iter_mut().fold(false, |changed, item| clean_value(item, depth) | changed)
        }
        Value::Object(fields) => {
            let mut changed =
                fields.values_mut().fold(false, |changed, item| clean_value(item, depth) | changed);
            if fields.keys().any(|name| without_tags(name) != name.as_str()) {
                changed = true;
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(name, value)| (without_tags(&name).into_owned(), value))
                    .collect();
            }
            changed
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_sanitised_by_its_values_and_stays_json() {
        let document =
            json!({ "a": "<b>x</b>", "b": ["<img src=\"x\" onerror=y>z", 1], "<i>c": 2 });
        let plain: Value = serde_json::from_str(&sanitized(&document.to_string(), true)).unwrap();
        assert_eq!(plain, json!({ "a": "x", "b": ["z", 1], "c": 2 }));
        let inside = json!({ "text": json!({ "a": "<script>x</script>y" }).to_string() });
        let plain: Value = serde_json::from_str(&sanitized(&inside.to_string(), true)).unwrap();
        assert_eq!(plain["text"], json!({ "a": "y" }).to_string());
        let escaped = "{\"a\": \"\\u003cscript\\u003ex\\u003c/script\\u003ey\"}";
        let plain: Value = serde_json::from_str(&sanitized(escaped, true)).unwrap();
        assert_eq!(plain, json!({ "a": "y" }));
        // What needs no change keeps its form.
        let untouched = "{ \"b\": 1.50,  \"a\": \"1 < 2\\n\" }";
        assert_eq!(sanitized(untouched, true), untouched);
    }

    #[test]
    fn it_can_be_turned_off() {
        assert_eq!(sanitized("<b>x</b>", false), "<b>x</b>");
        assert_eq!(sanitized("<b>x</b>", true), "x");
    }
}
