//! `smtp.*`: mail to the administrators.

use std::time::Duration;

use crate::{
    config::{
        Secret,
        key::{default, unset},
        parse::{DAY, duration, expected, one_of, optional, secret, text},
        reader::Reader,
        sections::{key, section::section},
    },
    domain::{mail_address::is_mail_address, network},
};

section! {
    /// Mail to the administrators; without a host alerts go to the log.
    pub struct SmtpConfig in "smtp." {
        /// Mail server for alerts to the administrators. Unset: alerts go to the log.
        host: Option<String> = unset("mail.example.org").reloadable() => optional(text),
        /// Port of the mail server.
        port: u16 = default("587").reloadable() => port,
        /// Encryption of the connection to the mail server: starttls, tls (implicit TLS) or none. none is an
        /// error with a password, unless the server is on this machine.
        tls: SmtpTls = default("starttls").reloadable() => one_of(&[
            ("starttls", SmtpTls::StartTls),
            ("tls", SmtpTls::Tls),
            ("none", SmtpTls::None),
        ]),
        /// User name on the mail server. Unset: no authentication.
        username: Option<String> = unset("esh3ar").reloadable() => optional(text),
        /// Password on the mail server.
        password: Option<Secret> = unset("secret").secret().reloadable() => optional(secret),
        /// Sender address of alert mails, such as esh3ar@example.org.
        from: Option<String> = unset("esh3ar@example.org").reloadable() => optional(mail_address),
        /// Recipients of alert mails, separated by commas.
        to: Vec<String> = unset("admin@example.org").reloadable() => mail_addresses,
        /// Minimum interval between alert mails about dead letters.
        alert_interval: Duration = default("5m").reloadable() => duration(DAY),
    }
    checked by check
}

/// How the connection to the mail server is kept private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// Begins in the open and changes to TLS.
    StartTls,
    /// TLS from the beginning.
    Tls,
    /// None.
    None,
}

fn port(text: &str) -> Result<u16, String> {
    expected(text.parse().ok().filter(|port| *port > 0), "a port from 1 to 65535", text)
}

fn mail_address(address: &str) -> Result<String, String> {
    if !is_mail_address(address) {
        return Err(format!("'{address}' is not a mail address"));
    }
    Ok(address.to_owned())
}

fn mail_addresses(text: &str) -> Result<Vec<String>, String> {
    listed(text).map(mail_address).collect()
}

fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|address| !address.is_empty())
}

fn check(smtp: &SmtpConfig, reader: &mut Reader) {
    let (username, password) = (key!("smtp.username"), key!("smtp.password"));
    let (has_username, has_password) = (reader.is_set(username), reader.is_set(password));
    if has_username != has_password {
        let missing = if has_password { username } else { password };
        reader.problem(missing, "is required: set smtp.username and smtp.password together");
    }
    let Some(host) = &smtp.host else { return };
    if smtp.tls == SmtpTls::None && has_password && !network::is_this_machine(host) {
        let why = "must be starttls or tls with a password: without TLS the password would be readable on the \
                   network; if the server has no TLS, remove smtp.username and smtp.password";
        reader.problem(key!("smtp.tls"), why);
    }
    let (from, to) = (key!("smtp.from"), key!("smtp.to"));
    if !reader.is_set(from) {
        reader.problem(from, "is required with smtp.host");
    }
    if listed(reader.text(to)).next().is_none() {
        reader.problem(to, "is required with smtp.host");
    }
}
