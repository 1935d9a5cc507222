//! A row as another system exported it: values by the names of their columns, in the forms in which
//! databases and spreadsheets write them.

use std::collections::BTreeMap;

use time::{
    Date, OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Iso8601},
    macros::format_description,
};

use crate::domain::phone::{is_computed, normalized};

/// The columns of a table.
#[derive(Debug)]
pub struct Columns {
    /// What `import` calls it.
    pub command: &'static str,
    /// Without these there is no row.
    pub required: &'static [&'static str],
    /// Those that may be there.
    pub optional: &'static [&'static str],
    /// The one of ids.
    pub id: &'static str,
    /// The one of phone numbers.
    pub phone: &'static str,
}

impl Columns {
    /// All that are read.
    pub fn known(&self) -> impl Iterator<Item = &'static str> {
        self.required.iter().chain(self.optional).copied()
    }
}

/// Those of `EtMessages`.
pub const MESSAGES: Columns = Columns {
    command: "messages",
    required: &["Id", "RecipientPhoneNumber", "CreationTime"],
    optional: &[
        "CreatorId",
        "Subject",
        "MessageContent",
        "Status",
        "Priority",
        "RetryCount",
        "DeliveredAt",
        "ReadAt",
        "FailureReason",
        "SenderPhoneNumber",
    ],
    id: "Id",
    phone: "RecipientPhoneNumber",
};

/// Those of `EtMobileUsers`.
pub const USERS: Columns = Columns {
    command: "users",
    required: &["Id", "MobileNumber"],
    optional: &["Status", "CreationTime", "Email"],
    id: "Id",
    phone: "MobileNumber",
};

/// By what a column is known: neither case nor anything but letters and digits matters.
pub fn column_name(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase()
}

/// A row of the existing system: values by the names of their columns.
#[derive(Clone, Debug, Default)]
pub struct SourceRow {
    values: BTreeMap<String, String>,
    /// A column that it names twice, with different values.
    twice: Option<String>,
    /// A column whose value is a list or an object.
    nested: Option<String>,
}

impl SourceRow {
    /// Puts a value under a column's name.
    pub fn put(&mut self, column: &str, value: &str) {
        let name = column_name(column);
        let before = self.values.insert(name.clone(), value.to_owned());
        if before.is_some_and(|before| before != value) && !name.is_empty() {
            self.twice = Some(name);
        }
    }

    /// Notes a column whose value is a list or an object.
    pub fn put_nested(&mut self, column: &str) {
        self.nested = Some(column_name(column)).filter(|name| is_read(name)).or(self.nested.take());
    }

    /// A value; none if it is empty, or the word that tools write for a missing one.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.written(name).filter(|value| !value.trim().is_empty())
    }

    fn written(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name).map(String::as_str);
        value.filter(|value| *value != "NULL" && *value != "\\N")
    }

    /// The id, which says what the row is: of one that was rounded, or of which there are two, others would
    /// be taken for it.
    pub(super) fn id(&self) -> Result<&str, String> {
        if let Some(name) = self.twice.as_ref().filter(|name| is_read(name)) {
            return Err(format!("it has two values of {name}"));
        }
        if let Some(name) = &self.nested {
            return Err(format!("{name} is a list or an object; write a text or a number"));
        }
        let Some(id) = self.get("id") else {
            return Err(match self.get("raw") {
                Some(_) => {
                    "raw holds the line as it stood in the file: write its values as columns"
                        .to_owned()
                }
                None => "id is missing".to_owned(),
            });
        };
        let id = id.trim();
        match is_rounded(&normalized(id)) {
            true => Err(spreadsheet("id", id)),
            false => Ok(id),
        }
    }

    pub(super) fn text(&self, name: &str, most: usize) -> Result<Option<String>, String> {
        self.get(name).map(|text| bounded(name, text, most)).transpose()
    }

    /// What a message says, which may be spaces.
    pub(super) fn content(&self, name: &str, most: usize) -> Result<String, String> {
        self.written(name).map_or_else(|| Ok(String::new()), |text| bounded(name, text, most))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, String> {
        let parse = |text: &str| {
            let text = normalized(text);
            text.parse().map_err(|_| match is_computed(&text) && !text.starts_with('-') {
                true => spreadsheet(name, &text),
                false => format!("{name} is no number"),
            })
        };
        self.get(name).map(parse).transpose()
    }

    /// A time, not after `latest`; none if it is of the year 1, which is what .NET writes for none.
    pub(super) fn time(
        &self,
        name: &str,
        latest: OffsetDateTime,
    ) -> Result<Option<OffsetDateTime>, String> {
        let Some(text) = self.get(name).filter(|text| !is_no_time(text)) else { return Ok(None) };
        let time = moment(text).ok_or_else(|| {
            format!(
                "{name} is no time; write it like 2024-05-01 10:00:00 or 2024-05-01T10:00:00+03:00"
            )
        })?;
        if time.year() <= 1 {
            return Ok(None);
        }
        if time > latest {
            return Err(format!("{name} is in the future"));
        }
        Ok(Some(time))
    }
}

