//! Where a variable stands, and how its value is encoded there so that it stays there.

use std::fmt::Write as _;

/// Where a variable stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// In the path or query of a URL, or in a form.
    Percent,
    /// In a string of JSON.
    JsonString,
    /// In JSON, as a number.
    JsonNumber,
    /// In the text or an attribute of XML.
    Xml,
    /// In a header.
    Header,
}

impl Position {
    /// Appends a value, encoded for this place.
    pub(super) fn encode(self, value: &str, out: &mut String) {
        match self {
            Position::Percent => percent(value, out),
            Position::JsonString => json(value, out),
            Position::JsonNumber => out.extend(value.chars().filter(char::is_ascii_digit)),
            Position::Xml => xml(value, out),
            Position::Header => {
                out.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }))
            }
        }
    }
}

/// Also for forms: every decoder reads `%20` as a space.
fn percent(value: &str, out: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

fn json(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

fn xml(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // As they are, a parser would turn them into spaces in an attribute.
            '\t' | '\n' | '\r' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            // XML 1.0 has no way to write these.
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}
