//! `smtp.*`: mail to the administrators.

use std::time::Duration;

use crate::config::{
    Secret,
    keys::{default, key, unset},
    parse::{DAY, duration, one_of, optional, secret, text, wanted},
    reader::Reader,
    section::section,
};

section! {
    /// Mail to the administrators; without a host alerts go to the log.
    pub struct SmtpConfig in "smtp." {
        /// Mail server for alerts to the administrators; unset: to the log.
        host: Option<String> = unset("mail.example.org").live() => optional(text),
        /// Its port.
        port: u16 = default("587").live() => port,
        /// starttls, tls (from the beginning), or none.
        tls: SmtpTls = default("starttls").live() => one_of(&[
            ("starttls", SmtpTls::StartTls),
            ("tls", SmtpTls::Tls),
            ("none", SmtpTls::None),
        ]),
        /// User name on the mail server; unset: none is given.
        username: Option<String> = unset("esh3ar").live() => optional(text),
        /// Password on the mail server.
        password: Option<Secret> = unset("secret").secret().live() => optional(secret),
        /// Sender of the mails, such as esh3ar@example.org.
        from: Option<String> = unset("esh3ar@example.org").live() => optional(mail_address),
        /// The administrators' addresses; several with commas.
        to: Vec<String> = unset("admin@example.org").live() => mail_addresses,
        /// The administrators are told of dead letters at most this often.
        alert_interval: Duration = default("5m").live() => duration(DAY),
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
    wanted(text.parse().ok().filter(|port| *port > 0), "a port from 1 to 65535", text)
}

fn mail_address(address: &str) -> Result<String, String> {
    let parts = address
        .split_once('@')
        .filter(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'));
    if parts.is_none() || address.contains(char::is_whitespace) {
        return Err(format!("'{address}' is no mail address"));
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
        reader.fault(missing, "user name and password go together");
    }
    if smtp.host.is_none() {
        return;
    }
    let (from, to) = (key!("smtp.from"), key!("smtp.to"));
    if !reader.is_set(from) {
        reader.fault(from, "is needed with smtp.host");
    }
    if listed(reader.text(to)).next().is_none() {
        reader.fault(to, "is needed with smtp.host");
    }
}
