//! How one-time codes leave this installation.

use super::check::{Check, ok, warn};
use crate::config::Config;

const NAME: &str = "registration";

pub(super) fn check(config: &Config) -> Check {
    let has_mail = config.smtp.host.is_some();
    let gateways = config.sms.gateways.len();
    if gateways > 0 {
        let found =
            format!("codes go by SMS through {gateways} gateways; try one: esh3ar sms test NUMBER");
        return ok(NAME, found);
    }
    match (has_mail, config.otp.log_codes) {
        (true, _) => ok(
            NAME,
            "codes go by mail, to addresses that an administrator stored; behind a load balancer set \
             http.trusted_proxies, else all its clients share one limit",
        ),
        (false, true) => warn(
            NAME,
            "otp.log_codes is on: everybody who reads the log can register any number",
            "this is not for production: remove otp.log_codes, and set smtp.*",
        ),
        (false, false) => ok(
            NAME,
            "no channel is configured: codes are shown only on the terminal of esh3ar serve",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigSources, load};

    fn state(text: &str) -> &'static str {
        let file = Some(("esh3ar.toml".to_owned(), text.to_owned()));
        check(&load(ConfigSources { file, ..ConfigSources::default() }).unwrap().config).state
    }

    #[test]
    fn codes_in_the_log_are_warned_of() {
        assert_eq!(state(""), "ok");
        assert_eq!(state("[otp]\nlog_codes = true\n"), "warn");
        let mail = "[smtp]\nhost = \"m.example.org\"\nfrom = \"a@b.c\"\nto = \"a@b.c\"\n";
        assert_eq!(state(&format!("{mail}[otp]\nlog_codes = true\n")), "ok");
    }
}
