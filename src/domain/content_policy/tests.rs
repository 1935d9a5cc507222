use proptest::prelude::*;

use super::*;

fn hosts(text: &str, kind: ContentType) -> BTreeSet<String> {
    forms(text, kind).iter().flat_map(|form| links::hosts_in(form)).collect()
}

fn deny(hosts: &[&str]) -> ContentPolicy {
    let links = LinkRules {
        allow: None,
        deny: hosts.iter().map(|host| (*host).to_owned()).collect(),
        shorteners: true,
        action: PolicyAction::Refuse,
    };
    ContentPolicy::new(Some(links), Vec::new()).unwrap()
}

fn allow(hosts: &[&str]) -> ContentPolicy {
    let links = LinkRules {
        allow: Some(hosts.iter().map(|host| (*host).to_owned()).collect()),
        deny: Vec::new(),
        shorteners: true,
        action: PolicyAction::Refuse,
    };
    ContentPolicy::new(Some(links), Vec::new()).unwrap()
}

fn refused(rule: &str) -> ContentVerdict {
    ContentVerdict::Refuse(vec![rule.to_owned()])
}

#[test]
fn each_way_of_writing_a_link_is_seen() {
    let texts = [
        "https://evil.com",
        "HTTPS://EVIL.COM/path",
        "see http://evil.com, please",
        "http:evil.com",
        "http:/evil.com",
        "http:\\\\evil.com\\x",
        "//evil.com/x",
        "/\\evil.com/x",
        "ftp://evil.com",
        "intent://evil.com",
        "https://evil.com:8443/x",
        "https://evil.com.",
        "https://user:word@evil.com/",
        "https://good.com@evil.com",
        "https://good.com:443@evil.com:1/x",
        "https://good.com|@evil.com",
        "https://evil.com,x@good.com",
        "('https://evil.com','x@good.com')",
        "evil.com",
        "evil.com/path",
        "evil.com:8080",
        "(evil.com)",
        "evil.com.",
        "evil.com, and more",
        "wait...evil.com",
        "_https://evil.com_",
        "*https://evil.com*",
        "**evil.com**",
        "_evil.com_",
        "[click](https://evil.com)",
        "<https://evil.com>",
        "<a href=\"https://evil.com\">good.com</a>",
        "<a href='//evil.com'>x</a>",
        "<a href=\"https://ev\nil.com\">x</a>",
        "https://ev<b>il</b>.com",
        "ev<i></i>il.com",
        "evil&#46;com",
        "evil&#x2e;com/x",
        "evil&period;com",
        "evil&amp;#46;com",
        "https&colon;//evil.com",
        "https:&sol;&sol;evil.com",
        "https://evil%2Ecom",
        "https://%65vil.com/",
        "https://ｅｖｉｌ．ｃｏｍ",
        "ｅｖｉｌ。ｃｏｍ",
        "https://evil。com",
        "https://evil｡com",
        "ev\u{200b}il.com",
        "ev\u{ad}il.c\u{2060}om",
        "https://ev&shy;il.com",
        "evil.com中文",
        "https://evil.com中文",
        "中文evil.com",
        "evil.com،ثم",
        "زوروا evil.com الآن",
        "good.com,evil.com",
        "https://good.com/?next=https://evil.com/",
        "https://good.com/,https://evil.com/",
    ];
    let policy = deny(&["evil.com"]);
    for text in texts {
        let verdict = policy.judge(text, ContentType::Text);
        assert_eq!(verdict, refused(RULE_DENY), "{text}: {:?}", hosts(text, ContentType::Text));
    }
}