/// Whether an id is a number that a spreadsheet has written: with a fraction of nothing, or rounded to a few
/// digits. `7e12` and `2024.01` are names like any other.
fn is_rounded(id: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if let Some((whole, fraction)) = id.split_once(['.', ','])
        && digits(whole)
        && !fraction.is_empty()
        && fraction.bytes().all(|c| c == b'0')
    {
        return true;
    }
    id.split_once("E+").or_else(|| id.split_once("e+")).is_some_and(|(number, exponent)| {
        let (whole, fraction) = number.split_once(['.', ',']).unwrap_or((number, "0"));
        digits(exponent) && digits(fraction) && digits(whole) && whole.len() == 1
    })
}

fn is_read(name: &str) -> bool {
    MESSAGES.known().chain(USERS.known()).any(|column| column_name(column) == name)
}

fn bounded(name: &str, text: &str, most: usize) -> Result<String, String> {
    if text.contains('\0') {
        return Err(format!("{name} has a NUL character"));
    }
    if text.chars().count() > most {
        return Err(format!("{name} is longer than {most} characters"));
    }
    Ok(text.to_owned())
}

fn spreadsheet(name: &str, text: &str) -> String {
    let text: String = text.chars().take(40).collect();
    format!(
        "{name} is {text}, a decimal number as spreadsheets write them; make its column text or whole \
         numbers, and export it again"
    )
}

/// What systems write for no time: the beginning of their calendar.
fn is_no_time(text: &str) -> bool {
    let text = text.trim();
    let day = text.split([' ', 'T']).next().unwrap_or_default();
    text.starts_with("0001-01-01")
        || text.starts_with("0000-")
        // As .NET writes it where days are written otherwise.
        || ["1/1/0001", "01/01/0001", "01.01.0001", "1.1.0001"].contains(&day)
}

