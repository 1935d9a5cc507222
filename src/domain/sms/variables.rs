//! The variables of a gateway's template, and their values for one message.

use std::{borrow::Cow, fmt::Write as _};

use crate::domain::{Phone, suggestion::nearest};

macro_rules! variables {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A variable of a template, written `{name}`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum SmsVariable {
            $($(#[$doc])* $variant,)*
        }

        impl SmsVariable {
            /// All there are.
            pub const ALL: &[SmsVariable] = &[$(SmsVariable::$variant,)*];

            /// Its name, without braces.
            pub const fn name(self) -> &'static str {
                match self {
                    $(SmsVariable::$variant => $name,)*
                }
            }
        }
    };
}

variables! {
    /// The number with `+`.
    To = "to",
    /// The number without `+`.
    ToDigits = "to_digits",
    /// The number without country code and trunk zero.
    ToNational = "to_national",
    /// The text.
    Text = "text",
    /// The text in UTF-16BE, in hexadecimal digits.
    TextHex = "text_hex",
    /// The one-time code.
    Code = "code",
    /// `unicode` if the text has characters outside GSM-7, else `text`.
    Coding = "coding",
    /// `1` if the text has characters outside GSM-7, else `0`.
    Unicode = "unicode",
    /// The sender.
    Sender = "sender",
    /// The id of the registration.
    Id = "id",
    /// The language of the text.
    Locale = "locale",
    /// The secret.
    Secret = "secret",
    /// The user name.
    User = "user",
    /// User name and secret in base64, as Basic authentication has them.
    Basic = "basic",
}

impl SmsVariable {
    /// Parses a name.
    ///
    /// # Errors
    /// It is unknown; the text names the nearest one.
    pub fn parse(name: &str) -> Result<SmsVariable, String> {
        let known = SmsVariable::ALL.iter().copied();
        let found = known.clone().find(|variable| variable.name() == name);
        found.ok_or_else(|| match nearest(name, known.map(SmsVariable::name)) {
            Some(near) => {
                format!("has the unknown variable {{{name}}}; did you mean {{{near}}}?")
            }
            None => format!("has the unknown variable {{{name}}}"),
        })
    }

    /// Whether its value must not be shown.
    pub const fn is_secret(self) -> bool {
        matches!(self, SmsVariable::Secret | SmsVariable::Basic)
    }

    /// Whether every value of it is a number in JSON.
    pub const fn is_number(self) -> bool {
        matches!(self, SmsVariable::ToDigits | SmsVariable::Unicode)
    }
}

/// What the variables stand for in one message.
#[derive(Clone, Copy)]
pub struct SmsValues<'a> {
    /// The recipient.
    pub to: &'a Phone,
    /// The whole text.
    pub text: &'a str,
    /// The one-time code in it.
    pub code: &'a str,
    /// The language of the text.
    pub locale: &'a str,
    /// The id of the registration.
    pub id: &'a str,
    /// From the configuration of the gateway, as the following ones; empty if it has none.
    pub sender: &'a str,
    /// The user name.
    pub user: &'a str,
    /// The secret.
    pub secret: &'a str,
    /// `user:secret` in base64.
    pub basic: &'a str,
    /// Whether secrets are replaced by `***`.
    pub masked: bool,
}

impl<'a> SmsValues<'a> {
    /// The value of a variable, not encoded.
    pub fn value(&self, variable: SmsVariable) -> Cow<'a, str> {
        let is_unicode = || !is_gsm7(self.text);
        Cow::Borrowed(match variable {
            SmsVariable::To => self.to.as_str(),
            SmsVariable::ToDigits => self.to.as_str().trim_start_matches('+'),
            SmsVariable::ToNational => self.to.national(),
            SmsVariable::Text => self.text,
            SmsVariable::TextHex => return Cow::Owned(utf16_hex(self.text)),
            SmsVariable::Code => self.code,
            SmsVariable::Coding if is_unicode() => "unicode",
            SmsVariable::Coding => "text",
            SmsVariable::Unicode if is_unicode() => "1",
            SmsVariable::Unicode => "0",
            SmsVariable::Sender => self.sender,
            SmsVariable::Id => self.id,
            SmsVariable::Locale => self.locale,
            SmsVariable::Secret => self.secret,
            SmsVariable::User => self.user,
            SmsVariable::Basic => self.basic,
        })
    }
}

/// GSM 03.38 beyond letters and digits: the default alphabet and its extension.
const GSM7: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà\
                    \u{c}^{}\\[~]|€";

/// Whether a text can be sent in the seven-bit alphabet of GSM.
fn is_gsm7(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || GSM7.contains(c))
}

fn utf16_hex(text: &str) -> String {
    let mut hex = String::with_capacity(text.len() * 4);
    for unit in text.encode_utf16() {
        let _ = write!(hex, "{unit:04X}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_coded_as_gateways_expect() {
        let phone = Phone::from_stored("+967771234567");
        let values = |text| SmsValues {
            to: &phone,
            text,
            code: "012345",
            locale: "ar",
            id: "7",
            sender: "",
            user: "",
            secret: "",
            basic: "",
            masked: false,
        };
        let of = |text, variable| values(text).value(variable).into_owned();
        assert_eq!(of("رمزك 1😀", SmsVariable::TextHex), "063106450632064300200031D83DDE00");
        assert_eq!(of("رمزك", SmsVariable::Coding), "unicode");
        assert_eq!(of("رمزك", SmsVariable::Unicode), "1");
        assert_eq!(of("12 is your code: {}€é", SmsVariable::Coding), "text");
        assert_eq!(of("12", SmsVariable::Unicode), "0");
        assert_eq!(of("12 `", SmsVariable::Unicode), "1");
        assert_eq!(of("", SmsVariable::To), "+967771234567");
        assert_eq!(of("", SmsVariable::ToDigits), "967771234567");
        assert_eq!(of("", SmsVariable::ToNational), "771234567");
    }

    #[test]
    fn a_misspelt_variable_names_its_neighbour() {
        let told = SmsVariable::parse("to_digit").unwrap_err();
        assert_eq!(told, "has the unknown variable {to_digit}; did you mean {to_digits}?");
        assert_eq!(SmsVariable::parse("text"), Ok(SmsVariable::Text));
    }
}
