//! Origins of web pages: which pages may call the server from a browser.

use std::{fmt, str::FromStr};

/// Maximum number of origins in a list.
const MAX_ORIGINS: usize = 256;

/// The origin of a page: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOrigin {
    secure: bool,
    /// In lower case; an IPv6 address in brackets.
    host: String,
    port: u16,
}

/// A text is no origin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OriginError {
    /// Not of the form of an origin.
    #[error("'{0}' is not an origin such as https://app.example.com")]
    Invalid(String),
    /// Too many.
    #[error("at most {MAX_ORIGINS} origins")]
    TooMany,
}

impl WebOrigin {
    /// Whether a request's `Host` names the same host and port. The scheme is not compared: a balancer may end
    /// TLS.
    pub fn is_host(&self, host: &str) -> bool {
        split_port(host).is_some_and(|(name, port)| {
            name.eq_ignore_ascii_case(&self.host)
                && port.unwrap_or(self.default_port()) == self.port
        })
    }

    /// Whether the page was loaded over TLS.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    const fn default_port(&self) -> u16 {
        if self.secure { 443 } else { 80 }
    }
}

impl FromStr for WebOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<WebOrigin, OriginError> {
        let invalid = || OriginError::Invalid(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(invalid()),
        };
        let (host, port) = split_port(rest).ok_or_else(invalid)?;
        let mut origin = WebOrigin { secure, host: host.to_ascii_lowercase(), port: 0 };
        origin.port = port.unwrap_or(origin.default_port());
        Ok(origin)
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}://{}", if self.secure { "https" } else { "http" }, self.host)?;
        if self.port == self.default_port() { Ok(()) } else { write!(to, ":{}", self.port) }
    }
}

/// Whether a text is the value of a `Host` header: a host, and a port or not. The port may be empty (RFC 9110, 7.2).
pub fn is_host_and_port(text: &str) -> bool {
    split_port(text.strip_suffix(':').unwrap_or(text)).is_some()
}

/// A port: digits only, although numbers in Rust may have a sign.
fn port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The host and the port of `host[:port]`; `None` for anything else.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rfind(':') {
        Some(at) if !text[at..].contains(']') => (&text[..at], Some(port(&text[at + 1..])?)),
        _ => (text, None),
    };
    let is_address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match is_address {
        Some(address) => {
            address.contains(':')
                && address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
        }
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    is_host.then_some((host, port))
}

/// Whose pages may call the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// All pages, without credentials.
    Any,
    /// The pages of one origin.
    One(WebOrigin),
}

impl AllowedOrigin {
    /// A list of origins, separated by commas; `*` means any.
    ///
    /// # Errors
    /// The first invalid origin; or too many.
    pub fn list(text: &str) -> Result<Vec<AllowedOrigin>, OriginError> {
        let mut parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parse = |part: &str| match part {
            "*" => Ok(AllowedOrigin::Any),
            part => part.parse().map(AllowedOrigin::One),
        };
        let origins = parts.by_ref().take(MAX_ORIGINS).map(parse).collect::<Result<_, _>>();
        match parts.next() {
            Some(_) if origins.is_ok() => Err(OriginError::TooMany),
            _ => origins,
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllowedOrigin::Any => to.write_str("*"),
            AllowedOrigin::One(origin) => origin.fmt(to),
        }
    }
}

/// What the pages of an origin may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginAccess {
    /// Read answers, and send credentials.
    WithCredentials,
    /// Read answers.
    WithoutCredentials,
    /// Neither.
    Refused,
}

