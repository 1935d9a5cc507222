use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::Phone;

fn text() -> GatewayText {
    GatewayText {
        name: "main".to_owned(),
        url: "https://gw.example/send?to={to_digits}&text={text}".to_owned(),
        timeout: Duration::from_secs(10),
        ..GatewayText::default()
    }
}

/// The faults as `key why`.
fn faults(text: GatewayText) -> Vec<String> {
    let faults = SmsGateway::parse(text).err().unwrap_or_default();
    faults.into_iter().map(|fault| format!("{} {}", fault.key, fault.why)).collect()
}

fn values<'a>(to: &'a Phone, text: &'a str) -> SmsValues<'a> {
    SmsValues {
        to,
        text,
        code: "012345",
        locale: "ar",
        id: "7",
        sender: "",
        user: "",
        secret: "",
        basic: "dTpz",
        masked: false,
    }
}

#[test]
fn a_request_is_encoded_by_position() {
    let gateway = SmsGateway::parse(GatewayText {
        url: "https://gw.example/{user}/send?k={secret}&t={text}".to_owned(),
        method: Some("POST".to_owned()),
        content_type: Some("application/json".to_owned()),
        body: Some(r#"{"to":{to_digits},"t":"{text}","u":{unicode},"none":{}}"#.to_owned()),
        headers: vec![("Authorization".to_owned(), "Basic {basic}".to_owned())],
        user: Some("a/b".to_owned()),
        secret: Some("p&ss".to_owned()),
        ..text()
    })
    .unwrap();
    let phone = Phone::from_stored("+967771234567");
    let request = gateway.render(&values(&phone, "a \"b\"\n&"));
    assert_eq!(request.url, "https://gw.example/a%2Fb/send?k=p%26ss&t=a%20%22b%22%0A%26");
    let body = r#"{"to":967771234567,"t":"a \"b\"\n&","u":0,"none":{}}"#;
    assert_eq!(request.body.as_deref(), Some(body));
    let headers = [("content-type", "application/json"), ("Authorization", "Basic dTpz")];
    assert_eq!(request.headers, headers.map(|(n, v)| (n.to_owned(), v.to_owned())));
    let masked = gateway.render(&SmsValues { masked: true, ..values(&phone, "x") });
    assert_eq!(masked.url, "https://gw.example/a%2Fb/send?k=***&t=x");
    assert_eq!(masked.headers[1].1, "Basic ***");
    assert_eq!(format!("{gateway:?}"), "main");
}

#[test]
fn what_no_template_can_do_is_told_with_the_variable() {
    let url = |url: &str| faults(GatewayText { url: url.to_owned(), ..text() });
    for (written, told) in [
        (
            "https://gw.example/?x={texd}",
            "url has the unknown variable {texd}; did you mean {text}?",
        ),
        ("https://{to}.example/", "url has {to} in its scheme or host"),
        ("https://gw.example/{text}?x=1", "url has {text} in its path"),
        ("https://gw.example/?x=%4{code}", "url has a % that is not followed"),
        ("https://gw.example/#{code}", "url has a character that a URL cannot have"),
        ("https://gw.example/?x={", "url has a character that a URL cannot have"),
        ("http://gw.example/", "url must begin with https://, or with http:// if the host is"),
        ("ftp://gw.example/", "url must begin with https://"),
        ("https://u:p@gw.example/", "url has a user name or password"),
        ("https://gw.example/?k={secret}", "secret is required for {secret}"),
        ("https://gw.example/?k={sender}", "sender is required for {sender}"),
    ] {
        let found = url(written);
        assert!(found.iter().any(|fault| fault.starts_with(told)), "{written}: {found:?}");
    }
    for good in ["http://127.0.0.1:1/", "http://localhost/?x={to}", "http://[::1]:80/", "https://x"]
    {
        assert_eq!(url(good), [""; 0], "{good}");
    }
    let body = |kind: &str, body: &str| {
        faults(GatewayText {
            method: Some("POST".to_owned()),
            content_type: Some(kind.to_owned()),
            body: Some(body.to_owned()),
            ..text()
        })
    };
    for (kind, written, told) in [
        ("application/json", r#"{"t":{text}}"#, "body has {text} outside a string"),
        ("application/json", r#"{"t":"\{text}"}"#, "body has {text} in an escape sequence"),
        ("application/json", r#"{"t":"\u12{code}"}"#, "body has {code} in an escape sequence"),
        ("text/xml", "<{text}/>", "body has {text} in a tag"),
        ("text/xml", "<a>&{text};</a>", "body has {text} in a tag or an entity"),
        ("text/xml", "<a><!-- {text} --></a>", "body has a comment"),
        ("text/xml", "<a><![CDATA[{text}]]></a>", "body has a comment, CDATA"),
        ("text/xml", "<a", "body is not complete XML"),
        ("application/x-www-form-urlencoded", "a={to}&b=%2", "body has a %"),
        ("application/x-www-form-urlencoded", "a={to}&b=x y", "body has a space"),
        ("text/plain", "{text}", "content_type must be"),
    ] {
        let found = body(kind, written);
        assert!(found.iter().any(|fault| fault.starts_with(told)), "{written}: {found:?}");
    }
    let headers = vec![
        ("Host".to_owned(), "x".to_owned()),
        ("X-A".to_owned(), "é".to_owned()),
        ("X B".to_owned(), "x".to_owned()),
        ("X-C".to_owned(), "{nothing}".to_owned()),
    ];
    let found = faults(GatewayText { headers, ..text() });
    assert_eq!(found.len(), 4, "{found:?}");
    let found = faults(GatewayText { body: Some("x".to_owned()), ..text() });
    assert!(found.contains(&"body needs method = \"POST\"".to_owned()), "{found:?}");
}

#[test]
fn an_answer_is_judged_by_success_first() {
    let gateway = SmsGateway::parse(GatewayText {
        success: [Some("2xx".to_owned()), Some("^OK".to_owned()), None],
        permanent: [Some("400,404".to_owned()), None, None],
        ..text()
    })
    .unwrap();
    let judge = |status, body| gateway.judge(status, body, &|_| None);
    assert_eq!(judge(200, "OK 1"), SmsVerdict::Sent);
    assert_eq!(judge(200, "ERR"), SmsVerdict::Passing);
    assert_eq!(judge(404, "OK"), SmsVerdict::Permanent);
    assert_eq!(judge(503, "OK"), SmsVerdict::Passing);
    let plain = SmsGateway::parse(text()).unwrap();
    assert_eq!(plain.judge(204, "", &|_| None), SmsVerdict::Sent);
    assert_eq!(plain.judge(400, "", &|_| None), SmsVerdict::Passing, "nothing is permanent");
}

#[test]
fn gateways_serve_countries_and_are_tried_in_order() {
    let countries = Some("YE, sa".to_owned());
    let gateway = SmsGateway::parse(GatewayText { countries, ..text() }).unwrap();
    assert!(gateway.serves(Some("YE")) && gateway.serves(Some("SA")));
    assert!(!gateway.serves(Some("EG")) && !gateway.serves(None));
    assert!(SmsGateway::parse(text()).unwrap().serves(None));
    assert_eq!(in_order(3, 1).collect::<Vec<_>>(), [1, 2, 0]);
    assert_eq!(in_order(3, 3).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(in_order(0, 5).count(), 0);
}

/// Every character that could end a string, a parameter, an attribute or a line, and some others.
fn any_text() -> impl Strategy<Value = String> {
    let sign = prop_oneof![
        prop::sample::select(
            "\"\\'&<>=%#?/+;{}\r\n\t\0 \u{2028}\u{fffe}".chars().collect::<Vec<_>>()
        ),
        any::<char>(),
    ];
    prop::collection::vec(sign, 0..40).prop_map(String::from_iter)
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at] == b'%' {
            out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_query_and_a_form_have_exactly_their_parameters(value in any_text()) {
        let phone = Phone::from_stored("+967771234567");
        let values = values(&phone, &value);
        let url = SmsTemplate::url("https://gw.example/s?a={to}&b={text}&c=1").unwrap();
        let form = SmsTemplate::body("a={to}&b={text}&c=1", BodyForm::Form).unwrap();
        let url = url.render(&values);
        for written in [url.split_once('?').unwrap().1, &form.render(&values)] {
            prop_assert!(written.bytes().all(|byte| byte.is_ascii_graphic()));
            let parts: Vec<(&str, String)> = written
                .split('&')
                .map(|part| part.split_once('=').map(|(k, v)| (k, decoded(v))).unwrap())
                .collect();
            let wanted =
                vec![("a", "+967771234567".to_owned()), ("b", value.clone()), ("c", "1".to_owned())];
            prop_assert_eq!(parts, wanted);
        }
    }

    #[test]
    fn json_stays_json_with_the_same_text(value in any_text()) {
        let phone = Phone::from_stored("+967771234567");
        let template = SmsTemplate::body(r#"{"a":"x{text}y","b":{unicode}}"#, BodyForm::Json).unwrap();
        let read: serde_json::Value =
            serde_json::from_str(&template.render(&values(&phone, &value))).unwrap();
        prop_assert_eq!(read["a"].as_str().unwrap(), format!("x{value}y"));
        prop_assert_eq!(read.as_object().unwrap().len(), 2);
    }

    #[test]
    fn a_value_in_xml_ends_neither_text_nor_attribute(value in any_text()) {
        let phone = Phone::from_stored("+967771234567");
        let template = SmsTemplate::body("<a b=\"{text}\" c='{text}'>{text}</a>", BodyForm::Xml);
        let out = template.unwrap().render(&values(&phone, &value));
        let count = |sign| out.matches(sign).count();
        prop_assert_eq!((count('<'), count('>'), count('"'), count('\'')), (2, 2, 2, 2));
        prop_assert!(!out.chars().any(|c| c < ' '));
        let (_, rest) = out.split_once('>').unwrap();
        let inner = rest.strip_suffix("</a>").unwrap();
        let mut read = inner.to_owned();
        for (entity, sign) in [
            ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"),
            ("&#9;", "\t"), ("&#10;", "\n"), ("&#13;", "\r"), ("&amp;", "&"),
        ] {
            read = read.replace(entity, sign);
        }
        let kept = |c: char| matches!(c, '\t' | '\n' | '\r') || c >= ' ' && c != '\u{fffe}' && c != '\u{ffff}';
        let wanted: String = value.chars().map(|c| if kept(c) { c } else { '\u{fffd}' }).collect();
        prop_assert_eq!(read, wanted);
    }

    #[test]
    fn a_header_has_no_line_break(value in any_text()) {
        let phone = Phone::from_stored("+967771234567");
        let out = SmsTemplate::header("x {text}").unwrap().render(&values(&phone, &value));
        prop_assert!(!out.chars().any(char::is_control));
        prop_assert_eq!(out.chars().count(), value.chars().count() + 2);
    }
}
