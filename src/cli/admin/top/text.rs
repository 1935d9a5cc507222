//! Numbers, sizes and ages in few columns.

use time::{Duration, OffsetDateTime};

use crate::cli::io::sanitize;

/// The age of a time: `7s`, `3m`, `5h`, `2d`. A time in the future, because clocks differ, is `0s`.
pub(super) fn age(now: OffsetDateTime, then: OffsetDateTime) -> String {
    duration(now - then)
}

/// The same of a duration.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.whole_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Milliseconds: `12 ms`, `1.3 s`, `4 m`.
pub(super) fn millis(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..60_000 => format!("{:.1} s", millis as f64 / 1000.0),
        60_000..3_600_000 => format!("{} m", millis / 60_000),
        _ => format!("{} h", millis / 3_600_000),
    }
}

/// A latency that may be below a millisecond.
pub(super) fn latency(millis: f64) -> String {
    if millis < 10.0 { format!("{millis:.1} ms") } else { self::millis(millis as u64) }
}

/// A rate: `0`, `0.5`, `12.5`, `980`, `12.3k`.
pub(super) fn rate(rate: f64) -> String {
    if rate <= 0.0 {
        "0".to_owned()
    } else if rate < 100.0 {
        format!("{rate:.1}")
    } else if rate < 10_000.0 {
        format!("{rate:.0}")
    } else {
        format!("{:.1}k", rate / 1000.0)
    }
}

/// A count, with thousands separators.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The same of a count that stopped at a limit.
pub(super) fn counted(count: u64, at_least: bool) -> String {
    let text = self::count(count);
    if at_least { format!("{text}+") } else { text }
}

/// Bytes: `640 KB`, `38 MB`, `1.2 GB`.
pub(super) fn bytes(bytes: u64) -> String {
    const KILO: u64 = 1024;
    match bytes / KILO {
        kilo @ 0..1024 => format!("{kilo} KB"),
        kilo if kilo < KILO * KILO => format!("{} MB", kilo / KILO),
        kilo => format!("{:.1} GB", kilo as f64 / (KILO * KILO) as f64),
    }
}

/// The last checks of a component, oldest first: a mark for each, and how many failed. -1 is no answer.
pub(super) fn lately(past: &[i32], ascii: bool) -> String {
    let (good, bad) = if ascii { ('.', 'x') } else { ('·', '✗') };
    let marks: String = past.iter().map(|took| if *took < 0 { bad } else { good }).collect();
    match past.iter().filter(|took| **took < 0).count() {
        0 => format!("{marks} up in all {} checks", past.len()),
        missed => format!("{marks} down in {missed} of {} checks", past.len()),
    }
}

/// Truncated to `width` characters, without control characters.
pub(super) fn fit(text: &str, width: usize, ascii: bool) -> String {
    let clean = |c: char| if ascii && !c.is_ascii() { '?' } else { c };
    let text = sanitize::line(text);
    if text.chars().count() <= width {
        return text.chars().map(clean).collect();
    }
    let mark = if ascii { "~" } else { "…" };
    let kept = text.chars().take(width.saturating_sub(1)).map(clean);
    kept.chain(mark.chars()).take(width).collect()
}

/// Wrapped to lines of at most `width` characters, between words where possible.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        loop {
            let Some(line) = lines.last_mut() else { return lines };
            let taken = line.chars().count();
            let gap = usize::from(taken > 0);
            let length = word.chars().count();
            if taken + gap + length <= width {
                line.extend(std::iter::repeat_n(' ', gap));
                line.push_str(word);
                break;
            }
            if taken == 0 {
                // Longer than a line by itself.
                let end = word.char_indices().nth(width).map_or(word.len(), |(end, _)| end);
                let (head, rest) = word.split_at(end);
                line.push_str(head);
                word = rest;
            }
            lines.push(String::new());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(duration(Duration::seconds(-3)), "0s");
        assert_eq!(duration(Duration::seconds(3599)), "59m");
        assert_eq!(duration(Duration::days(40)), "40d");
        assert_eq!([millis(7), millis(1500), millis(90_000)], ["7 ms", "1.5 s", "1 m"]);
        assert_eq!(
            [rate(0.0), rate(0.5), rate(1234.4), rate(25_000.0)],
            ["0", "0.5", "1234", "25.0k"]
        );
        assert_eq!(counted(1_234_567, false), "1,234,567");
        assert_eq!(counted(20_000, true), "20,000+");
        assert_eq!([bytes(2048), bytes(38 << 20), bytes(3 << 30)], ["2 KB", "38 MB", "3.0 GB"]);
    }

    #[test]
    fn how_a_part_was_is_a_row_of_marks() {
        assert_eq!(lately(&[1, 0, 25], false), "··· up in all 3 checks");
        assert_eq!(lately(&[1, -1, -1, 2], true), ".xx. down in 2 of 4 checks");
    }

    #[test]
    fn texts_fit_and_cannot_steer() {
        assert_eq!(fit("a\u{1b}[2Jb", 20, false), "a [2Jb");
        assert_eq!(fit("a\u{202e}b", 20, true), "a\\u{202e}b");
        assert_eq!(fit("\u{2066}b", 4, false), "\\u{…");
        assert_eq!(fit("longer than that", 7, false), "longer…");
        assert_eq!(fit("länger", 4, true), "l?n~");
        assert_eq!(fit("x", 0, false), "");
        assert_eq!(wrap("some words to part", 10), ["some words", "to part"]);
        assert_eq!(wrap("a verylongword b", 4), ["a", "very", "long", "word", "b"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
