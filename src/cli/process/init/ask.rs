//! Asks for settings on a terminal.

use std::io::{IsTerminal as _, Write as _};

use super::{arguments::InitArgs, settings};
use crate::{
    cli::io::exit::{ExitStatus, Failure},
    config::{describe::ConfigSetting, keys},
};

/// Questions whose answers are checked together. If the first is answered with the default, the others
/// are skipped.
struct Group {
    /// Key, question, and what an empty answer means.
    questions: &'static [(&'static str, &'static str, &'static str)],
    /// Whether the answers so far make it worth asking.
    when: fn(&[ConfigSetting]) -> bool,
}

fn value<'a>(settings: &'a [ConfigSetting], key: &str) -> Option<&'a str> {
    settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// TLS is not needed for this machine alone.
fn listens_to_others(settings: &[ConfigSetting]) -> bool {
    let address: Option<std::net::SocketAddr> =
        value(settings, "http.listen").and_then(|listen| listen.parse().ok());
    address.is_some_and(|address| !address.ip().is_loopback())
}

fn has_database(settings: &[ConfigSetting]) -> bool {
    value(settings, "database.url").or(value(settings, "database.url_file")).is_some()
}

fn has_mail(settings: &[ConfigSetting]) -> bool {
    value(settings, "smtp.host").is_some()
}

const LISTEN: &str = keys::known("http.listen").default;

const GROUPS: &[Group] = &[
    Group {
        questions: &[("http.listen", "Address of the API and the hub", LISTEN)],
        when: |_| true,
    },
    Group {
        questions: &[
            ("http.tls_cert", "Certificate chain in PEM, to serve TLS", "none"),
            ("http.tls_key", "Private key of the certificate, in PEM", "none"),
        ],
        when: listens_to_others,
    },
    Group {
        questions: &[(
            "phone.default_region",
            "Region of phone numbers without a country code, such as YE",
            "none: they must be international",
        )],
        when: |_| true,
    },
    Group {
        questions: &[(
            "database.url",
            "URL of your Postgres (@FILE reads it from a file)",
            "none: the embedded one",
        )],
        when: |_| true,
    },
    Group {
        questions: &[
            ("queue.url", "URL of RabbitMQ, for several gateways or workers (or @FILE)", "none"),
            ("cache.url", "URL of Redis, for several gateways or workers (or @FILE)", "none"),
        ],
        when: has_database,
    },
    Group {
        questions: &[("smtp.host", "Mail server for alerts", "none: alerts go to the log")],
        when: |_| true,
    },
    Group {
        questions: &[
            ("smtp.from", "Sender address of alerts", "none"),
            ("smtp.to", "Recipients of alerts, comma-separated", "none"),
            ("smtp.username", "User name on the mail server", "none"),
            ("smtp.password", "Password on the mail server, as @FILE", "none"),
        ],
        when: has_mail,
    },
];

/// Whether somebody is there to answer.
pub(super) fn may_ask(arguments: &InitArgs) -> bool {
    !arguments.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for every setting that is missing.
pub(super) fn all(settings: &mut Vec<ConfigSetting>) -> Result<(), Failure> {
    for group in GROUPS {
        if (group.when)(settings) {
            ask_group(group, settings)?;
        }
    }
    Ok(())
}

fn ask_group(group: &Group, settings: &mut Vec<ConfigSetting>) -> Result<(), Failure> {
    let before = settings.clone();
    loop {
        for (key, text, empty) in group.questions {
            let told = |settings: &[ConfigSetting]| {
                value(settings, key).or(value(settings, &format!("{key}_file"))).is_some()
            };
            if told(settings) {
                continue;
            }
            let answer = question(text, empty)?;
            if answer != *empty {
                settings.push(settings::setting(key, &answer));
            } else if *settings == before {
                break;
            }
        }
        match settings::check(settings) {
            Ok(()) => return Ok(()),
            Err(faults) if *settings != before => {
                let _ = writeln!(std::io::stderr().lock(), "{faults}\nTry again:");
                settings.clone_from(&before);
            }
            // Nothing was answered: asking again would not help.
            Err(faults) => return Err(Failure::new(ExitStatus::Usage, faults)),
        }
    }
}

/// Asks one question; an empty answer means `empty`.
pub(super) fn question(text: &str, empty: &str) -> Result<String, Failure> {
    let gone = || Failure::new(ExitStatus::Refused, "no answer").hint("use --yes, or options");
    let mut stderr = std::io::stderr().lock();
    let asked = write!(stderr, "{text} [{empty}]: ").and_then(|()| stderr.flush());
    asked.map_err(|_| gone())?;
    let mut answer = String::new();
    match std::io::stdin().read_line(&mut answer) {
        Ok(read) if read > 0 => {}
        _ => return Err(gone()),
    }
    let answer = answer.trim();
    Ok(if answer.is_empty() { empty.to_owned() } else { answer.to_owned() })
}
