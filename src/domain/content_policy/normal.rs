//! Texts as a reader or a browser sees them: without invisible characters, with entities decoded.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;

/// Characters that are not displayed and that a host name is compared without.
const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// A text without invisible characters, in compatibility form: full-width letters become ordinary ones.
pub(super) fn visible(text: &str) -> String {
    let shown = text.chars().filter(|c| !is_invisible(*c)).nfkc();
    shown.map(|c| if matches!(c, '\u{3002}' | '\u{ff61}') { '.' } else { c }).collect()
}

/// The same in lower case, with backslashes as slashes: as a browser reads addresses.
pub(super) fn address_form(text: &str) -> String {
    visible(text).to_lowercase().replace('\\', "/")
}

/// A text without tabs and line breaks inside tags: browsers remove them from addresses.
pub(super) fn without_breaks_in_tags(text: &str) -> Cow<'_, str> {
    if !text.contains('<') || !text.contains(['\t', '\n', '\r']) {
        return Cow::Borrowed(text);
    }
    let mut is_inside = false;
    let kept = text.chars().filter(|c| {
        match c {
            '<' => is_inside = true,
            '>' => is_inside = false,
            _ => {}
        }
        !(is_inside && matches!(c, '\t' | '\n' | '\r'))
    });
    Cow::Owned(kept.collect())
}

/// A text without anything that looks like a tag: `html::without_tags` keeps what is more often plain text.
pub(super) fn without_any_tag(text: &str) -> Cow<'_, str> {
    if !text.contains('<') {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        kept.push_str(before);
        let is_tag = tag[1..].starts_with(|c: char| c.is_ascii_alphabetic() || "/!?".contains(c));
        match tag.find('>').filter(|_| is_tag) {
            Some(end) => rest = &tag[end + 1..],
            None if is_tag => {
                // No tag ends after this one.
                kept.push_str(tag);
                return Cow::Owned(kept);
            }
            None => {
                kept.push('<');
                rest = &tag[1..];
            }
        }
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

/// Named entities that can be part of an address, or hide one.
const NAMED: &[(&str, char)] = &[
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("period", '.'),
    ("colon", ':'),
    ("sol", '/'),
    ("bsol", '\\'),
    ("commat", '@'),
    ("percnt", '%'),
    ("num", '#'),
    ("quest", '?'),
    ("lowbar", '_'),
    ("UnderBar", '_'),
    ("hyphen", '-'),
    ("dash", '-'),
    ("shy", '\u{ad}'),
    ("zwj", '\u{200d}'),
    ("zwnj", '\u{200c}'),
    ("ZeroWidthSpace", '\u{200b}'),
    ("NoBreak", '\u{2060}'),
    ("lrm", '\u{200e}'),
    ("rlm", '\u{200f}'),
    ("Tab", '\t'),
    ("NewLine", '\n'),
    ("lpar", '('),
    ("rpar", ')'),
    ("lsqb", '['),
    ("rsqb", ']'),
];

/// A text with its character references decoded.
pub(super) fn decode_entities(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        found.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match reference(rest) {
            Some((c, after)) => {
                found.push(c);
                rest = after;
            }
            None => found.push('&'),
        }
    }
    found.push_str(rest);
    found
}

/// The character that a reference after `&` stands for, and the text after it.
fn reference(text: &str) -> Option<(char, &str)> {
    if let Some(number) = text.strip_prefix('#') {
        let (digits, radix) = match number.strip_prefix(['x', 'X']) {
            Some(digits) => (digits, 16),
            None => (number, 10),
        };
        let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
        let code = u32::from_str_radix(digits.get(..end)?, radix).ok()?;
        let rest = digits.get(end..)?;
        return Some((char::from_u32(code)?, rest.strip_prefix(';').unwrap_or(rest)));
    }
    NAMED.iter().find_map(|(name, c)| {
        let rest = text.strip_prefix(name)?;
        // These are known without a semicolon as well.
        let is_old = matches!(*name, "amp" | "lt" | "gt" | "quot" | "nbsp" | "shy");
        match rest.strip_prefix(';') {
            Some(after) => Some((*c, after)),
            None => is_old.then_some((*c, rest)),
        }
    })
}
