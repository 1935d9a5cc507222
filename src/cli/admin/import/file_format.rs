//! Recognises a file by its beginning: a table with the required columns, or something else, reported by
//! its name and with a remedy. Row by row it would only fail with a missing id.

use serde_json::{Map, Value};

use super::csv::MAX_ROW_LEN;
use crate::app::admin::import::{Columns, MESSAGES, USERS, column_name};

/// A supported format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// CSV with a header row.
    Csv,
    /// One JSON object per line.
    JsonLines,
}

/// Why a file cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTabular {
    /// Completes a sentence that begins with the file.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

fn no(what: impl Into<String>, remedy: impl Into<String>) -> NotTabular {
    NotTabular { what: what.into(), remedy: remedy.into() }
}

const AS_CSV: &str = "save its sheet as \"CSV UTF-8\" and import that";
const AS_UTF8: &str = "save it as UTF-8 (of Excel's formats: \"CSV UTF-8\"), or convert it: \
                       iconv -f UTF-16 -t UTF-8 FILE > NEW";
const BY_LINE: &str = "write one object on each line";

/// The byte order mark of UTF-8.
pub const MARK: &[u8] = b"\xef\xbb\xbf";

/// Other kinds of files, by their first bytes.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"\xff\xfe\0\0", "is text in UTF-32", AS_UTF8),
    (b"\xff\xfe", "is text in UTF-16", AS_UTF8),
    (b"\xfe\xff", "is text in UTF-16", AS_UTF8),
    (b"PK\x03\x04", "is an Excel workbook or another ZIP archive", AS_CSV),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook of the old kind (.xls)", AS_CSV),
    (b"\x1f\x8b", "is compressed (gzip)", "unpack it: gunzip"),
    (b"BZh", "is compressed (bzip2)", "unpack it: bunzip2"),
    (b"\xfd7zXZ", "is compressed (xz)", "unpack it: unxz"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd)", "unpack it: unzstd"),
    (b"%PDF", "is a PDF", "export it from where it comes from as CSV or JSON lines"),
    (
        b"SQLite format 3",
        "is a database of SQLite",
        "export its table as CSV: sqlite3 -header -csv",
    ),
];

/// Recognises the format from the first non-empty line, or more of the file.
///
/// # Errors
/// It is neither CSV nor JSON lines.
pub fn of(head: &[u8]) -> Result<FileFormat, NotTabular> {
    for (begins, what, remedy) in OTHERS {
        if head.starts_with(begins) {
            return Err(no(*what, *remedy));
        }
    }
    let text = head.strip_prefix(MARK).unwrap_or(head).trim_ascii_start();
    let line = text.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    if line.contains(&0) {
        // Every other byte of Latin letters in UTF-16 is zero.
        return Err(
            match line.iter().skip(1).step_by(2).all(|byte| *byte == 0)
                || line.iter().step_by(2).all(|byte| *byte == 0)
            {
                true => no("seems to be text in UTF-16", AS_UTF8),
                false => no("is not text", "import CSV with a header row, or JSON lines"),
            },
        );
    }
    match text.first() {
        // "[Id],[MobileNumber]" is how SQL Server quotes names.
        Some(b'[') if !text.get(1).is_some_and(u8::is_ascii_alphabetic) => {
            Err(no("is a JSON array", format!("{BY_LINE}: jq -c '.[]' FILE > NEW.jsonl")))
        }
        Some(b'<') => Err(no("is HTML or XML", "export it as CSV or JSON lines")),
        Some(b'{') => match serde_json::from_slice::<Value>(line) {
            // An object longer than a line may be is rejected later, by its line number.
            Err(error) if error.is_eof() && line.len() < MAX_ROW_LEN => {
                let remedy = format!("{BY_LINE}: jq -c . FILE > NEW.jsonl");
                Err(no("is JSON with objects over several lines", remedy))
            }
            _ => Ok(FileFormat::JsonLines),
        },
        _ => Ok(FileFormat::Csv),
    }
}

/// Whether the first object has any required column.
///
/// # Errors
/// It is another kind of object.
pub fn check_object(object: &Map<String, Value>, wanted: &Columns) -> Result<(), NotTabular> {
    let names: Vec<String> = object.keys().map(|name| column_name(name)).collect();
    let has = |columns: &Columns| {
        columns.required.iter().any(|one| names.iter().any(|name| name == &column_name(one)))
    };
    // Rows that an earlier import rejected have other keys.
    if names.is_empty()
        || has(wanted)
        || (object.contains_key("line") && object.contains_key("raw"))
    {
        return Ok(());
    }
    let found: Vec<&str> = object.keys().take(8).map(String::as_str).collect();
    Err(foreign(&found, wanted))
}