#[test]
fn the_host_is_the_one_that_a_browser_opens() {
    let cases: &[(&str, &[&str])] = &[
        ("https://good.com@evil.com", &["evil.com"]),
        ("https://good.com\\@evil.com", &["good.com"]),
        ("http://1.2.3.4/", &["1.2.3.4"]),
        ("http://0x01020304/", &["1.2.3.4"]),
        ("http://16909060", &["1.2.3.4"]),
        ("http://01.02.03.04", &["1.2.3.4"]),
        ("http://1.2.772", &["1.2.3.4"]),
        ("http://[::ffff:1.2.3.4]/", &["1.2.3.4"]),
        ("http://[::FFFF:102:304]:80", &["1.2.3.4"]),
        ("http://x@[2001:DB8::1]/", &["2001:db8::1"]),
        ("https://bücher.example/", &["xn--bcher-kva.example"]),
        ("https://xn--bcher-kva.example/", &["xn--bcher-kva.example"]),
        ("https://localhost/x", &["localhost"]),
        ("https://a.example/b.com/c.org", &["a.example"]),
        ("www.evil.unknown", &["www.evil.unknown"]),
        ("1.2.3.4", &["1.2.3.4"]),
        ("موقع.شبكة", &["xn--4gbrim.xn--ngbc5azd"]),
    ];
    for (text, expected) in cases {
        let found = hosts(text, ContentType::Text);
        let expected: BTreeSet<String> = expected.iter().map(|host| (*host).to_owned()).collect();
        if text.contains("شبكة") {
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found.iter().all(|host| host.ends_with(".xn--ngbc5azd")), "{text}: {found:?}");
        } else {
            assert_eq!(found, expected, "{text}");
        }
    }
}

#[test]
fn plain_text_has_no_links() {
    let texts = [
        "",
        "Total: 3.5",
        "version 1.2.3, 12.05.2024, 10:30",
        "file.txt and node.js and e.g. this",
        "a/b and/or c",
        "write to sales@shop.com",
        "mail john.smith+x@mail.example.com today",
        "ok?No problem",
        "1/2 of 3:4",
        "price: 100%of it",
        "wait... what",
        "السلام عليكم. كيف الحال",
        "std::fmt // a comment",
        "a < b & c > d",
    ];
    let policy = allow(&["example.com"]);
    for text in texts {
        let verdict = policy.judge(text, ContentType::Text);
        assert_eq!(verdict, ContentVerdict::Pass, "{text}: {:?}", hosts(text, ContentType::Text));
    }
}

#[test]
fn an_allow_list_refuses_every_other_host() {
    let policy = allow(&["example.com", "*.example.org"]);
    for text in [
        "https://example.com/a?b=c",
        "EXAMPLE.com",
        "example.com.",
        "https://a.b.example.org/",
        "no link",
    ] {
        assert_eq!(policy.judge(text, ContentType::Text), ContentVerdict::Pass, "{text}");
    }
    for text in [
        "https://www.example.com",
        "https://example.org",
        "https://example.com.evil.net",
        "https://notexample.com",
        "https://example.com@evil.net",
        "http://1.2.3.4",
        "https://exаmple.com",
        "https://anything",
    ] {
        assert_eq!(policy.judge(text, ContentType::Text), refused(RULE_ALLOW), "{text}");
    }
}

