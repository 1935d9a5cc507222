//! The rows of a file, CSV or JSON lines.

use std::{
    fmt,
    io::{Read, Write},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{
    csv::{CsvReader, CsvRecord, MAX_ROW_LEN, Malformed, RecordSpan, TextLine},
    file_format::{self, FileFormat, MARK, NotTabular},
};
use crate::{
    app::admin::import::{Columns, column_name},
    domain::phone::normalized,
};

/// A row of a file, or why it is invalid.
pub struct Row {
    /// Counts from 1, the header included.
    pub line: u64,
    /// Values by the names of their columns.
    pub values: Result<Map<String, Value>, String>,
    /// As it stands in the file, if it is invalid.
    pub raw: Option<String>,
}

impl Row {
    /// Its size in bytes in a request, or in memory if it is invalid; a control character takes six in JSON.
    pub fn size(&self) -> usize {
        let mut sent = Length(0);
        if let Ok(values) = &self.values {
            // Counting cannot fail.
            let _ = serde_json::to_writer(&mut sent, values);
        }
        sent.0 + self.raw.as_ref().map_or(0, String::len)
    }

    fn broken(line: u64, why: String, raw: &[u8]) -> Row {
        Row { line, values: Err(why), raw: Some(String::from_utf8_lossy(raw).into_owned()) }
    }
}

/// Counts the bytes that are written to it.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// It is not a table of this kind.
    #[error("{}", .0.what)]
    NotTabular(NotTabular),
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

/// Reads the rows of a file.
pub struct Rows<R> {
    records: CsvReader<R>,
    wanted: &'static Columns,
    kind: Kind,
}

enum Kind {
    Csv {
        delimiter: u8,
        names: Vec<String>,
    },
    /// Whether the first object was checked.
    Lines {
        begun: bool,
    },
}

impl<R: Read> Rows<R> {
    /// Opens a file: JSON lines if it begins with a brace, otherwise CSV with a header row.
    ///
    /// # Errors
    /// It cannot be read, or does not have the required columns.
    pub fn open(source: R, delimiter: u8, wanted: &'static Columns) -> Result<Rows<R>, RowError> {
        let mut records = CsvReader::new(source);
        let head = records.head()?;
        if head.trim_ascii().is_empty() {
            let remedy = "export it again: a failed export often leaves an empty file";
            let (what, remedy) = ("is empty".to_owned(), remedy.to_owned());
            return Err(RowError::NotTabular(NotTabular { what, remedy }));
        }
        let shape = file_format::of(head).map_err(RowError::NotTabular)?;
        while records.head()?.starts_with(MARK) {
            records.skip(MARK.len());
        }
        let kind = match shape {
            FileFormat::JsonLines => Kind::Lines { begun: false },
            FileFormat::Csv => {
                let names = heading(&mut records, delimiter, wanted)?;
                Kind::Csv { delimiter, names }
            }
        };
        Ok(Rows { records, wanted, kind })
    }

    /// Bytes of the file read so far.
    pub fn position(&self) -> u64 {
        self.records.position()
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read further, or its first JSON object is of another kind.
    pub fn read(&mut self) -> Result<Option<Row>, RowError> {
        match &mut self.kind {
            Kind::Csv { delimiter, names } => {
                let wanted = self.wanted;
                let (delimiter, names) = (*delimiter, &*names);
                let span = |fields: &[Vec<u8>], raw: &[u8]| {
                    if fields.len() != names.len() {
                        RecordSpan::Malformed
                    } else if swallows(raw, delimiter, names, wanted) {
                        RecordSpan::Ambiguous
                    } else {
                        RecordSpan::Whole
                    }
                };
                let record = self.records.record(delimiter, span)?;
                Ok(record.map(|record| row_of(names, record)))
            }
            Kind::Lines { begun } => loop {
                let Some(TextLine { number, bytes, is_cut }) = self.records.line()? else {
                    return Ok(None);
                };
                if is_cut {
                    let why = format!("the line is longer than {MAX_ROW_LEN} bytes");
                    return Ok(Some(Row { line: number, values: Err(why), raw: None }));
                }
                let text = bytes.strip_prefix(MARK).unwrap_or(&bytes).trim_ascii();
                if text.is_empty() {
                    continue;
                }
                let values = of_json(text);
                if let (Ok(values), false) = (&values, std::mem::replace(begun, true)) {
                    file_format::check_object(values, self.wanted).map_err(RowError::NotTabular)?;
                }
                return Ok(Some(match values {
                    Ok(values) => Row { line: number, values: Ok(values), raw: None },
                    Err(why) => Row::broken(number, why, text),
                }));
            },
        }
    }
}

/// The column names, from the first non-empty line.
fn heading<R: Read>(
    records: &mut CsvReader<R>,
    delimiter: u8,
    wanted: &Columns,
) -> Result<Vec<String>, RowError> {
    // A file without lines has no rows.
    let Some(record) = records.record(delimiter, |_, _| RecordSpan::Malformed)? else {
        return Ok(Vec::new());
    };
    let refused = |what: &str, remedy: &str| {
        RowError::NotTabular(NotTabular { what: what.to_owned(), remedy: remedy.to_owned() })
    };
    let line = String::from_utf8(record.raw)
        .map_err(|_| refused("is not text in UTF-8", "save it as UTF-8"))?;
    let fields = match record.fields {
        Ok(fields) => fields,
        // The quotes that one delimiter leaves open are closed with another.
        Err(_) => line.split(char::from(delimiter)).map(|name| name.as_bytes().to_vec()).collect(),
    };
    let names: Vec<String> =
        fields.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let shown: Vec<&str> = names.iter().map(String::as_str).collect();
    file_format::check_heading(&shown, &line, delimiter, wanted).map_err(RowError::NotTabular)?;
    Ok(names)
}

/// Whether the quotes of a record over several lines enclose a row: its first line would be a row
/// without its quotes, and so would a later one. A line counts as a row if it has as many fields, and, for
/// messages, a time in the column of the time, or an id and a phone number in theirs.
fn swallows(raw: &[u8], delimiter: u8, names: &[String], wanted: &Columns) -> bool {
    let place =
        |column: &str| names.iter().position(|name| column_name(name) == column_name(column));
    let (id, phone, time) = (place(wanted.id), place(wanted.phone), place("CreationTime"));
    let has_text = place("MessageContent").is_some();
    let is_row = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).replace('"', "");
        let fields: Vec<&str> = line.split(char::from(delimiter)).collect();
        // A delimiter in a text shifts the following columns.
        let moved = fields.len().saturating_sub(names.len());
        let at = |place: Option<usize>, is: fn(&str) -> bool| {
            let places = place.into_iter().flat_map(|place| [place, place + moved]);
            places.into_iter().any(|at| fields.get(at).is_some_and(|text| is(text)))
        };
        fields.len() >= names.len()
            && match has_text {
                true => at(time, is_like_time) || at(id, is_like_id) && at(phone, is_like_phone),
                false => at(phone, has_a_number) || at(id, is_like_number),
            }
    };
    let mut lines = raw.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines.next().is_some_and(is_row) && lines.any(is_row)
}

