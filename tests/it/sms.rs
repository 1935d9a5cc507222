//! Gateways for SMS over real HTTP: the examples of the operators' page, failover, breakers, and the command that
//! tries them.

use std::time::Duration;

use esh3ar::{
    config::{ConfigSources, load},
    domain::Phone,
    sms::{SmsGateways, SmsOutcome, SmsRequest},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::{Server, sms_gateway::GatewayStub};

const PAGE: &str = include_str!("../../docs/operations/sms.md");
/// With characters that end something in every encoding.
const SECRET: &str = "s&+\"";
const TEXT: &str = "رمزك 12 \"&<";
const ENCODED: &str = "%D8%B1%D9%85%D8%B2%D9%83%2012%20%22%26%3C";

/// The example of a name on the operators' page, with another host and this secret.
fn example(name: &str, base: &str) -> String {
    let named = format!("name = \"{name}\"\n");
    let mut blocks = PAGE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.contains(&named)).unwrap();
    let mut text = String::new();
    for line in block.lines() {
        if let Some(url) = line.strip_prefix("url = \"") {
            let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
            text.push_str(&format!("url = \"{base}/{path}\n"));
        } else if line.starts_with("secret_file") {
            text.push_str(&format!("secret = '{SECRET}'\n"));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

fn gateways(text: &str, roots: Option<&str>) -> SmsGateways {
    let file = Some(("x.toml".to_owned(), text.to_owned()));
    let environment = vec![("ESH3AR__PHONE__DEFAULT_REGION".to_owned(), "YE".to_owned())];
    let loaded = load(ConfigSources { file, environment, ..ConfigSources::default() }).unwrap();
    SmsGateways::new(loaded.config.sms.gateways, roots.map(str::as_bytes)).unwrap()
}

async fn send(gateways: &SmsGateways, to: &str, first: usize) -> SmsOutcome {
    let to = Phone::parse(to, None).unwrap();
    let request =
        SmsRequest { to: &to, text: TEXT, code: "12", locale: "ar", id: Uuid::nil(), first };
    gateways.send(&request).await
}

fn sent(gateway: &str, id: Option<&str>) -> SmsOutcome {
    SmsOutcome::Sent { gateway: gateway.into(), message_id: id.map(str::to_owned) }
}

/// One provider: what it is sent, and its answers.
struct Golden {
    name: &'static str,
    /// Of these the values are compared, in this order.
    headers: &'static [&'static str],
    /// The line, the headers and the body. `TEXT` and `JSON` stand for the text, percent-encoded and in JSON.
    request: &'static str,
    success: (u16, &'static str),
    id: Option<&'static str>,
    permanent: (u16, &'static str),
    passing: (u16, &'static str),
}

const GOLDENS: &[Golden] = &[
    Golden {
        name: "twilio",
        headers: &["authorization", "content-type"],
        request: "POST /2010-04-01/Accounts/AC0123/Messages.json HTTP/1.1\n\
                  authorization: Basic QUMwMTIzOnMmKyI=\n\
                  content-type: application/x-www-form-urlencoded\n\n\
                  To=%2B967771234567&From=%2B15005550006&Body=TEXT",
        success: (201, r#"{"sid":"SM1","status":"queued"}"#),
        id: Some("SM1"),
        permanent: (400, r#"{"code":21211}"#),
        passing: (429, r#"{"code":20429}"#),
    },
    Golden {
        name: "vonage",
        headers: &["content-type"],
        request: "POST /sms/json HTTP/1.1\n\
                  content-type: application/x-www-form-urlencoded\n\n\
                  api_key=abcd1234&api_secret=s%26%2B%22&from=Example&to=967771234567&type=unicode&text=TEXT",
        success: (200, r#"{"message-count":"1","messages":[{"status":"0","message-id":"V1"}]}"#),
        id: Some("V1"),
        permanent: (200, r#"{"messages":[{"status": "3","error-text":"Invalid to"}]}"#),
        passing: (200, r#"{"messages":[{"status":"1","error-text":"Throttled"}]}"#),
    },
    Golden {
        name: "infobip",
        headers: &["authorization", "content-type", "accept"],
        request: "POST /sms/2/text/advanced HTTP/1.1\n\
                  authorization: App s&+\"\n\
                  content-type: application/json\n\
                  accept: application/json\n\n\
                  {\"messages\":[{\"from\":\"Example\",\"destinations\":[{\"to\":\"967771234567\"}],\"text\":\"JSON\"}]}",
        success: (200, r#"{"messages":[{"messageId":"I1","status":{"groupName":"PENDING"}}]}"#),
        id: Some("I1"),
        permanent: (200, r#"{"messages":[{"status":{"groupName":"REJECTED"}}]}"#),
        passing: (401, r#"{"requestError":{}}"#),
    },
    Golden {
        name: "messagebird",
        headers: &["authorization", "content-type"],
        request: "POST /messages HTTP/1.1\n\
                  authorization: AccessKey s&+\"\n\
                  content-type: application/x-www-form-urlencoded\n\n\
                  recipients=967771234567&originator=Example&datacoding=auto\
                  &reference=00000000-0000-0000-0000-000000000000&body=TEXT",
        success: (201, r#"{"id":"M1"}"#),
        id: Some("M1"),
        permanent: (422, r#"{"errors":[{"code":9}]}"#),
        passing: (500, ""),
    },
    Golden {
        name: "clickatell",
        headers: &["authorization", "content-type"],
        request: "POST /v1/message HTTP/1.1\n\
                  authorization: s&+\"\n\
                  content-type: application/json\n\n\
                  {\"messages\":[{\"channel\":\"sms\",\"to\":\"967771234567\",\"content\":\"JSON\",\
                  \"clientMessageId\":\"00000000-0000-0000-0000-000000000000\"}]}",
        success: (202, r#"{"messages":[{"apiMessageId":"C1","accepted":true,"error":null}]}"#),
        id: Some("C1"),
        permanent: (207, r#"{"messages":[{"accepted":false,"error":{"code":7}}]}"#),
        passing: (503, "busy"),
    },
    Golden {
        name: "unifonic",
        headers: &["content-type"],
        request: "POST /rest/SMS/messages HTTP/1.1\n\
                  content-type: application/x-www-form-urlencoded\n\n\
                  AppSid=s%26%2B%22&SenderID=Example&Recipient=967771234567&responseType=JSON&Body=TEXT",
        success: (200, r#"{"success":"true","errorCode":"ER-00","data":{"MessageID":7}}"#),
        id: Some("7"),
        permanent: (200, r#"{"success":"false","errorCode":"ER-18"}"#),
        passing: (200, r#"{"success":false,"errorCode":"ER-01"}"#),
    },
    Golden {
        name: "taqnyat",
        headers: &["authorization", "content-type"],
        request: "POST /v1/messages HTTP/1.1\n\
                  authorization: Bearer s&+\"\n\
                  content-type: application/json\n\n\
                  {\"recipients\":[966512345678],\"body\":\"JSON\",\"sender\":\"Example\"}",
        success: (201, r#"{"statusCode":201,"messageId":8}"#),
        id: Some("8"),
        permanent: (400, r#"{"statusCode":400}"#),
        passing: (401, r#"{"statusCode":401}"#),
    },
    Golden {
        name: "smsglobal",
        headers: &[],
        request: "GET /http-api.php?action=sendsms&user=api1&password=s%26%2B%22&from=Example\
                  &to=967771234567&text=TEXT HTTP/1.1\n\n",
        success: (200, "OK: 0; Sent queued message ID: a1"),
        id: None,
        permanent: (200, "ERROR: 13"),
        passing: (200, "ERROR: 88"),
    },
    Golden {
        name: "kannel",
        headers: &[],
        request: "GET /cgi-bin/sendsms?username=esh3ar&password=s%26%2B%22&coding=2&charset=UTF-8\
                  &to=%2B967771234567&text=TEXT HTTP/1.1\n\n",
        success: (202, "0: Accepted for delivery"),
        id: None,
        permanent: (400, "bad request"),
        passing: (503, "Temporal failure"),
    },
    Golden {
        name: "plain",
        headers: &[],
        request: "GET /send.php?u=esh3ar&p=s%26%2B%22&m=771234567&unicode=1\
                  &hex=0631064506320643002000310032002000220026003C&lang=ar\
                  &ref=00000000-0000-0000-0000-000000000000 HTTP/1.1\n\n",
        success: (200, "OK 1"),
        id: None,
        permanent: (200, "INVALID NUMBER"),
        passing: (200, "NO CREDIT"),
    },
    Golden {
        name: "xml",
        headers: &["content-type"],
        request: "POST /xml HTTP/1.1\n\
                  content-type: text/xml; charset=utf-8\n\n\
                  <?xml version=\"1.0\" encoding=\"UTF-8\"?><sms user=\"esh3ar\" key=\"s&amp;+&quot;\">\
                  <to>967771234567</to><text type=\"unicode\">رمزك 12 &quot;&amp;&lt;</text></sms>",
        success: (200, "<answer><status>0</status></answer>"),
        id: None,
        permanent: (200, "<answer><status>9</status></answer>"),
        passing: (200, "<answer><status>5</status></answer>"),
    },
];

#[tokio::test]
async fn every_example_of_the_page_is_sent_and_judged_as_its_provider_documents() {
    let stub = GatewayStub::start().await;
    for golden in GOLDENS {
        let name = golden.name;
        let gateways = gateways(&example(name, &stub.base), None);
        let to = if name == "taqnyat" { "+966512345678" } else { "+967771234567" };
        stub.answers(golden.success.0, golden.success.1);
        assert_eq!(send(&gateways, to, 0).await, sent(name, golden.id));
        let calls = stub.calls();
        let wanted = golden
            .request
            .replace("TEXT", ENCODED)
            .replace("\"JSON\"", &serde_json::to_string(TEXT).unwrap());
        assert_eq!(calls.len(), 1, "{name}");
        assert_eq!(calls[0].text(golden.headers), wanted, "{name}");
        stub.answers(golden.permanent.0, golden.permanent.1);
        let refused = send(&gateways, to, 0).await;
        let is_refused =
            matches!(&refused, SmsOutcome::Permanent { gateway, .. } if &**gateway == name);
        assert!(is_refused, "{name}: {refused:?}");
        stub.answers(golden.passing.0, golden.passing.1);
        let failed = send(&gateways, to, 0).await;
        assert!(matches!(&failed, SmsOutcome::Passing { tried: 1, .. }), "{name}: {failed:?}");
        let told = format!("{refused:?}{failed:?}{gateways:?}");
        assert!(!told.contains(SECRET) && !told.contains("77123"), "{told}");
        stub.calls();
    }
    let examples = PAGE.matches("[[sms.gateways]]\nname = ").count();
    assert_eq!(examples, GOLDENS.len(), "an example of the page is not tested");
}

/// The table of a gateway.
fn table(name: &str, base: &str, rest: &str) -> String {
    format!("[[sms.gateways]]\nname = \"{name}\"\nurl = \"{base}/?to={{to}}\"\n{rest}\n")
}

#[tokio::test]
async fn the_next_gateway_of_the_country_is_tried_until_one_takes_or_refuses() {
    let [first, other, last] =
        [GatewayStub::start().await, GatewayStub::start().await, GatewayStub::start().await];
    let permanent = "permanent = { status = \"400\" }";
    let text = [
        table("first", &first.base, &format!("countries = [\"YE\"]\n{permanent}")),
        table("other", &other.base, "countries = [\"SA\"]"),
        table("last", &last.base, ""),
    ]
    .concat();
    let gateways = gateways(&text, None);
    assert!(gateways.for_country("SA") && gateways.for_country("EG") && !gateways.is_empty());
    let counts = || [&first, &other, &last].map(|stub| stub.calls().len());

    first.answers(503, "");
    last.answers(200, "");
    assert_eq!(send(&gateways, "+967771234567", 0).await, sent("last", None));
    assert_eq!(counts(), [1, 0, 1], "the next one at once, and none of another country");
    assert_eq!(send(&gateways, "+967771234567", 1).await, sent("last", None));
    assert_eq!(counts(), [0, 0, 1], "the second of the country began");

    first.answers(400, "");
    let refused = send(&gateways, "+967771234567", 0).await;
    assert!(matches!(refused, SmsOutcome::Permanent { .. }), "{refused:?}");
    assert_eq!(counts(), [1, 0, 0], "a permanent failure ends it");

    first.answers(503, "");
    last.answers(503, "");
    let failed = send(&gateways, "+967771234567", 0).await;
    let reason = "last: the gateway answered 503".to_owned();
    assert_eq!(failed, SmsOutcome::Passing { reason, tried: 2 });
    counts();

    // That was one failure in a row of each; four more open both breakers.
    for _ in 0..4 {
        send(&gateways, "+967771234567", 0).await;
    }
    assert_eq!(counts(), [4, 0, 4]);
    let reason = "all gateways are paused after failures".to_owned();
    let paused = SmsOutcome::Passing { reason, tried: 0 };
    assert_eq!(send(&gateways, "+967771234567", 0).await, paused);
    assert_eq!(counts(), [0, 0, 0], "a breaker that is open lets nothing through");
    assert_eq!(send(&gateways, "+966512345678", 0).await, sent("other", None));
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_fails_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stub = GatewayStub::start().await;
    let text = [
        table("gone", &format!("http://{gone}"), ""),
        table("silent", &format!("http://{}", silent.local_addr().unwrap()), "timeout = \"300ms\""),
        table("good", &stub.base, ""),
    ]
    .concat();
    let gateways = gateways(&text, None);
    let sending = send(&gateways, "+967771234567", 0);
    let outcome = tokio::time::timeout(Duration::from_secs(30), sending).await.unwrap();
    assert_eq!(outcome, sent("good", None));
}

#[tokio::test]
async fn additional_roots_are_trusted_and_only_then() {
    let stub = GatewayStub::start_tls().await;
    let text = table("tls", &stub.base, "");
    let failed = send(&gateways(&text, None), "+967771234567", 0).await;
    assert!(matches!(failed, SmsOutcome::Passing { tried: 1, .. }), "{failed:?}");
    assert!(stub.calls().is_empty());
    let trusting = gateways(&text, stub.certificate.as_deref());
    assert_eq!(send(&trusting, "+967771234567", 0).await, sent("tls", None));
    assert_eq!(stub.calls()[0].line, "GET /?to=%2B967771234567 HTTP/1.1");
}

/// Commands block, so the gateway runs on another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_tested_by_command_and_the_secret_is_not_shown() {
    let server = Server::start().await;
    let stub = GatewayStub::start_tls().await;
    let folder = server.folder.path();
    let (file, ca) = (folder.join("sms.toml"), folder.join("ca.pem"));
    std::fs::write(&ca, stub.certificate.as_deref().unwrap()).unwrap();
    let keys = "secret = 's&+\"'\nheaders = { Authorization = \"Bearer {secret}\", X-T = \"{text}\" }\n\
                permanent = { status = \"400\" }";
    let outbound =
        format!("[otp]\ncountries = [\"YE\"]\n[outbound]\nca_file = \"{}\"\n", ca.display());
    let text = outbound + &table("main", &stub.base, keys) + &table("spare", &stub.base, "");
    std::fs::write(&file, text).unwrap();
    let run = |arguments: &[&str]| {
        let config =
            ["--config", file.to_str().unwrap(), "sms", "test", "+967771234567", "-o", "json"];
        let output = server.run(&[&config, arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("s&+"), "{text}");
        let read: Value = serde_json::from_str(&text).unwrap_or_default();
        (output.status.code(), read, String::from_utf8(output.stderr).unwrap())
    };

    stub.answers(200, "taken with Bearer s&+\"");
    let (status, shown, told) = run(&["--text", "hello"]);
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(shown["verdict"], "sent");
    assert_eq!(shown["request"]["method"], "GET");
    let url = format!("{}/?to=%2B967771234567", stub.base);
    assert_eq!(shown["request"]["url"], url.as_str());
    let headers = json!({ "Authorization": "Bearer ***", "X-T": "hello" });
    assert_eq!(shown["request"]["headers"], headers);
    assert_eq!(shown["answer"], json!({ "status": 200, "body": "taken with Bearer ***" }));
    assert_eq!(stub.calls()[0].header("authorization"), Some("Bearer s&+\""));

    stub.answers(400, "no");
    let (status, shown, _) = run(&[]);
    assert_eq!((status, &shown["verdict"]), (Some(5), &json!("permanent")));
    stub.answers(500, "no");
    let (status, shown, _) = run(&["--gateway", "spare"]);
    assert_eq!((status, &shown["verdict"]), (Some(69), &json!("passing")));
    assert_eq!(shown["request"]["gateway"], "spare");
    assert_eq!(run(&["--gateway", "none"]).0, Some(4));
    assert_eq!(stub.calls().len(), 2, "one call for each");

    let log = server.run_json(&["audit", "access", "--action", "sms.test"]);
    assert_eq!(log.as_array().unwrap().len(), 3, "{log}");
    let entry = log.to_string();
    assert!(entry.contains("spare") && !entry.contains("771234567"), "{entry}");

    let shown = server.run(&["--config", file.to_str().unwrap(), "config", "show"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("sms.gateways.0.secret") && !shown.contains("s&+"), "{shown}");
}
