//! Reads the lines of a text or the records of a CSV one at a time: neither has to fit into memory.
//!
//! Strict so that no row is lost (RFC 4180): a closing quote is followed by a delimiter or the
//! end of the line. Otherwise that one line is malformed, and the next is read as a line again. A parser that
//! reads on instead takes the rows in between as the content of one field.

use std::io::{ErrorKind, Read, Result};

/// Of a row, in bytes.
pub const MAX_ROW_LEN: usize = 1024 * 1024;
/// Bytes per read.
const READ_SIZE: usize = 64 * 1024;

/// A non-empty line.
#[derive(Debug, PartialEq, Eq)]
pub struct TextLine {
    /// Counts from 1, empty lines included.
    pub number: u64,
    /// Its content without the line end, at most [`MAX_ROW_LEN`] bytes.
    pub bytes: Vec<u8>,
    /// Whether it is longer than that.
    pub is_cut: bool,
}

/// Why a record is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Text follows a closing quote.
    AfterQuote,
    /// A quote is not closed, or only by a quote of another line.
    Open,
    /// It is longer than [`MAX_ROW_LEN`].
    Long,
    /// Its quotes span several lines that look like rows: one text, or rows between two stray
    /// quotes.
    Ambiguous,
}

/// The judgement on a record that spans several lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordSpan {
    /// One record.
    Whole,
    /// Not a record: it has other fields.
    Malformed,
    /// One record by its quotes, several by their content.
    Ambiguous,
}

/// A record, or the first line of a malformed one.
#[derive(Debug, PartialEq, Eq)]
pub struct CsvRecord {
    /// The line on which it begins.
    pub line: u64,
    /// Its fields, without their quotes.
    pub fields: std::result::Result<Vec<Vec<u8>>, Malformed>,
    /// The raw bytes, at most [`MAX_ROW_LEN`].
    pub raw: Vec<u8>,
}

/// Reads lines that end with a line feed, a carriage return, or both.
pub struct CsvReader<R> {
    source: R,
    /// Read bytes, of which `start` are consumed.
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
    /// The number of the line that begins at `start`.
    line: u64,
    read: u64,
    /// Lines up to this one are in ambiguous quotes.
    ambiguous: u64,
}

/// A scanned record.
struct Scanned {
    fields: std::result::Result<Vec<Vec<u8>>, Malformed>,
    /// Its length without the line end.
    length: usize,
    /// Whether a line ends inside its quotes.
    spans_lines: bool,
}

impl<R: Read> CsvReader<R> {
    /// Reads from the beginning of a source.
    pub fn new(source: R) -> CsvReader<R> {
        CsvReader {
            source,
            buffer: Vec::new(),
            start: 0,
            ended: false,
            line: 1,
            read: 0,
            ambiguous: 0,
        }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.read
    }

