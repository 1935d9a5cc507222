use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::app::admin::import::{MESSAGES, USERS};

fn opened<'a>(text: &'a [u8], wanted: &'static Columns) -> Result<Rows<&'a [u8]>, RowError> {
    Rows::open(text, b',', wanted)
}

fn rows(text: &[u8]) -> Vec<Row> {
    let mut rows = opened(text, &USERS).unwrap();
    std::iter::from_fn(|| rows.read().unwrap()).collect()
}

/// The lines, and the values of those that are rows.
fn told(text: &str) -> Vec<(u64, Option<Vec<String>>)> {
    let shown = |values: &Map<String, Value>| {
        values.values().map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    rows(text.as_bytes()).iter().map(|r| (r.line, r.values.as_ref().ok().map(shown))).collect()
}

fn row(line: u64, values: [&str; 3]) -> (u64, Option<Vec<String>>) {
    // In the order of the columns' names.
    (line, Some(values.map(str::to_owned).to_vec()))
}

const HEADING: &str = "Id,MobileNumber,Status\n";

#[test]
fn quotes_without_an_end_take_one_line_only() {
    let text =
        "Id,MobileNumber\n1,\"two\nlines\"\n2,\"broken\n3,fine\n4,\"also\"\n5,\"broken\n6,fine\n";
    let found = rows(text.as_bytes());
    let told: Vec<(u64, Option<&str>)> =
        found.iter().map(|row| (row.line, row.raw.as_deref())).collect();
    let broken = |line, text| (line, Some(text));
    assert_eq!(
        told,
        [
            (2, None),
            broken(4, "2,\"broken"),
            (5, None),
            (6, None),
            broken(7, "5,\"broken"),
            (8, None)
        ]
    );
    assert_eq!(found[0].values.as_ref().unwrap()["MobileNumber"], "two\nlines");
}

#[test]
fn quotes_that_come_in_pairs_swallow_no_row() {
    let four = |a: &str, b: &str, c: &str, d: &str| format!("{HEADING}{a}\n{b}\n{c}\n{d}\n");
    let good = ["1,967770000001,1", "2,967770000002,1", "3,967770000003,1", "4,967770000004,1"];
    let second = row(3, ["2", "967770000002", "1"]);
    let fourth = row(5, ["4", "967770000004", "1"]);
    for (first, third) in [
        // Neither is closed.
        ("\"1,967770000001,1", "\"3,967770000003,1"),
        ("1,\"967770000001,1", "3,\"967770000003,1"),
        ("1,967770000001,\"1", "3,967770000003,\"1"),
        ("\"1,967770000001,1", "3,967770000003,\"1"),
    ] {
        let found = told(&four(first, good[1], third, good[3]));
        assert_eq!(
            found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [2, 3, 4, 5],
            "{first}"
        );
        assert_eq!((&found[1], &found[3]), (&second, &fourth), "{first} {third}: {found:?}");
        assert_eq!(found[0].1, None, "{first}");
    }
    for (first, third) in [
        // The second closes the first at the end of a line or of a field, as if they were a pair: these may
        // be rows or one text, and nobody is sent the one for the other.
        ("1,967770000001,\"1", "3,967770000003,1\""),
        ("1,\"967770000001,1", "3,967770000003\",1"),
        ("\"1,967770000001,1", "3\",967770000003,1"),
    ] {
        let found = told(&four(first, good[1], third, good[3]));
        assert_eq!(found, [(2, None), (3, None), (4, None), fourth.clone()], "{first} {third}");
    }
    // Of two rows, one after the other.
    let found = told(&format!("{HEADING}1,967770000001,\"1\n2,967770000002,1\"\n"));
    assert_eq!(found, [(2, None), (3, None)]);
}

#[test]
fn rows_between_stray_quotes_are_known_by_more_than_one_sign() {
    let lines = |heading: &str, rows: &[&str], wanted| -> Vec<(u64, bool)> {
        let file = format!("{heading}\n{}\n", rows.join("\n"));
        let mut rows = opened(file.as_bytes(), wanted).unwrap();
        let all = std::iter::from_fn(|| rows.read().unwrap());
        all.map(|row| (row.line, row.values.is_ok())).collect()
    };
    let users = ["A 1,967771600011,\"Ali", "A 2,967771600012,Sara\"", "A 3,967771600013,Omar"];
    let wanted = [(2, false), (3, false), (4, true)];
    assert_eq!(lines("Id,MobileNumber,Name", &users, &USERS), wanted);
    let heading = "Id,RecipientPhoneNumber,CreationTime,MessageContent";
    for (first, second) in [
        ("1,,2024-05-01 10:00:00,\"hello", "2,967771100002,2024-05-01 10:00:00,bye\""),
        ("1,967771100001,2024-05-01,\"hello", "2,9.6777E+11,2024-05-01,bye\""),
        ("1,967771100001,2024-05-01,\"hello", "2,,2024-05-01T10:00:00Z,bye\""),
        ("1,967771100001,2024-05-01,\"hello", "2,967771100011 (office),01/05/2024 10:00,bye\""),
    ] {
        let last = "3,967771100003,2024-05-01,x";
        assert_eq!(lines(heading, &[first, second, last], &MESSAGES), wanted, "{second}");
    }
    // An address is none.
    let address = ["1,967771600011,\"Street 5, Building 2,", "Sana'a, Yemen, here\""];
    assert_eq!(lines("Id,MobileNumber,Address", &address, &USERS), [(2, true)]);
}

#[test]
fn an_object_names_a_key_once() {
    let text = "{\"Id\":1,\"MobileNumber\":\"1\",\"MobileNumber\":\"2\"}\n{\"Id\":1,\"Id\":1}\n[1]\n{\"Id\":}\n";
    let found = rows(text.as_bytes());
    let why: Vec<Option<&str>> =
        found.iter().map(|row| row.values.as_ref().err().map(String::as_str)).collect();
    assert_eq!(
        why,
        [
            Some("it has two values of MobileNumber"),
            None,
            Some("it is not a JSON object"),
            Some("it is not JSON: expected value (column 7)"),
        ]
    );
    // A long first line says nothing of the others.
    let long = format!("{{\"Id\":1,\"Avatar\":\"{}\"}}\n{{\"Id\":2}}\n", "A".repeat(140_000));
    assert_eq!(rows(long.as_bytes()).len(), 2);
    let longer = format!("{{\"Id\":1,\"Avatar\":\"{}\"}}\n{{\"Id\":2}}\n", "A".repeat(2_000_000));
    let found = rows(longer.as_bytes());
    assert_eq!((found.len(), found[0].values.is_err(), found[1].line), (2, true, 2));
    for empty in ["", "\n \r\n"] {
        assert!(
            matches!(opened(empty.as_bytes(), &USERS), Err(RowError::NotTabular(_))),
            "{empty:?}"
        );
    }
}

/// A text that quotes rows is one text, or it is not imported at all.
#[test]
fn a_text_that_looks_like_rows_is_sent_to_nobody() {
    let heading = "Id,RecipientPhoneNumber,CreationTime,MessageContent\n";
    let text = "1,967771234567,2024-05-01,\"see:\n\n2,967770000009,2024-05-02,hello\"";
    let file = format!("{heading}{text}\n3,967770000003,2024-05-03,x\n");
    let mut rows = opened(file.as_bytes(), &MESSAGES).unwrap();
    let found: Vec<Row> = std::iter::from_fn(|| rows.read().unwrap()).collect();
    let told: Vec<(u64, bool)> = found.iter().map(|row| (row.line, row.values.is_ok())).collect();
    assert_eq!(told, [(2, false), (4, false), (5, true)]);
    assert!(found[1].values.as_ref().unwrap_err().contains("enclose whole rows"));
}

#[test]
fn a_text_of_several_lines_is_one_value() {
    let open = |text: &str| {
        let text = text.to_owned();
        let mut rows = opened(text.as_bytes(), &MESSAGES).unwrap();
        let all: Vec<Row> = std::iter::from_fn(|| rows.read().unwrap()).collect();
        assert_eq!(all.len(), 1, "{text}");
        all.into_iter().next().unwrap().values.unwrap()["MessageContent"].clone()
    };
    let text = "Dear Ali,\r\nyour order 7, of 5, comes,\n1, 2, 3\n967771234567, call\n\nBye";
    let quoted = format!("\"{text}\"");
    for csv in [
        format!(
            "Id,RecipientPhoneNumber,CreationTime,MessageContent\n1,967771234567,2024-05-01,{quoted}\n"
        ),
        format!(
            "MessageContent,Id,RecipientPhoneNumber,CreationTime\n{quoted},1,967771234567,2024-05-01\n"
        ),
        format!(
            "Id,MessageContent,RecipientPhoneNumber,CreationTime\n1,{quoted},967771234567,2024-05-01\n"
        ),
    ] {
        assert_eq!(open(&csv), text, "{csv}");
    }
}

#[test]
fn the_lines_are_the_same_whatever_ends_them() {
    let text = format!(
        "{HEADING}1,967770000001,1\n\n2,\"967770000002,1\n3,\"96777\n0000003\",1\n4,x\n5,967770000005,1\n6,96777,\"1"
    );
    let wanted: Vec<(u64, bool)> =
        vec![(2, true), (4, false), (5, true), (7, false), (8, true), (9, false)];
    for end in ["\n", "\r\n", "\r"] {
        for last in ["", end, "\n\n"] {
            let found = rows(format!("{}{last}", text.replace('\n', end)).as_bytes());
            let lines: Vec<(u64, bool)> =
                found.iter().map(|row| (row.line, row.values.is_ok())).collect();
            assert_eq!(lines, wanted, "{end:?} {last:?}");
            assert_eq!(found[5].raw.as_deref(), Some("6,96777,\"1"));
        }
    }
}

#[test]
fn a_row_is_as_large_as_it_is_sent() {
    for text in ["plain", "\u{1}\u{2}\n\"", "سلام"] {
        let found = rows(format!("{{\"Id\":{},\"b\":[1,null]}}\n", json!(text)).as_bytes());
        let sent = serde_json::to_string(found[0].values.as_ref().unwrap()).unwrap();
        assert_eq!(found[0].size(), sent.len(), "{sent}");
    }
}

#[test]
fn a_row_that_is_too_long_is_one_row() {
    let long = "x".repeat(3 * 1024 * 1024);
    let quoted = format!("Id,MobileNumber\n1,{long}\n2,\"{long}\n3,fine\n4,\"x\n");
    let found = rows(quoted.as_bytes());
    let lines: Vec<(u64, bool)> = found.iter().map(|row| (row.line, row.values.is_ok())).collect();
    assert_eq!(lines, [(2, false), (3, false), (4, true), (5, false)]);
    assert!(found[1].raw.as_ref().is_some_and(|raw| raw.len() <= 1024 * 1024));
    // Quotes whose end is too far away take one line.
    let short = "xxxxxxxxxxxxxxx\n".repeat(70_000);
    let found = rows(format!("Id,MobileNumber\n1,\"{short}\n2,fine\n").as_bytes());
    assert_eq!((found[0].line, found[0].raw.as_deref()), (2, Some("1,\"xxxxxxxxxxxxxxx")));
    assert_eq!(found.last().map(|row| (row.line, row.values.is_ok())), Some((70_003, true)));
}

#[test]
fn what_is_no_row_is_kept_as_it_was() {
    let found = rows(b"Id,MobileNumber\n1,2,3\n");
    assert_eq!(found[0].raw.as_deref(), Some("1,2,3"));
    let found = rows(b"{\"Id\":1}\n{broken\n[1]\n");
    let raws: Vec<Option<&str>> = found.iter().map(|row| row.raw.as_deref()).collect();
    assert_eq!(raws, [None, Some("{broken"), Some("[1]")]);
    let found = rows(b"Id,MobileNumber\n1,\xff\n");
    assert_eq!(found[0].values.as_ref().err().map(String::as_str), Some("it is not UTF-8"));
}

#[test]
fn a_file_of_something_else_is_refused_before_its_first_row() {
    for (text, what) in [
        (&b"Id;MobileNumber\n1;967771234567\n"[..], "has ';' between"),
        (b"sep=;\nId;MobileNumber\n", "sep=;"),
        (b"\"Id\";\"MobileNumber\"\n", "has ';' between"),
        (b"Id,Mobile\xffNumber\n", "UTF-8"),
        (b"[{\"Id\":1}]", "JSON array"),
    ] {
        let refused = opened(text, &USERS).err().map(|error| error.to_string());
        assert!(refused.as_ref().is_some_and(|why| why.contains(what)), "{refused:?}");
    }
    let mut lines = opened(b"{\"value\":[]}\n", &USERS).unwrap();
    assert!(matches!(lines.read(), Err(RowError::NotTabular(_))));
    assert!(rows(b"\xef\xbb\xbf\r\nId,MobileNumber\r\n").is_empty());
    // A heading whose quotes have no end names its columns all the same.
    assert_eq!(rows(b"\"Id,MobileNumber\n1,967771234567\n")[0].line, 2);
    // Marks of UTF-8, one of the program that wrote it and one of the program that saved it.
    let found = rows(b"\xef\xbb\xbf\xef\xbb\xbf\"Id\",MobileNumber\r\n1,967771234567\r\n");
    assert_eq!(found[0].values.as_ref().unwrap()["Id"], "1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Rows of a table, with quotes strewn in.
    #[test]
    fn every_line_that_is_a_row_is_read(
        count in 1_usize..8,
        strewn in prop::collection::vec((0_usize..8, 0_usize..20), 0..10),
        end in prop::sample::select(vec!["\n", "\r\n"]),
        ends in any::<bool>(),
    ) {
        let mut lines: Vec<String> =
            (1..=count).map(|n| format!("{n},96777000000{n},1")).collect();
        for (line, place) in &strewn {
            let line = &mut lines[line % count];
            line.insert(place % (line.len() + 1), '"');
        }
        let text = format!("{}{end}{}", HEADING.trim_end(), lines.join(end));
        let text = if ends { text + end } else { text };
        let found = rows(text.as_bytes());
        let numbers: Vec<u64> = found.iter().map(|row| row.line).collect();
        let all: Vec<u64> = (2..).take(count).collect();
        prop_assert_eq!(numbers, all, "{}", text);
        for (row, line) in found.iter().zip(&lines) {
            // What has no quotes is a row, unless it stands between quotes; and what is none is kept.
            let between = row.values.as_ref().is_err_and(|why| why.contains("enclose whole rows"));
            prop_assert!(row.values.is_ok() || line.contains('"') || between);
            prop_assert_eq!(row.raw.as_ref().is_none_or(|raw| raw == line), true);
        }
    }

    #[test]
    fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..300), csv in any::<bool>()) {
        let text = if csv { [HEADING.as_bytes(), &bytes].concat() } else { bytes };
        if let Ok(mut rows) = opened(&text, &USERS) {
            let mut before = 0;
            while let Ok(Some(row)) = rows.read() {
                prop_assert!(row.line > before);
                before = row.line;
            }
        }
    }
}