/// Whether a header names each required column once.
///
/// # Errors
/// What is wrong with the header.
pub fn check_heading(
    names: &[&str],
    line: &str,
    delimiter: u8,
    wanted: &Columns,
) -> Result<(), NotTabular> {
    let bare = line.trim().trim_matches('"');
    if bare.to_ascii_lowercase().starts_with("sep=") {
        let sign = bare.get(4..).and_then(|rest| rest.chars().next()).unwrap_or(';');
        let what = format!("begins with {}, which only Excel reads", line.trim());
        return Err(no(what, format!("delete that line, and use --delimiter {}", shown(sign))));
    }
    let known: Vec<String> = names.iter().map(|name| column_name(name)).collect();
    let missing = missing(&known, wanted);
    if missing.is_empty() {
        let twice = |column: &&&str| {
            let name = column_name(column);
            known.iter().filter(|other| **other == name).count() > 1
        };
        return match wanted.known().find(|column| twice(&column)) {
            Some(column) => Err(no(
                format!("has two columns {column}"),
                "delete one of them, or give it another name",
            )),
            None => Ok(()),
        };
    }
    for other in [b',', b';', b'\t', b'|'].into_iter().filter(|other| *other != delimiter) {
        let parted = line.split(char::from(other)).map(column_name).collect::<Vec<_>>();
        if self::missing(&parted, wanted).is_empty() {
            let sign = shown(char::from(other));
            let what = format!("has {sign} between its fields");
            return Err(no(what, format!("use --delimiter {sign}")));
        }
    }
    if let Some(other) = columns_of_another(&known, wanted) {
        return Err(other);
    }
    if missing.len() < wanted.required.len() {
        let what = format!("has no column {}", missing.join(" and none "));
        return Err(no(what, "name it in the first line; see the manual for the columns"));
    }
    Err(foreign(names, wanted))
}

fn missing(names: &[String], wanted: &Columns) -> Vec<&'static str> {
    let has = |column: &&&str| names.iter().any(|name| name == &column_name(column));
    wanted.required.iter().filter(|column| !has(column)).copied().collect()
}

/// The header of another table, or no header at all.
fn foreign(names: &[&str], wanted: &Columns) -> NotTabular {
    let known: Vec<String> = names.iter().map(|name| column_name(name)).collect();
    if let Some(other) = columns_of_another(&known, wanted) {
        return other;
    }
    let looks_like_data = known.iter().any(|name| name.chars().any(|c| c.is_ascii_digit()))
        || known.iter().all(String::is_empty);
    let columns = wanted.required.join(", ");
    if looks_like_data {
        return no(
            "seems to have no header row",
            format!("its first line must name the columns: {columns}"),
        );
    }
    let found: Vec<String> = names.iter().take(8).map(|name| shortened(name)).collect();
    let what = format!("has none of the required columns, but {}", found.join(", "));
    no(what, format!("it must have {columns}"))
}

/// A file for the other import command.
fn columns_of_another(names: &[String], wanted: &Columns) -> Option<NotTabular> {
    let is_other =
        |other: &&&Columns| other.command != wanted.command && missing(names, other).is_empty();
    let other = [&MESSAGES, &USERS].iter().find(is_other)?.command;
    let remedy = format!("run: esh3ar import {other} FILE");
    Some(no(format!("has the columns of {other}"), remedy))
}

fn shortened(name: &str) -> String {
    name.trim().chars().filter(|c| !c.is_control()).take(30).collect()
}

