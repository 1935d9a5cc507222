use phonenumber::metadata::DATABASE;
use proptest::prelude::*;

use super::*;

fn read(text: &str, code: &str) -> Result<String, PhoneError> {
    let region = (!code.is_empty()).then(|| code.parse().unwrap());
    Phone::parse(text, region).map(|phone| phone.as_str().to_owned())
}

fn regions() -> Vec<Region> {
    let mut all: Vec<&str> = DATABASE.iter().map(|region| region.id()).collect();
    all.sort_unstable();
    all.iter().filter_map(|id| id.parse().ok()).collect()
}

/// Numbers that exist in every country, of every kind that can be reached from abroad.
fn examples() -> Vec<String> {
    let mut all = Vec::new();
    for region in DATABASE.iter() {
        let kinds = region.descriptors();
        let kinds = [
            kinds.mobile(),
            kinds.fixed_line(),
            kinds.toll_free(),
            kinds.premium_rate(),
            kinds.shared_cost(),
            kinds.personal_number(),
            kinds.voip(),
            kinds.pager(),
            kinds.uan(),
            kinds.voicemail(),
        ];
        let numbers = kinds.into_iter().flatten().filter_map(|kind| kind.example());
        all.extend(numbers.map(|number| format!("+{}{number}", region.country_code())));
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn the_usual_ways_to_write_one_number() {
    for text in [
        "+967771234567",
        "+967 77 123 4567",
        "00967771234567",
        " +967-77-1234567 ",
        "(+967) 771234567",
        "( +967 ) 771234567",
        "(00967) 771234567",
        "+(967)771234567",
        "00 967 77 123 45 67",
        "+967 (0) 771234567",
        "00967 (0)77/1234567",
        "+967.771.234.567",
        "(+967) (77) 1234567",
    ] {
        assert_eq!(read(text, "").as_deref(), Ok("+967771234567"), "{text}");
        for other in ["YE", "US", "DE", "CN", "IT"] {
            assert_eq!(read(text, other).as_deref(), Ok("+967771234567"), "{text} in {other}");
        }
    }
    for text in ["771234567", "0771234567", "967771234567", "(0)77 1234567", "(0771) 234-567"] {
        assert_eq!(read(text, "YE").as_deref(), Ok("+967771234567"), "{text}");
    }
}

#[test]
fn what_begins_with_plus_is_read_without_the_region() {
    for number in [
        "+4915123456789",
        "+8613912345678",
        "+201012345678",
        "+8801712345678",
        "+491701234567",
        "+5511987654321",
        "+2250712345678",
        "+2290197123456",
        "+242061234567",
        "+390669812345",
        "+24106031234",
        // Toll-free in Russia: the crate takes its 8 for a prefix.
        "+78001234567",
        "+77012345678",
        "+919123456789",
        "+393912345678",
        "+5555991234567",
        "+50688123456",
        "+37060012345",
    ] {
        for region in regions() {
            let read = Phone::parse(number, Some(region));
            assert_eq!(read.as_ref().map(Phone::as_str), Ok(number), "{}", region.id());
        }
        for region in ["", "US", "YE", "RU"] {
            assert_eq!(read(&number.replace('+', "00"), region).as_deref(), Ok(number));
        }
    }
    assert_eq!(read("+861391234567 8", "US").as_deref(), Ok("+8613912345678"));
}

#[test]
fn every_country_can_be_reached_from_everywhere() {
    let examples = examples();
    assert!(examples.len() > 800, "{}", examples.len());
    let unknown = examples.iter().filter(|number| !plan::is_assigned_anywhere(&number[1..]));
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&String>::new());
    let some: Vec<Region> = ["US", "YE", "DE", "RU", "BR", "IT"].map(|r| r.parse().unwrap()).into();
    for number in examples {
        for region in [None].into_iter().chain(some.iter().copied().map(Some)) {
            let read = Phone::parse(&number, region);
            assert_eq!(read.as_ref().map(Phone::as_str), Ok(number.as_str()), "{region:?}");
        }
    }
}

#[test]
fn length_and_country_are_judged_and_not_the_range() {
    // None of these ranges is in the tables.
    for number in
        ["+967790000000", "+967600000000", "+12005550123", "+2250012345678", "+20999999999"]
    {
        assert!(!phonenumber::is_valid(&phonenumber::parse(None, number).unwrap()), "{number}");
        assert_eq!(read(number, "").as_deref(), Ok(number));
    }
    for number in [
        "+96777",
        "+967771234",
        "+9677712345678901",
        "+120255501234",
        "+15550123",
        "+22507123456",
        "+22997123456",
    ] {
        assert_eq!(read(number, ""), Err(PhoneError::WrongLength), "{number}");
    }
    for number in ["+999123456789", "+0771234567", "+210123456789", "000967771234567"] {
        assert_eq!(read(number, "YE"), Err(PhoneError::UnknownCountry), "{number}");
    }
}

#[test]
fn digits_signs_and_spaces_of_other_scripts_are_read() {
    for text in [
        "٩٦٧٧٧١٢٣٤٥٦٧+".trim_end_matches('+').replacen('٩', "+٩", 1).as_str(),
        "+۹۶۷۷۷۱۲۳۴۵۶۷",
        "＋９６７７７１２３４５６７",
        "००९६७७७१२३४५६७",
        "\u{202A}+967\u{A0}77\u{2011}123\u{2011}4567\u{202C}",
        "\u{FEFF}+967771234567\u{200B}",
        "+967\u{202F}77\u{2009}123\u{3000}4567",
        "＋967（77）１２３ー4567",
        "+967\t771234567\r\n",
        "\u{200F}(\u{200E}+967\u{2066}) 77\u{2012}1234567",
        &"+967771234567".chars().map(|c| format!("{c}\u{200D}\u{200B}")).collect::<String>(),
    ] {
        assert_eq!(read(text, "").as_deref(), Ok("+967771234567"), "{text:?}");
    }
    assert_eq!(read("٧٧١٢٣٤٥٦٧", "YE").as_deref(), Ok("+967771234567"));
    // Two numbers, one below the other, are not one.
    assert_eq!(read("+4930123\n456", ""), Err(PhoneError::NotANumber));
}

#[test]
fn what_a_spreadsheet_made_of_a_number_is_no_number() {
    for text in [
        "771234567.0",
        "771234567.00",
        "771234567.000",
        "771234567,0",
        "٧٧١٢٣٤٥٦٧٫٠",
        "967771234567.0",
        "+967771234567.0",
        "9.67771E+11",
        "9,67771E+11",
        "9.67771234567e11",
        "967771234567E0",
        "-771233600",
        "−771233600",
        "771,234,567.00",
        "77123456.5",
        "30123456.0000",
        "15123456.7890",
        "+4930123458.0000",
        "771234567.0000",
    ] {
        for region in ["", "US", "YE", "DE"] {
            assert_eq!(read(text, region), Err(PhoneError::Spreadsheet), "{text} in {region}");
            let stored = Phone::parse_stored(text, Some("US".parse().unwrap()));
            assert_eq!(stored, Err(PhoneError::Spreadsheet), "{text}");
        }
    }
    // How numbers are written where dots stand between pairs, and with one dot.
    assert_eq!(read("06.12.34.56.00", "FR").as_deref(), Ok("+33612345600"));
    assert_eq!(read("030.1234560", "DE").as_deref(), Ok("+49301234560"));
    assert_eq!(read("+1.6502530000", "").as_deref(), Ok("+16502530000"));
}

#[test]
fn what_is_dialled_within_a_country_only_is_told_and_not_taken_off() {
    for text in [
        "+49015123456789",
        "+9670771234567",
        "+440207946095",
        "00967 0771234567",
        "+7 8 9031234567",
    ] {
        let text = if text == "+440207946095" { "+4402079460958" } else { text };
        for region in ["", "DE", "YE", "US"] {
            assert_eq!(read(text, region), Err(PhoneError::NationalPrefix), "{text} in {region}");
        }
    }
    for (text, number) in [
        ("+44 (0) 20 7946 0958", "+442079460958"),
        ("0049 (0)151 23456789", "+4915123456789"),
        ("(+49) (0)151 23456789", "+4915123456789"),
        // In Italy the zero is dialled from everywhere.
        ("+39 (0)6 6981 2345", "+390669812345"),
        // Not what follows the country's code.
        ("+4930 (0)123456", "+49300123456"),
    ] {
        assert_eq!(read(text, "").as_deref(), Ok(number), "{text}");
    }
}

#[test]
fn national_numbers_are_read_by_their_own_country() {
    for (code, text, number) in [
        ("US", "(202) 555-0123", "+12025550123"),
        ("US", "1 202 555 0123", "+12025550123"),
        ("US", "011 49 151 23456789", "+4915123456789"),
        ("US", "011 86 139 1234 5678", "+8613912345678"),
        ("DE", "0151 23456789", "+4915123456789"),
        ("DE", "4915123456789", "+4915123456789"),
        ("IT", "06 6981 2345", "+390669812345"),
        // They begin like their country's code, 39, 91, 7 and 55.
        ("IT", "391 234 5678", "+393912345678"),
        ("IN", "9123456789", "+919123456789"),
        ("IN", "09123456789", "+919123456789"),
        ("IN", "919123456789", "+919123456789"),
        ("KZ", "7012345678", "+77012345678"),
        ("KZ", "8 701 234 5678", "+77012345678"),
        ("BR", "55 99123-4567", "+5555991234567"),
        ("BR", "0 15 11 98765 4321", "+5511987654321"),
        // 800 begins like Russia's prefix, 8.
        ("RU", "800 123 45 67", "+78001234567"),
        ("RU", "8 800 123 45 67", "+78001234567"),
        ("RU", "8 10 967 771234567", "+967771234567"),
        ("CI", "07 12 34 56 78", "+2250712345678"),
        ("BJ", "01 97 12 34 56", "+2290197123456"),
        ("CG", "06 123 4567", "+242061234567"),
        ("GA", "06 03 12 34", "+24106031234"),
        ("AR", "011 15 2345 6789", "+5491123456789"),
        ("JP", "010 967 771234567", "+967771234567"),
        // Ranges that the tables do not know.
        ("YE", "790000000", "+967790000000"),
        ("YE", "0790000000", "+967790000000"),
        ("YE", "967790000000", "+967790000000"),
    ] {
        assert_eq!(read(text, code).as_deref(), Ok(number), "{text} in {code}");
    }
    for (code, text) in [
        ("US", "1234567890"),
        ("YE", "967123456"),
        ("US", "555-0123"),
        // Of a country whose numbers have any length, another country's number without its plus sign.
        ("DE", "967771234567"),
        ("AT", "967771234567"),
    ] {
        assert!(read(text, code).is_err(), "{text} in {code}");
    }
}

#[test]
fn what_is_no_number_is_refused() {
    assert_eq!(read("771234567", ""), Err(PhoneError::NoCountryCode));
    for text in [
        "",
        "abc",
        "+",
        "123",
        "+1",
        "+abc",
        "+9677712x4567",
        "0",
        &"1".repeat(60),
        "++967771234567",
        "967771234567+",
        "+967771234567\0",
        "+967+771234567",
        "'+967771234567",
        "tel:+967771234567",
        "+967²71234567",
        "()",
        "+-",
        "00",
        "+ 00",
    ] {
        assert_eq!(read(text, ""), Err(PhoneError::NotANumber), "{text}");
    }
    for code in ["", "Y", "YEM", "ZZ", "967", "йе"] {
        assert_eq!(code.parse::<Region>(), Err(UnknownRegion(code.to_owned())));
    }
}

#[test]
fn stored_digits_begin_with_their_country_code() {
    let stored = |text: &str, code: &str| {
        let region = (!code.is_empty()).then(|| code.parse().unwrap());
        Phone::parse_stored(text, region).map(|phone| phone.as_str().to_owned())
    };
    for code in ["", "YE", "US", "SA"] {
        for text in ["967771234567", "+967771234567", "٩٦٧٧٧١٢٣٤٥٦٧", " 00967 771234567"]
        {
            assert_eq!(stored(text, code).as_deref(), Ok("+967771234567"), "{text} in {code}");
        }
    }
    // Where numbers have any length, they could be that country's too.
    for (text, code) in [
        ("967771234567", "DE"),
        ("306944123456", "DE"),
        ("12025550123", "DE"),
        ("4530271234", "BR"),
        // Ranges that the table does not know.
        ("6215550123", "US"),
        ("8615550123", "US"),
        ("6421234567", "US"),
    ] {
        assert_eq!(stored(text, code), Err(PhoneError::Ambiguous), "{text} in {code}");
        assert!(stored(&format!("+{text}"), code).is_ok_and(|read| read == format!("+{text}")));
    }
    assert_eq!(stored("4915123456789", "DE").as_deref(), Ok("+4915123456789"));
    assert_eq!(stored("771234567", "YE").as_deref(), Ok("+967771234567"));
    // A telephone in Singapore, and one in Florida.
    assert_eq!(stored("6568234567", "").as_deref(), Ok("+6568234567"));
    assert_eq!(stored("6568234567", "US"), Err(PhoneError::Ambiguous));
    // Egypt has no such range, and Washington has.
    assert_eq!(stored("2025550123", "US").as_deref(), Ok("+12025550123"));
}

#[test]
fn stored_numbers_of_before_are_doubted() {
    let doubt = |stored: &str, code: &str| {
        let region = (!code.is_empty()).then(|| code.parse().unwrap());
        Phone::from_stored(stored).doubt(region)
    };
    let may = |number: &str| Some(PhoneIssue::MayHaveBeen(Phone::from_stored(number)));
    assert_eq!(doubt("+495123456789", "US"), may("+4915123456789"));
    assert_eq!(doubt("+863912345678", "US"), may("+8613912345678"));
    assert_eq!(doubt("+2416031234", "YE"), may("+24106031234"));
    assert_eq!(doubt("+495123456789", ""), None);
    let unreadable = |why| Some(PhoneIssue::Unreadable(why));
    assert_eq!(doubt("+9677712345670", ""), unreadable(PhoneError::WrongLength));
    assert_eq!(doubt("+9670771234567", "YE"), unreadable(PhoneError::NationalPrefix));
    assert_eq!(doubt("771234567", "YE"), unreadable(PhoneError::NoCountryCode));
    assert_eq!(
        doubt("00967771234567", ""),
        Some(PhoneIssue::ReadAs(Phone::from_stored("+967771234567")))
    );
    for good in
        ["+967771234567", "+967790000000", "+12025550123", "+8613912345678", "+390669812345"]
    {
        for code in ["", "YE", "US"] {
            assert_eq!(doubt(good, code), None, "{good} in {code}");
        }
    }
}

#[test]
fn debug_shows_no_number() {
    let phone = Phone::parse("+967771234567", None).unwrap();
    assert_eq!(format!("{phone:?}"), "+967*******67");
}

fn any_region() -> impl Strategy<Value = Region> {
    prop::sample::select(regions())
}

/// A number of a country, in a range that there may be or not.
fn any_number() -> impl Strategy<Value = String> {
    let random = (prop::sample::select(regions()), "[0-9]{4,14}").prop_map(|(region, digits)| {
        let code = DATABASE.by_id(region.id()).unwrap().country_code();
        format!("+{code}{digits}")
    });
    prop_oneof![prop::sample::select(examples()), random]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_input_panics_and_what_passes_is_e164(
        text in ".{0,50}", digits in "\\+?[0-9 ()-]{0,20}", region in any_region(),
    ) {
        for candidate in [text, digits] {
            for region in [None, Some(region)] {
                let stored = Phone::parse_stored(&candidate, region);
                if let Ok(phone) = Phone::parse(&candidate, region) {
                    prop_assert!(phone.as_str().starts_with('+'));
                    prop_assert!(phone.as_str()[1..].bytes().all(|b| b.is_ascii_digit()));
                    prop_assert!(phone.as_str().len() <= 16);
                    // Parsing what was stored gives the same again.
                    prop_assert_eq!(Phone::parse(phone.as_str(), None), Ok(phone.clone()));
                    prop_assert!(stored.is_ok() || stored == Err(PhoneError::Ambiguous));
                }
            }
        }
    }

    #[test]
    fn the_region_changes_nothing_of_an_international_number(
        number in any_number(), region in any_region(),
    ) {
        let read = Phone::parse(&number, None);
        prop_assert_eq!(Phone::parse(&number, Some(region)), read.clone());
        if let Ok(phone) = read {
            prop_assert_eq!(phone.as_str(), number.as_str(), "no digit is changed");
            prop_assert_eq!(Phone::parse(phone.as_str(), Some(region)), Ok(phone.clone()));
            let dialled = number.replacen('+', "00", 1);
            prop_assert_eq!(Phone::parse(&dialled, Some(region)), Ok(phone));
        }
    }

    #[test]
    fn a_number_is_the_same_however_it_is_typed(
        number in prop::sample::select(examples()),
        zero in prop::sample::select(vec!['0', '٠', '۰', '०', '０', '๐', '𝟎']),
        between in prop::collection::vec(
            prop::sample::select(vec![
                "", "", " ", "\u{A0}", "\u{202F}", "\u{200F}", "\u{200B}", "-", "\u{2011}", "–",
                "\u{2066}", "\u{FEFF}", "\t",
            ]),
            16,
        ),
        plus in prop::sample::select(vec!["+", "＋", "00", "(+", "\u{202D}+"]),
        region in any_region(),
    ) {
        let mut typed = plus.to_owned();
        for (digit, mark) in number.chars().skip(1).zip(&between) {
            let digit = digit.to_digit(10).unwrap();
            typed.push(char::from_u32(u32::from(zero) + digit).unwrap());
            typed.push_str(mark);
        }
        if plus == "(+" {
            typed.push(')');
        }
        let read = Phone::parse(&typed, Some(region));
        prop_assert_eq!(read.as_ref().map(Phone::as_str), Ok(number.as_str()), "{:?}", typed);
    }
}
