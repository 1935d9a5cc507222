//! What people type, in ASCII: digits of other scripts, full-width signs, and what nobody sees.

/// The zero of every script's decimal digits; the nine others follow it (Unicode, `Nd`).
const ZEROS: &[u32] = &[
    0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66,
    0xDE6, 0xE50, 0xED0, 0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90,
    0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
    0x104A0, 0x10D30, 0x10D40, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0,
    0x11650, 0x116C0, 0x116D0, 0x116DA, 0x11730, 0x118E0, 0x11950, 0x11BF0, 0x11C50, 0x11D50,
    0x11DA0, 0x11F50, 0x16A60, 0x16AC0, 0x16B50, 0x16D70, 0x1CCF0, 0x1D7CE, 0x1D7D8, 0x1D7E2,
    0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E4F0, 0x1E5F1, 0x1E950, 0x1FBF0,
];

/// The text with its digits, signs and spaces in ASCII and without what is invisible, trimmed. What is
/// neither stays as it is, so that a line break between two numbers is still one.
pub fn normalized(text: &str) -> String {
    let read: String = text.chars().filter(|c| !is_invisible(*c)).map(plain).collect();
    read.trim().to_owned()
}

fn plain(c: char) -> char {
    match c {
        ' '..='~' => c,
        '\u{FF0B}' | '\u{FE62}' | '\u{207A}' | '\u{208A}' | '\u{FB29}' | '\u{2795}' => '+',
        '\u{FF08}' | '\u{FE59}' | '\u{207D}' | '\u{208D}' => '(',
        '\u{FF09}' | '\u{FE5A}' | '\u{207E}' | '\u{208E}' => ')',
        // The Arabic decimal separator stands where a spreadsheet wrote a dot.
        '\u{FF0E}' | '\u{FE52}' | '\u{2024}' | '\u{66B}' => '.',
        '\u{FF0C}' | '\u{FE50}' | '\u{60C}' | '\u{66C}' => ',',
        '\u{FF0F}' | '\u{2044}' | '\u{2215}' => '/',
        c if is_dash(c) => '-',
        // Tabs and all spaces; what ends a line does not join what stands before and after it.
        '\t' => ' ',
        c if c.is_whitespace() && !is_line_break(c) => ' ',
        c => digit(c).unwrap_or(c),
    }
}

/// All that Unicode calls a dash (`Pd`), the minus signs, and what is typed for them.
fn is_dash(c: char) -> bool {
    matches!(
        c,
        '\u{58A}' | '\u{5BE}' | '\u{1400}' | '\u{1806}' | '\u{2010}'
            ..='\u{2015}'
                | '\u{2043}'
                | '\u{207B}'
                | '\u{208B}'
                | '\u{2212}'
                | '\u{2796}'
                | '\u{2E17}'
                | '\u{2E1A}'
                | '\u{2E3A}'
                | '\u{2E3B}'
                | '\u{2E40}'
                | '\u{2E5D}'
                | '\u{301C}'
                | '\u{3030}'
                | '\u{30A0}'
                | '\u{30FC}'
                | '\u{FE31}'
                | '\u{FE32}'
                | '\u{FE58}'
                | '\u{FE63}'
                | '\u{FF0D}'
                | '\u{FF70}'
                | '\u{10EAD}'
    )
}

fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Direction marks, zero-width characters, soft hyphens, variation selectors: Unicode's
/// `Default_Ignorable_Code_Point`.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}'
        | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
        | '\u{E0000}'..='\u{E0FFF}')
}

fn digit(c: char) -> Option<char> {
    let code = u32::from(c);
    let before = ZEROS.partition_point(|zero| *zero <= code).checked_sub(1)?;
    let value = code - ZEROS.get(before)?;
    char::from_digit(value, 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_every_script_are_digits() {
        for zero in ZEROS {
            let all: String = (0..10).filter_map(|n| char::from_u32(zero + n)).collect();
            assert_eq!(normalized(&all), "0123456789", "U+{zero:X}");
            // The table stands in order, or it could not be searched; and nothing beside it is a digit.
            assert_eq!(
                ZEROS.iter().filter(|other| (zero..&(zero + 10)).contains(other)).count(),
                1
            );
        }
        assert!(ZEROS.is_sorted());
        for other in ['a', 'س', '²', '½', 'Ⅷ', '①', '一', '\0', '\u{6DD}', char::MAX] {
            assert_eq!(digit(other), None, "{other}");
        }
    }

    #[test]
    fn signs_and_spaces_are_folded_and_what_nobody_sees_is_gone() {
        for (written, read) in [
            ("＋９６７（７７）", "+967(77)"),
            ("\u{202A}+967\u{202C} 77\u{2011}1", "+967 77-1"),
            ("\u{200F}٩٦٧\u{200E}", "967"),
            ("1\u{202F}2\u{2009}3\u{3000}4\t5\u{A0}6", "1 2 3 4 5 6"),
            ("1\u{200B}2\u{FEFF}3\u{AD}4\u{2060}5", "12345"),
            ("1–2—3−4‐5－6ー7", "1-2-3-4-5-6-7"),
            ("٧٧٫٠", "77.0"),
            ("\r\n 7\n", "7"),
            ("7\n7", "7\n7"),
            ("سلام", "سلام"),
        ] {
            assert_eq!(normalized(written), read, "{written:?}");
        }
    }
}
