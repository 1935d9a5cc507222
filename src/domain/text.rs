//! User-supplied texts: misleading characters, names of business users, and excerpts for error messages.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;
use uuid::Uuid;

/// Maximum length of a business user's name, in characters.
pub const MAX_NAME_LEN: usize = 200;

/// Maximum length of a quoted user text in an error, in characters.
const MAX_EXCERPT_LEN: usize = 100;

/// The beginning of a text, to quote it in an error.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_EXCERPT_LEN) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
    }
}

/// Shortens a parser's error: the offending text is quoted in it in full; the expectation that follows is
/// ours.
pub fn excerpt_of_fault(fault: &str) -> Cow<'_, str> {
    if fault.chars().nth(MAX_EXCERPT_LEN).is_none() {
        return Cow::Borrowed(fault);
    }
    let at = fault.rfind(", expected ").unwrap_or(fault.len());
    let (found, expected) = fault.split_at(at);
    Cow::Owned(format!("{}{expected}", excerpt(found)))
}

/// Whether a character changes the direction of the text around it. What follows it can look like other text,
/// so nothing displayed on a terminal contains it.
pub const fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character misleads on a terminal: it changes the direction of the text around it, ends a line
/// where none ends, or has no width, so that two texts that differ by it look the same.
pub const fn is_misleading(c: char) -> bool {
    is_bidi_control(c)
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}' | '\u{2029}'
            | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether a character is invisible: two texts that differ by it look the same. Unicode's
/// Default_Ignorable_Code_Point, annotation marks, and the blank Braille pattern.
const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Why a text is not a valid name of a business user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("name must have 1 to {MAX_NAME_LEN} characters")]
    Length,
    /// It has invisible characters, line breaks or tabs.
    #[error(
        "name must be one line of visible text, without tabs, line breaks, zero-width or \
         bidirectional control characters"
    )]
    Unseen,
    /// It looks like an id, so that a reference would be ambiguous.
    #[error("name must not look like an id")]
    IsId,
    /// `.` or `..`, which a URL path cannot contain.
    #[error("name must not be . or ..")]
    Dots,
}

/// Normalizes a name for comparison: NFC, trimmed, single spaces.
pub fn normal_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    // Surrounding line breaks and tabs come from copying.
    let composed: String = text.trim().nfc().collect();
    for word in composed.split(is_blank).filter(|word| !word.is_empty()) {
        if !name.is_empty() {
            name.push(' ');
        }
        name.push_str(word);
    }
    name
}

