//! The strings of a JSON document, decoded: names and values alike.

/// Documents within strings of documents are read so many levels deep.
const MAX_DEPTH: usize = 4;

/// A document with the strings unescaped, each on lines of its own. What stands outside strings stays.
pub(super) fn decoded(text: &str) -> String {
    let mut all = String::new();
    let mut level = text.to_owned();
    for _ in 0..MAX_DEPTH {
        level = unescaped(&level);
        all.push_str(&level);
        all.push('\n');
        if !level.contains('"') {
            break;
        }
    }
    all
}

fn unescaped(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    let mut chars = text.chars();
    let mut is_inside = false;
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                found.push('\n');
                is_inside = !is_inside;
            }
            '\\' if is_inside => escape(&mut chars, &mut found),
            c => found.push(c),
        }
    }
    found
}

fn escape(chars: &mut std::str::Chars<'_>, found: &mut String) {
    match chars.next() {
        Some('u') => {
            let Some(unit) = unit(chars) else { return };
            let mut ahead = chars.clone();
            if (0xD800..0xDC00).contains(&unit)
                && ahead.next() == Some('\\')
                && ahead.next() == Some('u')
                && let Some(low) = self::unit(&mut ahead)
                && (0xDC00..0xE000).contains(&low)
            {
                *chars = ahead;
                let code = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                found.extend(char::from_u32(code));
            } else {
                found.extend(char::from_u32(unit));
            }
        }
        Some('n') => found.push('\n'),
        Some('t') => found.push('\t'),
        Some('r') => found.push('\r'),
        Some('b' | 'f') => found.push(' '),
        Some(other) => found.push(other),
        None => {}
    }
}

/// Four hexadecimal digits.
fn unit(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let mut ahead = chars.clone();
    let mut value = 0;
    for _ in 0..4 {
        value = value * 16 + ahead.next()?.to_digit(16)?;
    }
    *chars = ahead;
    Some(value)
}
