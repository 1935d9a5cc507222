//! The rows of a file, CSV or JSON lines, one at a time: no file and no line has to fit into memory.

use std::{
    cell::Cell,
    fs::File,
    io::{BufRead, BufReader, Read, Seek as _, SeekFrom},
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
        Ok(Rows::Csv { reader, names, left, read })
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
            Rows::Csv { reader, names, left, .. } => {
                left.set(2 * LONGEST);
                let line = reader.position().line();
                let mut record = csv::ByteRecord::new();
                let more = reader
                    .read_byte_record(&mut record)
                    .map_err(|error| Broken { line, why: error.to_string() })?;
                let line = record.position().map_or(line, csv::Position::line);
                Ok(more.then(|| Row { line, values: of_record(names, &record) }))
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
                    let values = Err(format!("the line is longer than {LONGEST} bytes"));
                    return Ok(Some(Row { line: *line, values }));
                }
                let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).trim_ascii();
                if !text.is_empty() {
                    return Ok(Some(Row { line: *line, values: of_json(text) }));
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