/// Spaces within a line: line breaks and tabs are refused instead.
fn is_blank(c: char) -> bool {
    c.is_whitespace() && !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// Validates the name of a new business user.
///
/// # Errors
/// See [`NameError`].
pub fn new_name(text: &str) -> Result<String, NameError> {
    let name = normal_name(text);
    if name.is_empty() || name.chars().count() > MAX_NAME_LEN {
        return Err(NameError::Length);
    }
    let is_odd =
        |c: char| c.is_control() || is_invisible(c) || matches!(c, '\u{2028}' | '\u{2029}');
    if name.chars().any(is_odd) {
        return Err(NameError::Unseen);
    }
    if Uuid::try_parse(&name).is_ok() {
        return Err(NameError::IsId);
    }
    if matches!(name.as_str(), "." | "..") {
        return Err(NameError::Dots);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_of_a_text_is_repeated_than_its_beginning() {
        assert_eq!(excerpt("short"), "short");
        let exact = "ä".repeat(MAX_EXCERPT_LEN);
        assert_eq!(excerpt(&exact), exact);
        assert_eq!(excerpt(&"ä".repeat(10_000)).chars().count(), MAX_EXCERPT_LEN + 1);
        let short = "unknown field `x`, expected `y` at line 1 column 5";
        assert_eq!(excerpt_of_fault(short), short);
        let found = "z`, expected `".repeat(10_000);
        let long = format!("unknown field `{found}`, expected one of `content`, `subject`");
        let told = excerpt_of_fault(&long);
        assert!(told.starts_with("unknown field `z`, expected `z"), "{told}");
        assert!(told.ends_with("…, expected one of `content`, `subject`"), "{told}");
        assert!(told.chars().count() < MAX_EXCERPT_LEN + 60, "{told}");
        assert_eq!(excerpt_of_fault(&"z".repeat(10_000)).chars().count(), MAX_EXCERPT_LEN + 1);
    }

    #[test]
    fn one_name_has_one_form() {
        let composed = "Caf\u{e9} \u{627}\u{653}";
        assert_eq!(new_name("Cafe\u{301} \u{622}").unwrap(), "Caf\u{e9} \u{622}");
        assert_eq!(normal_name(composed), "Caf\u{e9} \u{622}");
        assert_eq!(new_name(" \t Acme\u{a0}\u{3000} Ltd \n").unwrap(), "Acme Ltd");
        assert_eq!(normal_name("\t  bank  \n"), "bank");
        for plain in ["bank", "Bank of Sana'a", "\u{628}\u{646}\u{643}", "a/b", "...", "%2e"] {
            assert_eq!(new_name(plain).as_deref(), Ok(plain));
        }
    }

    #[test]
    fn what_cannot_be_seen_is_in_no_name() {
        for c in [
            '\t',
            '\n',
            '\r',
            '\0',
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{61c}',
            '\u{202a}',
            '\u{202e}',
            '\u{2028}',
            '\u{2029}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{fe0f}',
            '\u{3164}',
            '\u{e0041}',
        ] {
            let name = format!("ba{c}nk");
            assert_eq!(new_name(&name), Err(NameError::Unseen), "{c:?}");
        }
        // Nothing is left of these.
        for empty in ["", "  ", "\u{a0}\u{2003}", "\t\n"] {
            assert_eq!(new_name(empty), Err(NameError::Length), "{empty:?}");
        }
        assert_eq!(new_name("\u{200b}"), Err(NameError::Unseen));
    }

    #[test]
    fn the_length_is_that_of_the_stored_form() {
        assert!(new_name(&"e\u{301}".repeat(MAX_NAME_LEN)).is_ok());
        assert_eq!(new_name(&"x".repeat(MAX_NAME_LEN + 1)), Err(NameError::Length));
    }

    #[test]
    fn no_name_is_taken_for_an_id_or_a_folder() {
        for id in [
            "018f3a52-7c11-7c3e-9a0d-0242ac120002",
            "018F3A52-7C11-7C3E-9A0D-0242AC120002",
            "018f3a527c117c3e9a0d0242ac120002",
            "{018f3a52-7c11-7c3e-9a0d-0242ac120002}",
            "urn:uuid:018f3a52-7c11-7c3e-9a0d-0242ac120002",
            " 018f3a52-7c11-7c3e-9a0d-0242ac120002 ",
        ] {
            assert_eq!(new_name(id), Err(NameError::IsId), "{id}");
        }
        for dots in [".", "..", " .. "] {
            assert_eq!(new_name(dots), Err(NameError::Dots), "{dots}");
        }
    }

    #[test]
    fn only_what_turns_the_direction_turns_it() {
        let turning: Vec<char> = ('\0'..='\u{ffff}').filter(|c| is_bidi_control(*c)).collect();
        assert_eq!(turning.len(), 9);
        assert!(turning.contains(&'\u{202e}') && turning.contains(&'\u{2067}'));
        // The marks only settle the direction of what has none of its own.
        assert!(!is_bidi_control('\u{200f}'));
    }

    #[test]
    fn no_mark_and_nothing_without_width_reaches_a_terminal() {
        for c in ['\u{202e}', '\u{2066}', '\u{200e}', '\u{200f}', '\u{61c}', '\u{200b}', '\u{200d}']
            .into_iter()
            .chain(['\u{2028}', '\u{2060}', '\u{feff}'])
        {
            assert!(is_misleading(c), "{c:?}");
        }
        assert!(!"سلام a\u{fe0f}…".chars().any(is_misleading));
    }
}
