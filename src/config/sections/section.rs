//! The macro that declares a section's keys.

use crate::config::{key::ConfigKey, reader::Reader};

/// A section of the configuration.
pub(super) trait Section: Sized {
    const KEYS: &'static [ConfigKey];

    /// Reads every key. `None` if a default is invalid; the reader has the problem then.
    fn read(reader: &mut Reader) -> Option<Self>;
}

/// Declares a section. `pub struct NAME in "PREFIX."` makes its struct, with one field for each key;
/// `fill NAME in "PREFIX."` fills a struct of the domain, field by field. A key is
///
/// ```text
/// /// What it does: its text in the documentation.
/// name: Type = default("5s").reloadable() => duration(DAY),
/// ```
///
/// with `default(…)` or `unset(example)`, then `.secret()` and `.reloadable()` where they hold, and a function that
/// reads the text of its value or says what is wrong with it (see [`parse`](crate::config::parse)).
/// `name as "type"` is for a key whose name cannot be a field's. What concerns several keys is checked by the
/// function after `checked by`, when all keys of the section have been read.
macro_rules! section {
    (
        $(#[$about:meta])*
        pub struct $section:ident in $prefix:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $(as $called:literal)?: $type:ty = $key:expr => $parse:expr,
            )+
        }
        $(checked by $check:path)?
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub struct $section {
            $(
                $(#[doc = $doc])+
                pub $field: $type,
            )+
        }

        $crate::config::sections::section::section! {
            fill $section in $prefix {
                $(
                    $(#[doc = $doc])+
                    $field $(as $called)? = $key => $parse,
                )+
            }
            $(checked by $check)?
        }
    };
    (
        fill $section:ident in $prefix:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $(as $called:literal)? = $key:expr => $parse:expr,
            )+
        }
        $(checked by $check:path)?
    ) => {
        impl $crate::config::sections::section::Section for $section {
            const KEYS: &'static [$crate::config::key::ConfigKey] = &[
                $(
                    $key.named(
                        $crate::config::sections::section::name!($prefix, $field $(, $called)?),
                        concat!($($doc),+),
                    ),
                )+
            ];

            fn read(reader: &mut $crate::config::reader::Reader) -> Option<Self> {
                let section = $section {
                    $(
                        $field: reader.read(
                            $crate::config::sections::key!(
                                $crate::config::sections::section::name!($prefix, $field $(, $called)?)
                            ),
                            $parse,
                        )?,
                    )+
                };
                $($check(&section, reader);)?
                Some(section)
            }
        }
    };
}

/// The full name of a key.
macro_rules! name {
    ($prefix:literal, $field:ident) => {
        concat!($prefix, stringify!($field))
    };
    ($prefix:literal, $field:ident, $called:literal) => {
        concat!($prefix, $called)
    };
}

pub(super) use {name, section};