fn is_like_id(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && !text.contains(char::is_whitespace)
}

fn is_like_number(text: &str) -> bool {
    is_like_id(text) && text.contains(|c: char| c.is_ascii_digit())
}

fn is_like_phone(text: &str) -> bool {
    let text = normalized(text);
    has_a_number(&text) && text.bytes().all(|c| c.is_ascii_digit() || b" -().+/".contains(&c))
}

/// Whatever else stands there.
fn has_a_number(text: &str) -> bool {
    normalized(text).bytes().filter(u8::is_ascii_digit).count() >= 5
}

fn is_like_time(text: &str) -> bool {
    let text = text.trim();
    text.bytes().filter(u8::is_ascii_digit).count() >= 6
        && text.contains(['-', '/', '.'])
        && text.bytes().all(|c| c.is_ascii_digit() || b"-/.:+ TZ".contains(&c))
}

fn row_of(names: &[String], record: CsvRecord) -> Row {
    let CsvRecord { line, fields, raw } = record;
    let values = match fields {
        Ok(fields) => of_fields(names, fields),
        Err(Malformed::AfterQuote) => {
            Err("a quote is not closed, or text follows a closing quote".to_owned())
        }
        Err(Malformed::Open) => Err("a quote is not closed".to_owned()),
        Err(Malformed::Ambiguous) => Err("its quotes enclose whole rows: this may be one \
                                          text of several lines, or rows between two stray quotes; \
                                          write the text on one line, or remove the quotes"
            .to_owned()),
        Err(Malformed::Long) => {
            Err(format!("it is longer than {MAX_ROW_LEN} bytes, or a quote is not closed"))
        }
    };
    match values {
        Ok(values) => Row { line, values: Ok(values), raw: None },
        Err(why) => Row::broken(line, why, &raw),
    }
}

fn of_fields(names: &[String], fields: Vec<Vec<u8>>) -> Result<Map<String, Value>, String> {
    if fields.len() != names.len() {
        return Err(format!("it has {} fields, but the header has {}", fields.len(), names.len()));
    }
    let mut values = Map::new();
    for (name, field) in names.iter().zip(fields) {
        let text = String::from_utf8(field).map_err(|_| "it is not UTF-8".to_owned())?;
        // Columns without a name, as spreadsheets append them, are kept but not used.
        values.insert(name.clone(), Value::String(text));
    }
    Ok(values)
}

fn of_json(text: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(text) {
        Ok(Object { twice: Some(name), .. }) => Err(format!("it has two values of {name}")),
        Ok(Object { values, .. }) => Ok(values),
        Err(error) if error.is_data() => Err("it is not a JSON object".to_owned()),
        Err(error) => {
            // The line number is always 1: only the column is useful.
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or_default();
            Err(format!("it is not JSON: {what} (column {})", error.column()))
        }
    }
}

/// A JSON object that must not have two different values for a key.
struct Object {
    values: Map<String, Value>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
                text.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let (mut values, mut twice) = (Map::new(), None);
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if values.get(&name).is_some_and(|before| *before != value) {
                        twice = Some(name.clone());
                    }
                    values.insert(name, value);
                }
                Ok(Object { values, twice })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests;