/// A time as databases export it; without an offset it is UTC.
fn moment(text: &str) -> Option<OffsetDateTime> {
    const PLAIN: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let text = text.trim().replacen(' ', "T", 1);
    // "… +03:00", with a space before the offset.
    let text = text.replace(' ', "");
    if let Ok(time) = OffsetDateTime::parse(&text, &Iso8601::PARSING) {
        return Some(time);
    }
    if let Ok(time) = PrimitiveDateTime::parse(&text, &Iso8601::PARSING) {
        return Some(time.assume_utc());
    }
    if let Ok(time) = PrimitiveDateTime::parse(&text, PLAIN) {
        return Some(time.assume_utc());
    }
    // A day alone begins at midnight.
    Date::parse(&text, &Iso8601::PARSING).ok().map(|day| day.midnight().assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[(&str, &str)]) -> SourceRow {
        let mut row = SourceRow::default();
        values.iter().for_each(|(column, value)| row.put(column, value));
        row
    }

    #[test]
    fn times_of_exports_are_read() {
        let wanted = moment("2024-05-01T10:00:00Z");
        assert!(wanted.is_some());
        for text in
            ["2024-05-01 10:00:00", "2024-05-01T13:00:00+03:00", "2024-05-01 10:00:00 +00:00"]
        {
            assert_eq!(moment(text), wanted, "{text}");
        }
        let exact = moment("2024-05-01 10:00:00.1234567");
        assert_eq!(exact.map(|time| time.nanosecond()), Some(123_456_700));
        assert_eq!(moment(" 2024-05-01 "), moment("2024-05-01T00:00:00Z"));
        for bad in
            ["", "yesterday", "2024-05", "05/01/2024", "2024-13-01 10:00:00", "2024-05-01 25:00:00"]
        {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_year_one_is_no_time_and_none_is_in_the_future() {
        let now = moment("2024-05-01T10:00:00Z").unwrap();
        let of = |text: &str| row(&[("ReadAt", text)]).time("readat", now);
        for none in [
            "0001-01-01 00:00:00",
            "0001-01-01 00:00:00.0000000",
            "0001-01-01T00:00:00",
            "0001-01-01T00:00:00Z",
            "0001-01-01 00:00:00 +03:00",
            "0001-01-01T00:00:00.0000000+00:00",
            " 0001-01-01",
            "0001-01-02T00:00:00Z",
            "0000-00-00 00:00:00",
            "1/1/0001 12:00:00 AM",
            "01/01/0001 00:00:00",
            "NULL",
            "\\N",
            " ",
        ] {
            assert_eq!(of(none), Ok(None), "{none}");
        }
        assert_eq!(of("2024-05-01 10:00:00"), Ok(Some(now)));
        for later in ["2024-05-01T10:00:01Z", "2024-05-01T12:00:00+01:00", "9999-12-31T23:59:59Z"] {
            assert_eq!(of(later), Err("readat is in the future".to_owned()), "{later}");
        }
        assert!(of("soon").unwrap_err().starts_with("readat is no time; write it like 2024-05-01"));
    }

    #[test]
    fn columns_are_known_however_they_are_written() {
        for name in
            ["Recipient_Phone_Number", "recipientPhoneNumber", "\u{FEFF}RECIPIENT PHONE-NUMBER "]
        {
            let row = row(&[(name, "967771234567"), ("subject", "NULL")]);
            assert_eq!(row.get("recipientphonenumber"), Some("967771234567"), "{name}");
            assert_eq!(row.get("subject"), None);
        }
        assert_eq!(
            row(&[("Id", "1"), ("ID", "2")]).id(),
            Err("it has two values of id".to_owned())
        );
        assert_eq!(row(&[("Id", "1"), ("ID", "1"), ("x", "1"), ("X", "2")]).id(), Ok("1"));
    }

    #[test]
    fn content_is_kept_as_it_is() {
        let of = |text: &str| row(&[("MessageContent", text)]).content("messagecontent", 5);
        for text in [" ", " a ", "\n", "\t", "\u{3000}", ""] {
            assert_eq!(of(text).as_deref(), Ok(text), "{text:?}");
        }
        assert_eq!(of("NULL").as_deref(), Ok(""));
        assert!(of("123456").is_err() && of("\0").is_err());
    }

    #[test]
    fn what_a_spreadsheet_made_of_a_number_is_told() {
        let number = |text: &str| row(&[("Status", text)]).number("status");
        for (text, value) in
            [("1", Some(1)), (" 2 ", Some(2)), ("٣", Some(3)), ("", None), ("-1", Some(-1))]
        {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        assert_eq!((number("40000"), number("-70000")), (Ok(Some(40_000)), Ok(Some(-70_000))));
        for text in ["1.0", "1,0", "1.00", "1E+0", "١٫٠"] {
            let why = number(text).unwrap_err();
            assert!(why.starts_with("status is ") && why.contains("spreadsheet"), "{why}");
            let why = row(&[("Id", text)]).id().unwrap_err();
            assert!(why.starts_with("id is ") && why.contains("spreadsheet"), "{why}");
        }
        assert!(number("one").unwrap_err().ends_with("no number"));
        for id in ["6.58202E+22", "7E+12"] {
            assert!(row(&[("Id", id)]).id().unwrap_err().contains("spreadsheet"), "{id}");
        }
        let hex = ["7e12", "65820191e73520147512396", "12e45678", "2024.01", "1.234"];
        for id in hex {
            assert_eq!(row(&[("Id", id)]).id(), Ok(id));
        }
        assert!(row(&[("line", "4"), ("raw", "3,9")]).id().unwrap_err().starts_with("raw holds"));
        for id in ["7", "A-1.5b", "11111111-0000-4000-8000-000000000001", "-7"] {
            assert_eq!(row(&[("Id", id)]).id(), Ok(id));
        }
    }
}
