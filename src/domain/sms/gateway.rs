//! One gateway: its templates, its countries, and the rules for its answers.

use std::{fmt, time::Duration};

use super::{
    answer::{self, AnswerRule, JsonLookup, SmsVerdict},
    template::{BodyForm, SmsTemplate},
    variables::{SmsValues, SmsVariable},
};
use crate::domain::{network::is_this_machine, phone::Region};

/// How a gateway is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    /// GET, without a body.
    Get,
    /// POST
    Post,
}

impl HttpMethod {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            HttpMethod::Get => "GET",
            HttpMethod::Post => "POST",
        }
    }
}

/// The text of a gateway's configuration; `None` for what is unset.
#[derive(Clone, Default)]
pub struct GatewayText {
    /// Its name.
    pub name: String,
    /// Two-letter codes, separated by commas.
    pub countries: Option<String>,
    /// Template of the URL.
    pub url: String,
    /// GET or POST.
    pub method: Option<String>,
    /// Content type of the body.
    pub content_type: Option<String>,
    /// Template of the body.
    pub body: Option<String>,
    /// Names and templates of headers.
    pub headers: Vec<(String, String)>,
    /// User name.
    pub user: Option<String>,
    /// Secret.
    pub secret: Option<String>,
    /// Sender.
    pub sender: Option<String>,
    /// Status, pattern and JSON value of an answer that means success.
    pub success: [Option<String>; 3],
    /// The same for a permanent failure.
    pub permanent: [Option<String>; 3],
    /// JSON pointer of the message's id in the answer.
    pub id_pointer: Option<String>,
    /// How long a request may take.
    pub timeout: Duration,
}

/// What is wrong with a key of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayFault {
    /// The key, without the section.
    pub key: String,
    /// The text follows the name of the key.
    pub why: String,
}

/// A request to a gateway.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewayRequest {
    /// The method.
    pub method: HttpMethod,
    /// The URL.
    pub url: String,
    /// In the order of the configuration.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<String>,
}

/// A gateway. `Debug` shows its name only.
#[derive(Clone)]
pub struct SmsGateway {
    name: String,
    countries: Vec<Region>,
    method: HttpMethod,
    url: SmsTemplate,
    content_type: Option<(String, BodyForm)>,
    body: Option<SmsTemplate>,
    headers: Vec<(String, SmsTemplate)>,
    user: String,
    secret: String,
    sender: String,
    success: AnswerRule,
    permanent: AnswerRule,
    id_pointer: Option<String>,
    timeout: Duration,
}

/// Headers that describe the connection or the body.
const OWN_HEADERS: &[&str] = &[
    "host",
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "upgrade",
    "trailer",
    "expect",
];

/// Collects faults; a faulty part is `None`.
#[derive(Default)]
struct Faults(Vec<GatewayFault>);

impl Faults {
    fn add(&mut self, key: impl Into<String>, why: impl Into<String>) {
        self.0.push(GatewayFault { key: key.into(), why: why.into() });
    }

    fn take<T>(&mut self, key: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|why| self.add(key, why)).ok()
    }
}