/// What the pages of an origin may do; `origin` is the header of a request.
pub fn access(allowed: &[AllowedOrigin], origin: &str) -> OriginAccess {
    let origin: Option<WebOrigin> = origin.parse().ok();
    let is_listed = origin.is_some_and(|origin| {
        allowed.iter().any(|allowed| matches!(allowed, AllowedOrigin::One(one) if *one == origin))
    });
    if is_listed {
        OriginAccess::WithCredentials
    } else if allowed.contains(&AllowedOrigin::Any) {
        OriginAccess::WithoutCredentials
    } else {
        OriginAccess::Refused
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        let shown = |text: &str| text.parse::<WebOrigin>().map(|origin| origin.to_string());
        for (text, wanted) in [
            ("https://App.Example.com", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://[::1]:3000", "http://[::1]:3000"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "null",
            "app.example.com",
            "https://",
            "https://a.example/",
            "https://a.example/x",
            "https://a@b.example",
            "ftp://a.example",
            "https://a.example:",
            "https://a.example:70000",
            "https://a.example:+443",
            "https://a.example,b.example",
            "https://a.example?x",
            "https://a.example#x",
            "https://::1",
            "https://*.example.com",
            "https://a b",
            "https://[::1",
            "capacitor://localhost",
        ] {
            assert_eq!(shown(text), Err(OriginError::Invalid(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn only_listed_origins_get_credentials() {
        let allowed =
            AllowedOrigin::list("https://app.example.com, http://localhost:8080").unwrap();
        let of = |origin: &str| access(&allowed, origin);
        assert_eq!(of("https://app.example.com"), OriginAccess::WithCredentials);
        assert_eq!(of("http://localhost:8080"), OriginAccess::WithCredentials);
        for other in [
            "http://app.example.com",
            "https://app.example.com.evil.com",
            "https://example.com",
            "https://app.example.com:8443",
            "null",
            "",
        ] {
            assert_eq!(of(other), OriginAccess::Refused, "{other}");
        }
        let any = AllowedOrigin::list("*,https://app.example.com").unwrap();
        assert_eq!(access(&any, "https://app.example.com"), OriginAccess::WithCredentials);
        assert_eq!(access(&any, "https://other.example"), OriginAccess::WithoutCredentials);
        assert_eq!(access(&any, "null"), OriginAccess::WithoutCredentials);
        assert_eq!(access(&[], "https://app.example.com"), OriginAccess::Refused);
        let many = vec!["https://a.example"; MAX_ORIGINS + 1].join(",");
        assert_eq!(AllowedOrigin::list(&many), Err(OriginError::TooMany));
    }

    #[test]
    fn the_same_host_and_port_is_the_same_server() {
        let origin: WebOrigin = "https://a.example".parse().unwrap();
        assert!(origin.is_host("a.example") && origin.is_host("A.example:443"));
        assert!(!origin.is_host("a.example:80") && !origin.is_host("b.a.example"));
        assert!(!origin.is_host(""));
        let local: WebOrigin = "http://127.0.0.1:5000".parse().unwrap();
        assert!(local.is_host("127.0.0.1:5000") && !local.is_host("127.0.0.1"));
        assert!(origin.is_secure() && !local.is_secure());
    }

    #[test]
    fn a_host_may_have_a_port_and_nothing_else() {
        for good in
            ["a.example", "A-1_b.example.", "127.0.0.1:5000", "[::1]", "[::1]:5000", "a.example:"]
        {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "",
            ":",
            ":5000",
            "::1",
            "[::1",
            "[x]:1",
            "[::1]x",
            "a.example:x",
            "a.example:+80",
            "a.example:-1",
            "a.example:70000",
            "a.example::",
            "a.example:80:80",
            "a.example,b.example",
            "a.example b.example",
            "a.example/x",
            "a.example?x",
            "a.example#x",
            "a.example\\x",
            "a.example%20",
            "user@a.example",
            "https://a.example",
            "ä.example",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_text_is_a_panic_and_what_is_an_origin_is_its_own_host(
            text in "(https?://)?[a-z0-9.:,@\\[\\]/ä-]{0,20}",
        ) {
            let _ = is_host_and_port(&text);
            let _ = AllowedOrigin::list(&text);
            if let Ok(origin) = text.parse::<WebOrigin>() {
                prop_assert_eq!(origin.to_string().parse::<WebOrigin>(), Ok(origin.clone()));
                let (_, host) = text.split_once("://").unwrap();
                prop_assert!(is_host_and_port(host) && origin.is_host(host));
            }
        }
    }
}
