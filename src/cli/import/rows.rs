//! The rows of a file, CSV or JSON lines, one at a time: no file and no line has to fit into memory.

use std::{
    cell::Cell,
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt as _,
    rc::Rc,
};

use serde_json::{Map, Value};

/// No row is longer, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// A row of a file, or why it is none.
pub(super) struct Row {
    /// Counts from 1, the heading included.
    pub(super) line: u64,
    pub(super) values: Result<Map<String, Value>, String>,
    /// As it stands in the file, if it is none: nothing else has what was in it.
    pub(super) raw: Option<String>,
}

impl Row {
    /// How many bytes it has when it is sent, or held if it is not: a control character is six in JSON.
    pub(super) fn size(&self) -> usize {
        let mut sent = Length(0);
        if let Ok(values) = &self.values {
            // Nothing fails that is only counted.
            let _ = serde_json::to_writer(&mut sent, values);
        }
        sent.0 + self.raw.as_ref().map_or(0, String::len)
    }

    fn broken(line: u64, why: String, raw: &[u8]) -> Row {
        let raw = String::from_utf8_lossy(raw).trim_end_matches(['\r', '\n']).to_owned();
        Row { line, values: Err(why), raw: Some(raw) }
    }
}

/// Counts what is written.
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

/// A file that cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub(super) struct Broken {
    line: u64,
    why: String,
}

pub(super) enum Rows {
    Csv {
        reader: csv::Reader<Counted>,
        /// The same file, to look at places of it again.
        file: File,
        names: csv::ByteRecord,
        left: Rc<Cell<u64>>,
        read: Rc<Cell<u64>>,
    },
    Lines {
        reader: BufReader<Counted>,
        line: u64,
        read: Rc<Cell<u64>>,
    },
}

/// Counts what is read, and refuses to read on when a row has no end.
pub(super) struct Counted {
    file: File,
    left: Rc<Cell<u64>>,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left.get() == 0 {
            return Err(std::io::Error::other(format!("a row is longer than {LONGEST} bytes")));
        }
        let count = self.file.read(buffer)?;
        self.left.set(self.left.get().saturating_sub(count as u64));
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

/// What lies in a file from one place to another, [`LONGEST`] bytes at most.
fn piece(file: &File, from: u64, to: u64) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(to.saturating_sub(from).min(LONGEST)).unwrap_or_default();
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Where the line ends that begins at a place, its end included.
fn line_end(file: &File, from: u64) -> std::io::Result<u64> {
    let mut place = from;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read_at(&mut buffer, place)?;
        let found = buffer.get(..count).unwrap_or_default();
        match found.iter().position(|byte| *byte == b'\n') {
            Some(at) => return Ok(place + at as u64 + 1),
            None if count == 0 => return Ok(place),
            None => place += count as u64,
        }
    }
}

impl Rows {
    /// Opens a file: JSON lines if it begins with a brace, else CSV with a heading.
    pub(super) fn open(mut file: File, delimiter: u8) -> Result<Rows, Broken> {
        let broken = |error: std::io::Error| Broken { line: 1, why: error.to_string() };
        let mut first = [0; 64];
        let count = file.read(&mut first).map_err(broken)?;
        file.seek(SeekFrom::Start(0)).map_err(broken)?;
        let begins = first.get(..count).unwrap_or_default();
        let begins = begins.strip_prefix(b"\xef\xbb\xbf").unwrap_or(begins);
        let is_json = begins.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        // A buffer may be ahead of the row by its own size.
        let left = Rc::new(Cell::new(if is_json { u64::MAX } else { 2 * LONGEST }));
        let read = Rc::new(Cell::new(0));
        let again = file.try_clone().map_err(broken)?;
        let counted = Counted { file, left: Rc::clone(&left), read: Rc::clone(&read) };
        if is_json {
            return Ok(Rows::Lines { reader: BufReader::new(counted), line: 0, read });
        }
        let mut reader =
            csv::ReaderBuilder::new().flexible(true).delimiter(delimiter).from_reader(counted);
        let names = reader
            .byte_headers()
            .map_err(|error| Broken { line: 1, why: error.to_string() })?
            .clone();
        Ok(Rows::Csv { reader, file: again, names, left, read })
    }