#[test]
fn strings_of_json_documents_are_examined() {
    let policy = deny(&["evil.com"]);
    for text in [
        r#"{"url":"https:\/\/evil.com"}"#,
        r#"{"url":"\u0065vil.com\/x"}"#,
        r#"{"https://\u0065vil.com":1}"#,
        r#"["{\"u\":\"\\u0065vil.com\"}"]"#,
    ] {
        assert_eq!(policy.judge(text, ContentType::Json), refused(RULE_DENY), "{text}");
        assert_eq!(policy.judge(text, ContentType::Text), refused(RULE_DENY), "{text}");
    }
    let verdict = allow(&["example.com"]).judge(r#"{"a":"b","n":3.5}"#, ContentType::Json);
    assert_eq!(verdict, ContentVerdict::Pass);
}

#[test]
fn shortened_links_are_matched_if_they_are_not_permitted() {
    let of = |shorteners| {
        let links =
            LinkRules { allow: None, deny: Vec::new(), shorteners, action: PolicyAction::Flag };
        ContentPolicy::new(Some(links), Vec::new()).unwrap()
    };
    let text = "look: bit.ly/x1";
    let flagged = ContentVerdict::Flag(vec![RULE_SHORTENERS.to_owned()]);
    assert_eq!(of(false).judge(text, ContentType::Text), flagged);
    assert_eq!(of(true).judge(text, ContentType::Text), ContentVerdict::Pass);
    assert_eq!(of(false).judge("https://rabbit.ly/", ContentType::Text), ContentVerdict::Pass);
}

#[test]
fn patterns_refuse_or_flag_and_refusing_wins() {
    let pattern = |name: &str, regex: &str, action| PatternRule {
        name: name.to_owned(),
        regex: regex.to_owned(),
        action,
    };
    let patterns = vec![
        pattern("pin", r"(?i)\bpin\b", PolicyAction::Refuse),
        pattern("prize", "(?i)prize", PolicyAction::Flag),
    ];
    let policy = ContentPolicy::new(None, patterns.clone()).unwrap();
    assert_eq!(policy.rules(), 2);
    let judge = |text: &str| policy.judge(text, ContentType::Text);
    assert_eq!(judge("hello"), ContentVerdict::Pass);
    assert_eq!(judge("a Pri\u{200b}ze"), ContentVerdict::Flag(vec!["prize".to_owned()]));
    assert_eq!(judge("prize for your P<b></b>IN"), refused("pin"));
    let message = policy.judge_message(Some("your PIN"), "prize", ContentType::Text);
    let broken = message.unwrap_err();
    assert_eq!((broken[0].field, broken[0].message.as_str()), ("subject", "pin"));
    assert_eq!(policy.judge_message(Some("prize"), "prize", ContentType::Text).unwrap(), ["prize"]);

    let error = |patterns| ContentPolicy::new(None, patterns).unwrap_err();
    let twice = [patterns.clone(), patterns].concat();
    assert_eq!(error(twice), PolicyError::NameTaken("pin".to_owned()));
    let bad = |regex: &str| error(vec![pattern("x", regex, PolicyAction::Flag)]);
    assert_eq!(bad("("), PolicyError::BadPattern("x".to_owned()));
    assert_eq!(bad(&"a".repeat(201)), PolicyError::BadPattern("x".to_owned()));
    assert_eq!(bad(r"(\w{100}){100}"), PolicyError::BadPattern("x".to_owned()));
    assert_eq!(error(vec![pattern("", "a", PolicyAction::Flag)]), PolicyError::BadName);
}

#[test]
fn hosts_of_a_policy_are_hosts() {
    let of = |host: &str| {
        let links = LinkRules {
            allow: None,
            deny: vec![host.to_owned()],
            shorteners: true,
            action: PolicyAction::Refuse,
        };
        ContentPolicy::new(Some(links), Vec::new()).map(|policy| policy.hosts())
    };
    for host in ["example.com", "*.Example.org", "bücher.example", "1.2.3.4", "[2001:db8::1]"] {
        assert_eq!(of(host), Ok(1), "{host}");
    }
    for host in
        ["", "*", "https://example.com", "example.com/x", "a b", "*.*.com", "a..b", "x@y.com"]
    {
        assert_eq!(of(host), Err(PolicyError::NoHost(host.to_owned())), "{host}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_text_panics(text in any::<String>(), parts in prop::collection::vec(
        prop::sample::select(vec![
            "http:", "//", "@", "evil.com", "[", "]", "::", "%", "%2e", "&#", "46;", "<a", ">", "。", "\u{200b}", ".", "_",
            "中", "\\", "\"", "\\u00", "1.2", "0x", " ", "xn--", "?", ":80",
        ]), 0..40)) {
        let policy = allow(&["example.com"]);
        for kind in [ContentType::Text, ContentType::Json] {
            policy.judge(&text, kind);
            policy.judge(&parts.concat(), kind);
        }
    }

    #[test]
    fn the_host_of_a_url_is_found(
        host in "[a-z][a-z0-9]{0,10}(\\.[a-z][a-z0-9]{0,10}){0,3}\\.(com|org|ye|shop)",
        user in prop::option::of("[a-z.]{1,10}"), port in prop::option::of(1u16..),
        path in "(/[a-z0-9._~-]{0,12}){0,3}", before in "[a-z ]{0,10} ", after in " [a-z ]{0,10}"
    ) {
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let text = format!("{before}https://{user}{host}{port}{path}{after}");
        prop_assert_eq!(hosts(&text, ContentType::Text), BTreeSet::from([host]));
    }
}
