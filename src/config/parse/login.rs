//! Logins in URLs. The libraries parse URLs differently: what one takes as the end of a password, another
//! takes as the beginning of a host, and would show it. So logins are checked before any library parses them.

use crate::config::{key::ConfigKey, reader::Reader};

/// Reports the key if a login in one of its URLs is not percent-encoded. The URLs are not repeated.
pub(in crate::config) fn check<'a>(
    reader: &mut Reader,
    key: &ConfigKey,
    mut urls: impl Iterator<Item = &'a str>,
) {
    if !urls.all(|url| is_encoded(url.trim())) {
        let why = "holds a user name or password that is not percent-encoded: write %40 for @, %2F for /, \
                   %3F for ?, %23 for #, %25 for %, and other special characters likewise";
        reader.problem(key, why);
    }
}

/// Whether the login of a URL, if any, conforms to RFC 3986 (3.2.1), and its @ is the only one.
fn is_encoded(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return true };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match (authority.split_once('@'), rest.matches('@').count()) {
        (None, 0) => true,
        (Some((login, _)), 1) => is_userinfo(login),
        _ => false,
    }
}

fn is_userinfo(login: &str) -> bool {
    let mut parts = login.split('%');
    let plain = |text: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(&b))
    };
    let first = parts.next().unwrap_or_default();
    plain(first)
        && parts.all(|part| {
            part.len() >= 2
                && part.bytes().take(2).all(|b| b.is_ascii_hexdigit())
                && plain(&part[2..])
        })
}

#[cfg(test)]
mod tests {
    use super::is_encoded;

    #[test]
    fn only_a_login_of_which_each_reader_reads_the_same_is_taken() {
        for good in [
            "postgres://h/x",
            "postgres://u@h/x",
            "postgres://u:p%40ss%2F%23%25@h:5432,i/x?sslmode=require",
            "postgres://u:a:b~c!$&'()*+,;=-._@h/x",
            "amqp://guest:p%40ss@h:5673/esh3ar%2Ftest?heartbeat=3",
            "redis://:pw@h/2",
            "redis+sentinel://:pw@a:26379,b:26379/mymaster",
            "no URL at all@",
        ] {
            assert!(is_encoded(good), "{good}");
        }
        for wrong in [
            "postgres://u:p@ss@h/x",
            "postgres://u:pa/ss@h/x",
            "postgres://u:12/ss@h/x",
            "postgres://u:pa?ss@h/x",
            "postgres://u:pa#ss@h/x",
            "postgres://u:100%@h/x",
            "postgres://u:%4@h/x",
            "postgres://u:%zz@h/x",
            "postgres://u:p ss@h/x",
            "postgres://u:p\u{e4}ss@h/x",
            "postgres://u:%4\u{e4}@h/x",
            "postgres://u:p[s]s@h/x",
            "postgres://u@corp:p@h/x",
            "postgres:///x?user=u&password=p@ss",
            "amqp://u:p@ss@h",
            "redis://u:p@ss@h",
            "rediss+cluster://u:p|ss@a:1,b:2",
        ] {
            assert!(!is_encoded(wrong), "{wrong}");
        }
    }
}
