//! Takes tags out of texts, for clients that show a text as HTML.
//!
//! Tags are found as the HTML5 tokenizer finds them. One form is kept, because it is plain text far more often
//! than a tag: `<` directly after a letter or digit and before a name of one letter, as in `if a<b and c>d`. It
//! is kept only without a valued attribute whose name has more than one letter, so that it can carry neither an
//! event handler nor an address.

use std::borrow::Cow;

/// After so many passes every remaining `<` is removed: nested fragments could otherwise need a pass each.
const MAX_PASSES: usize = 8;

/// A text without tags, comments, scripts and styles. A text without any is returned unchanged; entities stay
/// as they are.
pub fn without_tags(text: &str) -> Cow<'_, str> {
    if !text.contains('<') {
        return Cow::Borrowed(text);
    }
    let mut now = Cow::Borrowed(text);
    if text.contains('\0') {
        // Some parsers skip it within a name.
        now = Cow::Owned(text.replace('\0', ""));
    }
    for _ in 0..MAX_PASSES {
        match pass(&now) {
            None => return now,
            Some(less) => now = Cow::Owned(less),
        }
    }
    match pass(&now) {
        None => now,
        Some(_) => Cow::Owned(now.replace('<', "")),
    }
}

/// One pass; `None` if it removes nothing.
fn pass(text: &str) -> Option<String> {
    let mut kept = String::with_capacity(text.len());
    let (mut rest, mut before, mut removed) = (text, None, false);
    while let Some(at) = rest.find('<') {
        let (plain, tail) = rest.split_at(at);
        kept.push_str(plain);
        before = plain.chars().next_back().or(before);
        let length = removed_len(tail, before);
        if length == 0 {
            kept.push('<');
            before = Some('<');
            rest = tail.get(1..).unwrap_or_default();
        } else {
            removed = true;
            before = None;
            rest = tail.get(length..).unwrap_or_default();
        }
    }
    kept.push_str(rest);
    removed.then_some(kept)
}

/// How many bytes to remove at a `<`; 0 if it begins no tag.
fn removed_len(tail: &str, before: Option<char>) -> usize {
    let bytes = tail.as_bytes();
    match bytes.get(1) {
        Some(letter) if letter.is_ascii_alphabetic() => {
            if is_comparison(tail, before) {
                0
            } else {
                element_len(tail)
            }
        }
        Some(b'/') => match bytes.get(2) {
            Some(letter) if letter.is_ascii_alphabetic() => tag_len(tail),
            // A comment for the tokenizer.
            Some(_) => tail.find('>').map_or(2, |end| end + 1),
            None => 0,
        },
        Some(b'!') if tail.starts_with("<!--") => comment_len(tail),
        Some(b'!') if tail.starts_with("<![CDATA[") => {
            tail.find("]]>").map_or(tail.len(), |end| end + 3)
        }
        Some(b'!' | b'?') => tail.find('>').map_or(2, |end| end + 1),
        _ => 0,
    }
}

fn comment_len(tail: &str) -> usize {
    let ends = [("-->", 2), ("--!>", 4)]
        .into_iter()
        .filter_map(|(mark, from)| tail.get(from..)?.find(mark).map(|end| from + end + mark.len()));
    ends.min().unwrap_or(tail.len())
}

/// Whether a `<` before a letter compares two things; see the module.
fn is_comparison(tail: &str, before: Option<char>) -> bool {
    if !before.is_some_and(char::is_alphanumeric) {
        return false;
    }
    let region = tail.get(1..).unwrap_or_default();
    let region = region.split('>').next().unwrap_or_default();
    let name_ends = region.chars().nth(1).is_none_or(|c| c.is_ascii_whitespace());
    name_ends && !has_effect(region)
}

/// Whether the inside of a tag has a valued attribute with a name of more than one character, or a quoted value.
fn has_effect(region: &str) -> bool {
    let quoted = region.contains('=') && region.contains(['"', '\'', '`']);
    quoted
        || region.match_indices('=').any(|(at, _)| {
            let name = region.get(..at).unwrap_or_default().trim_end();
            let separates = |c: char| c.is_ascii_whitespace() || c == '/';
            name.chars().rev().take_while(|c| !separates(*c)).count() > 1
        })
}