    /// The first non-empty line, as far as a line may reach.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn head(&mut self) -> Result<&[u8]> {
        let mut place = 0;
        let mut seen = false;
        while let Some(byte) = self.at(place)?.filter(|_| place < MAX_ROW_LEN) {
            if seen && matches!(byte, b'\r' | b'\n') {
                break;
            }
            seen |= !byte.is_ascii_whitespace();
            place += 1;
        }
        Ok(self.buffer.get(self.start..).unwrap_or_default())
    }

    /// Skips bytes, none of which ends a line.
    pub fn skip(&mut self, count: usize) {
        self.start = (self.start + count).min(self.buffer.len());
        // Not after every line, because the rest has to be moved.
        if self.start > MAX_ROW_LEN || self.start == self.buffer.len() {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }

    /// The byte at offset `place`; `None` after the end.
    fn at(&mut self, place: usize) -> Result<Option<u8>> {
        loop {
            if let Some(byte) = self.buffer.get(self.start + place) {
                return Ok(Some(*byte));
            }
            if self.ended {
                return Ok(None);
            }
            let filled = self.buffer.len();
            self.buffer.resize(filled + READ_SIZE, 0);
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            let count = match self.source.read(room) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    self.buffer.truncate(filled);
                    continue;
                }
                Err(error) => {
                    self.buffer.truncate(filled);
                    return Err(error);
                }
            };
            self.buffer.truncate(filled + count);
            self.read += count as u64;
            self.ended = count == 0;
        }
    }

    /// The length of the line end at that offset: two bytes, one, or none.
    fn line_end(&mut self, place: usize) -> Result<usize> {
        Ok(match self.at(place)? {
            Some(b'\n') => 1,
            Some(b'\r') if self.at(place + 1)? == Some(b'\n') => 2,
            Some(b'\r') => 1,
            _ => 0,
        })
    }

    fn skip_empty_lines(&mut self) -> Result<()> {
        loop {
            match self.line_end(0)? {
                0 => return Ok(()),
                length => self.skip(length),
            }
            self.line += 1;
        }
    }

    /// The next non-empty line; `None` at the end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn line(&mut self) -> Result<Option<TextLine>> {
        self.skip_empty_lines()?;
        let (number, mut bytes, mut is_cut) = (self.line, Vec::new(), false);
        if self.at(0)?.is_none() {
            return Ok(None);
        }
        loop {
            let ahead = self.buffer.get(self.start..).unwrap_or_default();
            let end = ahead.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let found = ahead.get(..end.unwrap_or(ahead.len())).unwrap_or_default();
            let room = MAX_ROW_LEN.saturating_sub(bytes.len());
            is_cut |= found.len() > room;
            bytes.extend_from_slice(found.get(..room.min(found.len())).unwrap_or_default());
            let count = found.len();
            self.skip(count);
            match (end, self.at(0)?) {
                (None, Some(_)) => {}
                _ => break,
            }
        }
        let end = self.line_end(0)?;
        self.skip(end);
        self.line += 1;
        Ok(Some(TextLine { number, bytes, is_cut }))
    }

    /// The next record; `None` at the end. `span` judges a record over several lines by its fields and
    /// its raw bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn record(
        &mut self,
        delimiter: u8,
        span: impl Fn(&[Vec<u8>], &[u8]) -> RecordSpan,
    ) -> Result<Option<CsvRecord>> {
        self.skip_empty_lines()?;
        if self.at(0)?.is_none() {
            return Ok(None);
        }
        let line = self.line;
        if line <= self.ambiguous {
            return self.broken(Malformed::Ambiguous);
        }
        let scanned = self.scan(delimiter)?;
        match scanned.fields {
            Ok(fields) => {
                let raw = self.buffer.get(self.start..self.start + scanned.length);
                let raw = raw.unwrap_or_default().to_vec();
                let span =
                    if scanned.spans_lines { span(&fields, &raw) } else { RecordSpan::Whole };
                match span {
                    RecordSpan::Whole => {
                        self.pass(scanned.length)?;
                        Ok(Some(CsvRecord { line, fields: Ok(fields), raw }))
                    }
                    RecordSpan::Malformed => self.broken(Malformed::Open),
                    RecordSpan::Ambiguous => {
                        self.ambiguous = line + self.line_ends(scanned.length)?;
                        self.broken(Malformed::Ambiguous)
                    }
                }
            }
            Err(why) => self.broken(why),
        }
    }

    /// The next line as a malformed record.
    fn broken(&mut self, why: Malformed) -> Result<Option<CsvRecord>> {
        let Some(TextLine { number, bytes, is_cut }) = self.line()? else { return Ok(None) };
        let why = if is_cut { Malformed::Long } else { why };
        Ok(Some(CsvRecord { line: number, fields: Err(why), raw: bytes }))
    }

    /// The number of line ends within `length` bytes.
    fn line_ends(&mut self, length: usize) -> Result<u64> {
        let (mut place, mut count) = (0, 0);
        while place < length {
            let end = self.line_end(place)?;
            count += u64::from(end > 0);
            place += end.max(1);
        }
        Ok(count)
    }

    /// Skips a record and its line end.
    fn pass(&mut self, length: usize) -> Result<()> {
        self.line += self.line_ends(length)?;
        let end = self.line_end(length)?;
        self.line += u64::from(end > 0);
        self.skip(length + end);
        Ok(())
    }

    /// Finds the end of the record that begins here.
    fn scan(&mut self, delimiter: u8) -> Result<Scanned> {
        let (mut place, mut fields, mut spans_lines) = (0, Vec::new(), false);
        let scanned = |fields, length, spans_lines| Ok(Scanned { fields, length, spans_lines });
        loop {
            let mut field = Vec::new();
            let is_quoted = self.at(place)? == Some(b'"');
            place += usize::from(is_quoted);
            loop {
                if place > MAX_ROW_LEN {
                    let why = if spans_lines { Malformed::Open } else { Malformed::Long };
                    return scanned(Err(why), place, spans_lines);
                }
                let byte = self.at(place)?;
                match (byte, is_quoted) {
                    (None, true) => return scanned(Err(Malformed::Open), place, spans_lines),
                    (Some(b'"'), true) => {
                        place += 1;
                        if self.at(place)? != Some(b'"') {
                            break;
                        }
                    }
                    (Some(b'\r' | b'\n'), true) => spans_lines = true,
                    (Some(byte), false) if byte == delimiter => break,
                    (None | Some(b'\r' | b'\n'), false) => break,
                    _ => {}
                }
                field.extend(byte);
                place += 1;
            }
            fields.push(field);
            match self.at(place)? {
                Some(byte) if byte == delimiter => place += 1,
                None | Some(b'\r' | b'\n') => return scanned(Ok(fields), place, spans_lines),
                Some(_) => return scanned(Err(Malformed::AfterQuote), place, spans_lines),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn two(fields: &[Vec<u8>], _: &[u8]) -> RecordSpan {
        if fields.len() == 2 { RecordSpan::Whole } else { RecordSpan::Malformed }
    }

    fn all(text: &[u8]) -> Vec<CsvRecord> {
        let mut records = CsvReader::new(text);
        std::iter::from_fn(|| records.record(b',', two).unwrap()).collect()
    }

    fn told(text: &str) -> Vec<(u64, std::result::Result<Vec<String>, Malformed>)> {
        let text_of = |field: Vec<u8>| String::from_utf8(field).unwrap();
        all(text.as_bytes())
            .into_iter()
            .map(|record| {
                (record.line, record.fields.map(|all| all.into_iter().map(text_of).collect()))
            })
            .collect()
    }

    #[test]
    fn fields_are_taken_out_of_their_quotes() {
        let row = |line, fields: [&str; 2]| (line, Ok(fields.map(str::to_owned).to_vec()));
        for end in ["\n", "\r\n", "\r"] {
            let text = [
                "1,a",
                "\"2\",\"b,\"\"c\"\"\"",
                "",
                "3,5\" \"pipe\"",
                "4,\"two",
                "lines\"",
                "5,\"\"",
                ",",
                "6,",
            ];
            let text = text.join(end);
            let wanted = [
                row(1, ["1", "a"]),
                row(2, ["2", "b,\"c\""]),
                row(4, ["3", "5\" \"pipe\""]),
                row(5, ["4", &format!("two{end}lines")]),
                row(7, ["5", ""]),
                row(8, ["", ""]),
                row(9, ["6", ""]),
            ];
            assert_eq!(told(&text), wanted, "{end:?}");
            assert_eq!(told(&format!("{text}{end}")), wanted, "{end:?}");
        }
    }

    #[test]
    fn quotes_that_are_not_closed_break_their_own_line() {
        let open = |line| (line, Err(Malformed::Open));
        let after = |line| (line, Err(Malformed::AfterQuote));
        let row = |line, fields: [&str; 2]| (line, Ok(fields.map(str::to_owned).to_vec()));
        let text = "1,\"a\n2,b\n3,\"c\n4,d\n";
        assert_eq!(told(text), [after(1), row(2, ["2", "b"]), open(3), row(4, ["4", "d"])]);
        assert_eq!(told("1,\"a\" \n2,b"), [after(1), row(2, ["2", "b"])]);
        assert_eq!(told("1,\"a\"x\r\n2,\"b"), [after(1), open(2)]);
        // Closed at the end of a line, but with too many fields in between.
        assert_eq!(told("\"1,a\n2,b\"\n"), [open(1), row(2, ["2", "b\""])]);
    }

    #[test]
    fn lines_are_counted_whatever_ends_them() {
        let mut lines = CsvReader::new(&b"a\r\n\r\nb\n\rc\rd"[..]);
        let found: Vec<(u64, Vec<u8>)> = std::iter::from_fn(|| lines.line().unwrap())
            .map(|line| (line.number, line.bytes))
            .collect();
        let wanted: [(u64, &[u8]); 4] = [(1, b"a"), (3, b"b"), (5, b"c"), (6, b"d")];
        assert_eq!(found, wanted.map(|(number, bytes)| (number, bytes.to_vec())));
    }

    /// Gives a few bytes at a time: the end of what was read is not the end of anything.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_byte_is_in_one_record(
            text in prop::collection::vec(prop::sample::select(&b"a,\"\r\n"[..]), 0..200),
            step in 1_usize..40,
        ) {
            let found = all(&text);
            let not_end = |byte: &&u8| !matches!(byte, b'\r' | b'\n');
            let raw: Vec<u8> = found.iter().flat_map(|r| &r.raw).filter(not_end).copied().collect();
            let whole: Vec<u8> = text.iter().filter(not_end).copied().collect();
            prop_assert_eq!(raw, whole);
            let lines: Vec<u64> = found.iter().map(|record| record.line).collect();
            prop_assert!(lines.is_sorted_by(|one, other| one < other));
            let mut slow = CsvReader::new(Slow(&text, step));
            let again: Vec<CsvRecord> =
                std::iter::from_fn(|| slow.record(b',', two).unwrap()).collect();
            prop_assert_eq!(again, found);
        }

        #[test]
        fn what_is_quoted_is_read_as_it_was(
            rows in prop::collection::vec(prop::collection::vec("[a,\"\r\n é]{0,6}", 2), 0..8),
            end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        ) {
            let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
            let line = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(",");
            let text: String = rows.iter().map(|row| line(row) + end).collect();
            let read: Vec<Vec<String>> =
                told(&text).into_iter().map(|(_, fields)| fields.unwrap()).collect();
            prop_assert_eq!(read, rows);
        }
    }
}