impl SmsGateway {
    /// Parses a gateway's configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: GatewayText) -> Result<SmsGateway, Vec<GatewayFault>> {
        let mut faults = Faults::default();
        let is_name = |name: &str| {
            let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=40).contains(&name.len()) && name.bytes().all(sign)
        };
        if !is_name(&text.name) {
            faults.add("name", "must be 1 to 40 letters, digits, dots, dashes or underscores");
        }
        let countries = faults.take("countries", countries(text.countries.as_deref()));
        let method = faults.take("method", method(text.method.as_deref()));
        if let Err(why) = check_address(&text.url) {
            faults.add("url", why);
        }
        let url = faults.take("url", SmsTemplate::url(&text.url));
        let (content_type, body) = body(&text, method, &mut faults);
        let headers = headers(&text.headers, &mut faults);
        let success = rule("success", &text.success, &mut faults);
        let permanent = rule("permanent", &text.permanent, &mut faults);
        let id_pointer = text.id_pointer.as_deref().map(answer::pointer).transpose();
        let id_pointer = faults.take("id_pointer", id_pointer);
        let mut variables: Vec<SmsVariable> = Vec::new();
        let templates = url.iter().chain(&body).chain(headers.iter().map(|(_, value)| value));
        for variable in templates.flat_map(SmsTemplate::variables) {
            if !variables.contains(&variable) {
                variables.push(variable);
            }
        }
        let uses_basic = variables.contains(&SmsVariable::Basic);
        for variable in variables {
            for (key, is_set) in [
                ("user", text.user.is_some()),
                ("secret", text.secret.is_some()),
                ("sender", text.sender.is_some()),
            ] {
                if !is_set && needs(variable, key) {
                    faults.add(key, format!("is required for {{{}}}", variable.name()));
                }
            }
        }
        // A colon would end the user name.
        if uses_basic && text.user.as_ref().is_some_and(|user| user.contains(':')) {
            faults.add("user", "cannot have a colon with {basic}");
        }
        let (user, secret) = (text.user.unwrap_or_default(), text.secret.unwrap_or_default());
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        let success = if success.is_empty() { AnswerRule::success() } else { success };
        Ok(SmsGateway {
            name: text.name,
            countries: countries.unwrap_or_default(),
            method: method.unwrap_or(HttpMethod::Get),
            url: url.unwrap_or_default(),
            content_type,
            body,
            headers,
            user,
            secret,
            sender: text.sender.unwrap_or_default(),
            success,
            permanent,
            id_pointer: id_pointer.flatten(),
            timeout: text.timeout,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user name; empty without one.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The secret; empty without one.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The sender; empty without one.
    pub fn sender(&self) -> &str {
        &self.sender
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// JSON pointer of the message's id in the answer.
    pub fn id_pointer(&self) -> Option<&str> {
        self.id_pointer.as_deref()
    }

    /// Whether the body is JSON.
    pub fn has_json_body(&self) -> bool {
        self.content_type.as_ref().is_some_and(|(_, form)| *form == BodyForm::Json)
    }

    /// Whether it takes numbers of a country, given by its two-letter code.
    pub fn serves(&self, country: Option<&str>) -> bool {
        let is = |region: &Region| country.is_some_and(|c| c.eq_ignore_ascii_case(region.code()));
        self.countries.is_empty() || self.countries.iter().any(is)
    }

    /// The request for a message.
    pub fn render(&self, values: &SmsValues<'_>) -> GatewayRequest {
        let values =
            SmsValues { user: &self.user, secret: &self.secret, sender: &self.sender, ..*values };
        let content_type = self.content_type.iter().filter(|_| self.body.is_some());
        let content_type = content_type.map(|(text, _)| ("content-type".to_owned(), text.clone()));
        let headers =
            self.headers.iter().map(|(name, value)| (name.clone(), value.render(&values)));
        GatewayRequest {
            method: self.method,
            url: self.url.render(&values),
            headers: content_type.chain(headers).collect(),
            body: self.body.as_ref().map(|body| body.render(&values)),
        }
    }

    /// What an answer means.
    pub fn judge(&self, status: u16, body: &str, json: JsonLookup<'_>) -> SmsVerdict {
        if self.success.holds(status, body, json) {
            SmsVerdict::Sent
        } else if !self.permanent.is_empty() && self.permanent.holds(status, body, json) {
            SmsVerdict::Permanent
        } else {
            SmsVerdict::Passing
        }
    }
}

impl fmt::Debug for SmsGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn needs(variable: SmsVariable, key: &str) -> bool {
    match variable {
        SmsVariable::User => key == "user",
        SmsVariable::Secret => key == "secret",
        SmsVariable::Sender => key == "sender",
        SmsVariable::Basic => key == "user" || key == "secret",
        _ => false,
    }
}

fn countries(text: Option<&str>) -> Result<Vec<Region>, String> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let codes: Vec<&str> = text.split(',').map(str::trim).filter(|c| !c.is_empty()).collect();
    if codes.is_empty() {
        return Err("must name a country; remove it for all countries".to_owned());
    }
    let read = |code: &&str| {
        code.parse().map_err(|_| format!("must be two-letter codes such as YE, not '{code}'"))
    };
    codes.iter().map(read).collect()
}

fn method(text: Option<&str>) -> Result<HttpMethod, String> {
    match text {
        None | Some("GET") => Ok(HttpMethod::Get),
        Some("POST") => Ok(HttpMethod::Post),
        Some(other) => Err(format!("must be GET or POST, not '{other}'")),
    }
}

/// The scheme and the host, which have no variables.
fn check_address(url: &str) -> Result<(), String> {
    let scheme = "must begin with https://, or with http:// if the host is this machine";
    let (is_plain, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err(scheme.to_owned()),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("has a user name or password; write them as {basic} in headers".to_owned());
    }
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    if host.is_empty() {
        return Err("names no host".to_owned());
    }
    if is_plain && !is_this_machine(host) {
        return Err(scheme.to_owned());
    }
    Ok(())
}

type GatewayBody = (Option<(String, BodyForm)>, Option<SmsTemplate>);

fn body(text: &GatewayText, method: Option<HttpMethod>, faults: &mut Faults) -> GatewayBody {
    let Some(written) = text.body.as_deref() else {
        if text.content_type.is_some() {
            faults.add("content_type", "needs body");
        }
        return (None, None);
    };
    if method == Some(HttpMethod::Get) {
        faults.add("body", "needs method = \"POST\"");
    }
    let Some(content_type) = &text.content_type else {
        faults.add("content_type", "is required with body");
        return (None, None);
    };
    if !content_type.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        faults.add("content_type", "has a character that a header cannot have");
    }
    let Some(form) = faults.take("content_type", BodyForm::of(content_type)) else {
        return (None, None);
    };
    let body = faults.take("body", SmsTemplate::body(written, form));
    (Some((content_type.clone(), form)), body)
}

fn headers(written: &[(String, String)], faults: &mut Faults) -> Vec<(String, SmsTemplate)> {
    let mut headers = Vec::new();
    for (name, value) in written {
        let key = format!("headers.{name}");
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            faults.add(key.as_str(), "is not the name of a header");
        } else if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            faults.add(key.as_str(), "cannot be set; content_type sets the type of the body");
        }
        if let Some(value) = faults.take(&key, SmsTemplate::header(value)) {
            headers.push((name.clone(), value));
        }
    }
    headers
}

fn rule(key: &str, written: &[Option<String>; 3], faults: &mut Faults) -> AnswerRule {
    let mut rule = AnswerRule::default();
    for (part, text) in ["status", "body_regex", "json"].into_iter().zip(written) {
        let Some(text) = text else { continue };
        let added = match part {
            "status" => rule.clone().with_status(text),
            "body_regex" => rule.clone().with_body(text),
            _ => rule.clone().with_json(text),
        };
        rule = faults.take(&format!("{key}.{part}"), added).unwrap_or(rule);
    }
    rule
}

/// The order in which `count` gateways are tried when `first` begins: each once.
pub fn in_order(count: usize, first: usize) -> impl Iterator<Item = usize> {
    let start = if count == 0 { 0 } else { first % count };
    (start..count).chain(0..start)
}