fn shown(sign: char) -> String {
    match sign {
        '\t' => "'\\t'".to_owned(),
        other => format!("'{other}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heading(line: &str, delimiter: char, wanted: &Columns) -> Result<(), NotTabular> {
        let names: Vec<&str> = line.split(delimiter).collect();
        check_heading(&names, line, delimiter as u8, wanted)
    }

    fn utf16(text: &str, big: bool) -> Vec<u8> {
        text.encode_utf16()
            .flat_map(|c| if big { c.to_be_bytes() } else { c.to_le_bytes() })
            .collect()
    }

    #[test]
    fn what_is_no_table_is_called_by_its_name() {
        let text = "Id,MobileNumber\n1,967771234567\n";
        let with_mark = |big| utf16(&format!("\u{FEFF}{text}"), big);
        for (head, what) in [
            (with_mark(false), "UTF-16"),
            (with_mark(true), "UTF-16"),
            (utf16(text, false), "UTF-16"),
            (utf16(text, true), "UTF-16"),
            (b"PK\x03\x04\x14\0\x06\0".to_vec(), "Excel workbook"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec(), ".xls"),
            (b"\x1f\x8b\x08\0".to_vec(), "gzip"),
            (b"%PDF-1.7".to_vec(), "PDF"),
            (b"[{\"Id\":1}]".to_vec(), "JSON array"),
            (b"\xef\xbb\xbf \r\n[\n  {\"Id\":1}]".to_vec(), "JSON array"),
            (b"{\n  \"Id\": 1\n}\n".to_vec(), "several lines"),
            (b"\n{ \"Id\": 1,\r\n \"MobileNumber\"".to_vec(), "several lines"),
            (b"<html><table>".to_vec(), "HTML"),
            (b"<?xml version=\"1.0\"?>".to_vec(), "XML"),
            (b"Id\0\x01\x02,x\n".to_vec(), "not text"),
        ] {
            let found = of(&head).unwrap_err();
            assert!(found.what.contains(what) && !found.remedy.is_empty(), "{found:?}");
        }
        for (head, shape) in [
            (&b"Id,MobileNumber\n"[..], FileFormat::Csv),
            (b"\xef\xbb\xbf\"Id\"", FileFormat::Csv),
            (b"[Id],[MobileNumber]\n", FileFormat::Csv),
            (b"", FileFormat::Csv),
            (b"\n\n{\"Id\":1}\n", FileFormat::JsonLines),
            (b"\xef\xbb\xbf{\"Id\":1}", FileFormat::JsonLines),
            // A row that is broken, and not the file.
            (b"{broken\n{\"Id\":1}\n", FileFormat::JsonLines),
        ] {
            assert_eq!(of(head), Ok(shape));
        }
    }

    #[test]
    fn a_heading_names_the_columns_once() {
        for good in [
            "[Id],[MobileNumber]",
            "Id,MobileNumber",
            "mobile_number,ID,Name",
            "\u{FEFF}Id, Mobile Number ,x,x,,",
        ] {
            assert_eq!(heading(good, ',', &USERS), Ok(()), "{good}");
        }
        for (line, wanted, what, remedy) in [
            ("Id;MobileNumber;Status", &USERS, "has ';' between", "--delimiter ';'"),
            ("Id\tMobileNumber", &USERS, "'\\t'", "--delimiter '\\t'"),
            ("\"Id\"|\"MobileNumber\"", &USERS, "'|'", "--delimiter '|'"),
            ("sep=;", &USERS, "sep=;", "--delimiter ';'"),
            ("SEP=\t", &USERS, "Excel", "delete that line"),
            ("\"sep=;\"", &USERS, "Excel", "--delimiter ';'"),
            ("Id,Name", &USERS, "no column MobileNumber", "first line"),
            ("Id,CreationTime", &MESSAGES, "no column RecipientPhoneNumber", "first line"),
            ("Id,MobileNumber,id", &USERS, "two columns Id", "delete one"),
            ("Id,MobileNumber,Status,STATUS", &USERS, "two columns Status", "delete one"),
            (
                "Name,City",
                &USERS,
                "none of the required columns, but Name, City",
                "Id, MobileNumber",
            ),
            ("1,967771234567,1", &USERS, "no header row", "Id, MobileNumber"),
            (
                "Id,RecipientPhoneNumber,CreationTime",
                &USERS,
                "columns of messages",
                "import messages",
            ),
            ("Mobile Number,Id", &MESSAGES, "columns of users", "import users"),
        ] {
            let found = heading(line, ',', wanted).unwrap_err();
            assert!(
                found.what.contains(what) && found.remedy.contains(remedy),
                "{line}: {found:?}"
            );
        }
        let wrong = heading("Id,MobileNumber", ';', &USERS).unwrap_err();
        assert!(wrong.remedy.contains("--delimiter ','"), "{wrong:?}");
    }

    #[test]
    fn the_first_object_has_one_of_the_columns_at_least() {
        let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        for good in [
            "{\"id\":1}",
            "{\"Mobile_Number\":1}",
            "{}",
            "{\"line\":2,\"reason\":\"x\",\"raw\":\"y\"}",
        ] {
            assert_eq!(check_object(&object(good), &USERS), Ok(()), "{good}");
        }
        for bad in ["{\"value\":[{\"Id\":1}]}", "{\"name\":\"x\"}"] {
            assert!(check_object(&object(bad), &USERS).is_err(), "{bad}");
        }
    }
}
