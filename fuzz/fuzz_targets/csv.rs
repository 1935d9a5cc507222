//! Whatever a file holds, it is refused before its first row, or every line of it is in one row, with its own
//! number; and a phone number in it is read as the same again or refused.
#![no_main]

use esh3ar::{
    app::admin::import::USERS,
    cli::admin::import::rows::{RowError, Rows},
    domain::Phone,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Most of the bytes that come have no heading.
    let headed = [b"Id,MobileNumber,Status\n", bytes].concat();
    for file in [bytes, &headed] {
        let mut rows = match Rows::open(file, b',', &USERS) {
            Ok(rows) => rows,
            Err(RowError::NotTabular(_)) => continue,
            Err(RowError::Read(error)) => panic!("memory cannot fail: {error}"),
        };
        let mut last = 0;
        while let Ok(Some(row)) = rows.read() {
            assert!(row.line > last, "each line once");
            last = row.line;
            assert!(row.values.is_ok() || row.raw.is_some() || row.size() == 0);
            let number = row.values.iter().find_map(|values| values.get("MobileNumber")?.as_str());
            let region = "US".parse().ok();
            if let Some(Ok(phone)) = number.map(|text| Phone::parse(text, region)) {
                assert_eq!(Phone::parse(phone.as_str(), region).as_ref(), Ok(&phone));
            }
        }
    }
});