/// A start tag; of a script or style with its contents.
fn element_len(tail: &str) -> usize {
    let opening = tag_len(tail);
    let name = tail.get(1..opening).unwrap_or_default();
    let name = name.split(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>').next();
    let name = name.unwrap_or_default();
    if !["script", "style"].iter().any(|raw| raw.eq_ignore_ascii_case(name)) {
        return opening;
    }
    let mut at = opening;
    while let Some(found) = tail.get(at..).and_then(|inside| inside.find("</")) {
        at += found;
        let closing = tail.get(at..).unwrap_or_default();
        let end = closing.get(2..2 + name.len());
        let after = closing.as_bytes().get(2 + name.len());
        let ends = after.is_none_or(|c| c.is_ascii_whitespace() || matches!(c, b'/' | b'>'));
        if ends && end.is_some_and(|end| end.eq_ignore_ascii_case(name)) {
            return at + tag_len(closing);
        }
        at += 2;
    }
    tail.len()
}

/// The length of a tag: up to the first `>` outside a quoted value, or to the end of the text.
fn tag_len(tail: &str) -> usize {
    let (mut quote, mut begins_value) = (None, false);
    for (at, byte) in tail.bytes().enumerate().skip(1) {
        match (quote, byte) {
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') if begins_value => (quote, begins_value) = (Some(byte), false),
            (None, b'=') => begins_value = true,
            (None, _) if !byte.is_ascii_whitespace() => begins_value = false,
            (None, _) => {}
        }
    }
    tail.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_is_unchanged() {
        for text in [
            "a < b & c",
            "<3",
            "x<y",
            "if a<b and c>d",
            "AT&T",
            "&lt;b&gt;",
            "1<2>3",
            "a <- b",
            "x<y and y<z",
            "f<=g",
            "مرحبا < ☎",
            "",
        ] {
            assert_eq!(without_tags(text), text);
        }
    }

    #[test]
    fn tags_and_scripts_are_taken_out() {
        for (text, expected) in [
            ("<b>bold</b> text", "bold text"),
            ("a<script>alert(1)</script>b", "ab"),
            ("a<SCRIPT SRC=x>alert(1)</ScRiPt >b", "ab"),
            ("a<style>p{}</style>b", "ab"),
            ("a<script>alert(1)", "a"),
            ("a<script", "a"),
            ("a<img src=x onerror=alert(1)", "a"),
            ("a<img src=x onerror=\"1>2\">b", "ab"),
            ("a<img/src=x/onerror=alert(1)>b", "ab"),
            ("<scr<script>ipt>alert(1)</script>", "ipt>alert(1)"),
            ("<<b>script>alert(1)<</b>/script>b", "b"),
            ("a<!-- x > y -->b", "ab"),
            ("a<!-->b", "ab"),
            ("a<!-- open", "a"),
            ("a<![CDATA[<b>]]>b", "ab"),
            ("a<?php x ?>b", "ab"),
            ("a<!DOCTYPE html>b", "ab"),
            ("a<scr\0ipt>alert(1)</script>b", "ab"),
            ("x<a href=javascript:alert(1)>y", "xy"),
            ("x<b onclick=alert(1)>y", "xy"),
            ("x<b onclick =alert(1)>y", "xy"),
            ("x<b c=\">\" onclick=y>z", "xz"),
            ("x<b 1<2 onclick=y>z", "xz"),
            ("x<b/onclick=y>z", "xz"),
            ("my </3 and more", "my 3 and more"),
            ("&lt;script&gt;", "&lt;script&gt;"),
        ] {
            assert_eq!(without_tags(text), expected, "{text:?}");
        }
    }

    #[test]
    fn deep_nesting_ends() {
        let deep = format!("{}{}", "<".repeat(3000), "b>".repeat(3000));
        let plain = without_tags(&deep);
        assert!(!plain.contains('<'), "{plain}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_result_is_stable_and_has_no_tag_with_an_effect(
            text in "([a-c<>/!?= \"'-]|<script|</script|onx=|<!--|-->){0,40}"
        ) {
            let once = without_tags(&text).into_owned();
            prop_assert_eq!(without_tags(&once), once.as_str());
            let lower = once.to_ascii_lowercase();
            prop_assert!(!lower.contains("<script") && !lower.contains("<!--"), "{}", once);
            for (at, _) in once.match_indices('<') {
                let next = once.as_bytes().get(at + 1);
                prop_assert!(!matches!(next, Some(b'!' | b'?')), "{}", once);
                if next.is_some_and(u8::is_ascii_alphabetic) {
                    let inside = once[at + 1..].split('>').next().unwrap_or_default();
                    prop_assert!(!inside.contains("onx="), "{}", once);
                }
            }
        }

        #[test]
        fn text_without_the_beginning_of_a_tag_is_unchanged(text in "[^\0]{0,60}") {
            let begins = |c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?');
            let text = text.replace('<', "< ");
            prop_assert!(!text.split('<').skip(1).any(|rest| rest.starts_with(begins)));
            prop_assert_eq!(without_tags(&text), text.as_str());
        }
    }
}
