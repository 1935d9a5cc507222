//! `[[sms.gateways]]`: the gateways for SMS, a table each.

use std::time::Duration;

use crate::{
    config::{
        key::{ConfigKey, ConfigList, default, unset},
        parse::duration,
        reader::Reader,
        sections::{key, section::Section},
    },
    domain::sms::{GatewayText, SmsGateway},
};

/// The gateways, in the order of the file.
#[derive(Clone, Debug)]
pub struct SmsConfig {
    pub gateways: Vec<SmsGateway>,
}

const MAX_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_TIMEOUT: &str = "10s";

pub(super) const GATEWAYS: ConfigList = ConfigList {
    name: "sms.gateways",
    doc: "A gateway for SMS. Write one table for each; they are tried in the order of the file. The environment \
          sets a key of the first one with ESH3AR__SMS__GATEWAYS__0__NAME. operations/sms.md explains the \
          variables.",
    keys: &[
        unset("main").reloadable().named("name", "Name of the gateway in logs and metrics. Required."),
        unset("[\"YE\"]").reloadable().named(
            "countries",
            "Countries whose numbers it takes, as two-letter codes. Unset: all.",
        ),
        unset("https://gw.example/send?user={user}&to={to_digits}").reloadable().named(
            "url",
            "URL, with variables in path and query. http:// only for a gateway on this machine. Required.",
        ),
        default("GET").example("POST").reloadable().named("method", "GET or POST."),
        unset("application/json").reloadable().named(
            "content_type",
            "Content type of the body: that of a form, of JSON or of XML. Required with body.",
        ),
        unset(r#"{"text":"{text}","id":"{id}"}"#).reloadable().named(
            "body",
            "Body of a POST, with variables.",
        ),
        unset(r#"{ Authorization = "Bearer {secret}" }"#)
            .reloadable()
            .named("headers", "Headers, with variables."),
        unset("esh3ar").reloadable().named("user", "Value of {user} and part of {basic}."),
        unset("secret").secret().reloadable().named("secret", "Value of {secret} and part of {basic}."),
        unset("Example").reloadable().named("sender", "Value of {sender}."),
        default("2xx").reloadable().named(
            "success.status",
            "Statuses of an answer that means success, such as 2xx or 200,202. All conditions of success \
             that are set must hold; the default applies if none is set.",
        ),
        unset("^OK").reloadable().named(
            "success.body_regex",
            "Regular expression that the body of such an answer contains.",
        ),
        unset("/status=ok").reloadable().named(
            "success.json",
            "JSON pointer and value that such an answer has; without = any value but null.",
        ),
        unset("400,404").reloadable().named(
            "permanent.status",
            "Statuses of an answer that refuses the message for good: no other gateway is tried. All \
             conditions that are set must hold. Unset: no answer does.",
        ),
        unset("invalid number").reloadable().named(
            "permanent.body_regex",
            "Regular expression that the body of such an answer contains.",
        ),
        unset("/code=21211").reloadable().named(
            "permanent.json",
            "JSON pointer and value that such an answer has.",
        ),
        unset("/messages/0/id").reloadable().named(
            "id_pointer",
            "JSON pointer of the gateway's message id in its answer.",
        ),
        default(DEFAULT_TIMEOUT).reloadable().named("timeout", "Timeout of a request, at most 60s."),
    ],
};

impl Section for SmsConfig {
    const KEYS: &'static [ConfigKey] = &[];

    fn read(reader: &mut Reader) -> Option<Self> {
        let mut gateways: Vec<SmsGateway> = Vec::new();
        for index in reader.tables(GATEWAYS.name) {
            let table = format!("{}.{index}", GATEWAYS.name);
            match read_gateway(reader, &table) {
                Some(gateway) if gateways.iter().any(|other| other.name() == gateway.name()) => {
                    reader.problem_with(&format!("{table}.name"), "is the name of another gateway");
                }
                gateway => gateways.extend(gateway),
            }
        }
        // Each message costs something: a number of any country must not be able to ask for one.
        let (countries, region) = (key!("otp.countries"), key!("phone.default_region"));
        if !gateways.is_empty() && !reader.is_set(countries) && !reader.is_set(region) {
            reader.problem(
                countries,
                "must name the countries whose numbers may register by SMS, or set phone.default_region",
            );
        }
        Some(SmsConfig { gateways })
    }
}

/// A faulty gateway is left out; the reader has its faults then.
fn read_gateway(reader: &mut Reader, table: &str) -> Option<SmsGateway> {
    let get = |key: &str| reader.text_of(&format!("{table}.{key}")).map(str::to_owned);
    let rule =
        |key: &str| ["status", "body_regex", "json"].map(|part| get(&format!("{key}.{part}")));
    let prefix = format!("{table}.headers.");
    let headers = reader.values.iter().filter_map(|(name, (text, _))| {
        Some((name.strip_prefix(&prefix)?.to_owned(), text.clone()))
    });
    let headers = headers.collect();
    let written = get("timeout").unwrap_or_else(|| DEFAULT_TIMEOUT.to_owned());
    let timeout = duration(MAX_TIMEOUT)(&written);
    let text = GatewayText {
        name: get("name").unwrap_or_default(),
        countries: get("countries"),
        url: get("url").unwrap_or_default(),
        method: get("method"),
        content_type: get("content_type"),
        body: get("body"),
        headers,
        user: get("user"),
        secret: get("secret"),
        sender: get("sender"),
        success: rule("success"),
        permanent: rule("permanent"),
        id_pointer: get("id_pointer"),
        timeout: timeout.as_ref().copied().unwrap_or_default(),
    };
    let name = text.name.clone();
    if let Err(why) = &timeout {
        reader.problem_with(&format!("{table}.timeout"), why);
    }
    match SmsGateway::parse(text) {
        Ok(gateway) => timeout.is_ok().then_some(gateway),
        Err(faults) => {
            for fault in faults {
                let of = if name.is_empty() { String::new() } else { format!(" (gateway {name})") };
                reader
                    .problem_with(&format!("{table}.{}", fault.key), &format!("{}{of}", fault.why));
            }
            None
        }
    }
}
