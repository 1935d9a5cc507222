//! Makes foreign text safe for a terminal: it must not control the terminal, or change how the text beside it
//! looks.

use crate::domain::text::is_misleading;

/// One line: replaces control characters by blanks, and escapes those that change the writing direction or are
/// invisible.
pub(crate) fn line(text: &str) -> String {
    replace_unsafe(text, |c| c.is_control().then_some(' '))
}

/// The same, but keeps line feeds and tabs.
pub(crate) fn text(text: &str) -> String {
    replace_unsafe(text, |c| (c.is_control() && !matches!(c, '\n' | '\t')).then_some(' '))
}

fn replace_unsafe(text: &str, other: impl Fn(char) -> Option<char>) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match other(c) {
            Some(other) => shown.push(other),
            None if is_misleading(c) => shown.extend(c.escape_unicode()),
            None => shown.push(c),
        }
    }
    shown
}

/// The same JSON with such characters escaped. They occur only inside strings, where each may be
/// escaped.
pub(crate) fn json(json: String) -> String {
    let steers = |c: char| matches!(c, '\u{7f}'..='\u{9f}') || is_misleading(c);
    if !json.contains(steers) {
        return json;
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            c if steers(c) => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_steers_the_terminal() {
        let text = "a\u{1b}[2Jb\tc\nd \u{202e}exe.gpj\u{202c} \u{2067}x\u{2069} سلام";
        let same = "\\u{202e}exe.gpj\\u{202c} \\u{2067}x\\u{2069} سلام";
        assert_eq!(line(text), format!("a [2Jb c d {same}"));
        assert_eq!(super::text(text), format!("a [2Jb\tc\nd {same}"));
        let marks = ['\u{61c}', '\u{200b}', '\u{200e}', '\u{200f}', '\u{feff}', '\u{9b}'];
        for c in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain(marks) {
            assert!(!line(&c.to_string()).contains(c) && !super::text(&c.to_string()).contains(c));
        }
    }

    #[test]
    fn json_says_the_same() {
        let value = serde_json::json!({ "a\u{202d}": "\u{2066}b\u{2069}\u{9b}2J\u{7f}\u{1b} سلام" });
        let text = json(value.to_string());
        assert!(!text.contains(|c: char| c.is_control() || is_misleading(c)), "{text}");
        assert!(text.contains("\\u202d") && text.contains("\\u009b") && text.contains("سلام"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