    /// How many bytes of the file are through.
    pub(super) fn position(&self) -> u64 {
        match self {
            Rows::Csv { read, .. } | Rows::Lines { read, .. } => read.get(),
        }
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Row>, Broken> {
        match self {
            Rows::Csv { reader, file, names, left, .. } => {
                left.set(2 * LONGEST);
                let mut began = reader.position().clone();
                let mut record = csv::ByteRecord::new();
                let more = reader.read_byte_record(&mut record);
                if let Some(place) = record.position() {
                    began = place.clone();
                }
                let (line, from) = (began.line(), began.byte());
                let broken = |error: std::io::Error| Broken { line, why: error.to_string() };
                let values = match more {
                    Ok(false) => return Ok(None),
                    Ok(true) => of_record(names, &record),
                    Err(_) if left.get() == 0 => {
                        Err(format!("it is longer than {LONGEST} bytes, or its quotes have no end"))
                    }
                    Err(error) => return Err(Broken { line, why: error.to_string() }),
                };
                let end = reader.position();
                if values.is_ok() && end.line() <= line + 1 {
                    return Ok(Some(Row { line, values, raw: None }));
                }
                // Quotes without an end take the rows after them in, all there are. Then only the line on
                // which they begin is broken, and what is after it is read again.
                let raw = piece(file, from, end.byte()).map_err(broken)?;
                let endless = raw.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
                if left.get() > 0 && !endless {
                    return Ok(Some(match values {
                        Ok(values) => Row { line, values: Ok(values), raw: None },
                        Err(why) => Row::broken(line, why, &raw),
                    }));
                }
                let next = line_end(file, from).map_err(broken)?;
                let first = piece(file, from, next).map_err(broken)?;
                let mut place = csv::Position::new();
                place.set_byte(next).set_line(line + 1).set_record(began.record() + 1);
                left.set(2 * LONGEST);
                reader.seek(place).map_err(|error| Broken { line, why: error.to_string() })?;
                let why = match values {
                    Err(why) if !endless => why,
                    _ => "its quotes have no end".to_owned(),
                };
                Ok(Some(Row::broken(line, why, &first)))
            }
            Rows::Lines { reader, line, .. } => loop {
                *line += 1;
                let broken = |error: std::io::Error| Broken { line: *line, why: error.to_string() };
                let mut bytes = Vec::new();
                let count = (&mut *reader).take(LONGEST).read_until(b'\n', &mut bytes);
                if count.map_err(broken)? == 0 {
                    return Ok(None);
                }
                if bytes.last() != Some(&b'\n') && bytes.len() as u64 == LONGEST {
                    reader.skip_until(b'\n').map_err(broken)?;
                    let why = format!("the line is longer than {LONGEST} bytes");
                    return Ok(Some(Row { line: *line, values: Err(why), raw: None }));
                }
                let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).trim_ascii();
                if !text.is_empty() {
                    return Ok(Some(match of_json(text) {
                        Ok(values) => Row { line: *line, values: Ok(values), raw: None },
                        Err(why) => Row::broken(*line, why, text),
                    }));
                }
            },
        }
    }
}

fn of_record(
    names: &csv::ByteRecord,
    record: &csv::ByteRecord,
) -> Result<Map<String, Value>, String> {
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "it is not UTF-8".to_owned())
    };
    if record.len() != names.len() {
        return Err(format!("it has {} fields, and the heading {}", record.len(), names.len()));
    }
    let pairs = names.iter().zip(record);
    pairs.map(|(name, value)| Ok((text(name)?, Value::String(text(value)?)))).collect()
}

fn of_json(text: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(values)) => Ok(values),
        Ok(_) => Err("it is no JSON object".to_owned()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(text: &[u8]) -> Vec<Row> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.rewind().unwrap();
        let mut rows = Rows::open(file, b',').unwrap();
        std::iter::from_fn(|| rows.next().unwrap()).collect()
    }

    #[test]
    fn quotes_without_an_end_take_one_line_only() {
        let text = b"a,b\n1,\"two\nlines\"\n2,\"broken\n3,fine\n4,\"also\"\n5,\"broken\n6,fine\n";
        let found = rows(text);
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
        assert_eq!(found[0].values.as_ref().unwrap()["b"], "two\nlines");
    }

    #[test]
    fn a_row_is_as_large_as_it_is_sent() {
        for text in ["plain", "\u{1}\u{2}\n\"", "سلام"] {
            let found = rows(format!("{{\"a\":{},\"b\":[1,null]}}\n", json!(text)).as_bytes());
            let sent = serde_json::to_string(found[0].values.as_ref().unwrap()).unwrap();
            assert_eq!(found[0].size(), sent.len(), "{sent}");
        }
    }

    #[test]
    fn a_row_that_is_too_long_is_one_row() {
        let long = "x".repeat(3 * 1024 * 1024);
        let quoted = format!("a,b\n1,{long}\n2,\"{long}\n3,fine\n");
        let found = rows(quoted.as_bytes());
        let lines: Vec<(u64, bool)> =
            found.iter().map(|row| (row.line, row.values.is_ok())).collect();
        assert_eq!(lines, [(2, false), (3, false), (4, true)]);
        assert!(found[1].raw.as_ref().is_some_and(|raw| raw.len() <= 1024 * 1024));
    }

    #[test]
    fn what_is_no_row_is_kept_as_it_was() {
        let found = rows(b"a,b\n1,2,3\n");
        assert_eq!(found[0].raw.as_deref(), Some("1,2,3"));
        let found = rows(b"{\"a\":1}\n{broken\n[1]\n");
        let raws: Vec<Option<&str>> = found.iter().map(|row| row.raw.as_deref()).collect();
        assert_eq!(raws, [None, Some("{broken"), Some("[1]")]);
    }
}
