//! Phone numbers wherever they come in, as people and programs write them.

use std::time::Duration;

use esh3ar::client::HubClient;
use serde_json::{Value, json};

use crate::support::{Server, id};

const PHONE: &str = "+967771234567";
/// PHONE as it is typed elsewhere: Arabic-Indic digits, full-width ones, marks that nobody sees.
const TYPED: &[&str] = &[
    "+٩٦٧٧٧١٢٣٤٥٦٧",
    "＋９６７ ７７１２３４５６７",
    "\u{202A}+967\u{A0}77\u{2011}123\u{2011}4567\u{202C}",
    "(+967)\u{202F}771234567",
    "00967 77 123 4567",
];

#[tokio::test]
async fn a_number_is_the_same_wherever_it_comes_in() {
    // Of a region whose numbers have any length: read by its rules, every number would be one of its own.
    let server = Server::start_with(&[("ESH3AR__PHONE__DEFAULT_REGION", "DE")]).await;
    let shop = server.user("shop", "SendMessages,Chat");
    let root = server.user("root", "SendMessages,Admin");
    let phone = server.phone(TYPED[0]);
    let api = server.api(&shop);
    for typed in TYPED {
        let body = json!({ "to": typed, "content": "x" });
        let sent = api.post("/api/v1/messages", &body).await.unwrap();
        assert_eq!(sent.status, 202, "{typed:?}");
        let shown = api.get(&format!("/api/v1/messages/{}", id(&sent.body))).await.unwrap().body;
        assert_eq!(shown["to"], PHONE, "{typed:?}: {shown}");
        let old = json!({ "recipientPhoneNumber": typed, "messageContent": "x" });
        let route = "/api/app/message/ingestion-send-one-way-message";
        let sent = api.post(route, &old).await.unwrap().body;
        let shown = api.get(&format!("/api/v1/messages/{}", id(&sent))).await.unwrap().body;
        assert_eq!(shown["to"], PHONE, "{typed:?}: {shown}");
    }
    let mut hub = HubClient::connect(&server.base, &shop).await.unwrap();
    let message = json!({ "to": TYPED[1], "content": "x" });
    let said = hub.call("SendMessage", vec![message], Duration::from_secs(10)).await.unwrap();
    assert_eq!(said["to"], PHONE, "{said}");
    // The existing hub, whose apps say who they are.
    let mut app = HubClient::connect_to(&server.base, "/online-mobile-user", &phone).await.unwrap();
    server.run_json(&["user", "set", "shop", "--phone", "+967 1 234 567"]);
    let message = |from: &str| json!({ "id": null, "from": from, "mobileAccount": "+٩٦٧ ١ ٢٣٤ ٥٦٧", "content": "x" });
    let wait = Duration::from_secs(10);
    app.call("SendMessage", vec![message("٧٧١٢٣٤٥٦٧")], wait).await.unwrap();
    let error = app.call("SendMessage", vec![message("771234568")], wait).await.unwrap_err();
    assert!(error.to_string().contains("your own number"), "{error}");

    // A plus that is not encoded, beside the number that would be read without it.
    let german = "+49967771234567";
    let sent = json!({ "to": german, "content": "somebody else's" });
    assert_eq!(api.post("/api/v1/messages", &sent).await.unwrap().status, 202);
    let numbers = |page: &Value| {
        let items = page["items"].as_array().unwrap().iter();
        let mut all: Vec<String> =
            items.map(|m| m["to"].as_str().or(m["phone"].as_str()).unwrap().to_owned()).collect();
        all.dedup();
        all
    };
    for path in ["messages?limit=+50&to=", "admin/messages?to=", "admin/conversations?phone="] {
        for text in ["+967771234567", "%2B967771234567", "+967+771234567", "(+967)771234567"] {
            let token = if path.starts_with("admin") { &root } else { &shop };
            let asked = format!("/api/v1/{path}{text}");
            let (status, page) = server.request("GET", &asked, Some(token), None).await;
            assert_eq!(status, 200, "{asked}: {page}");
            assert_eq!(numbers(&page), [PHONE], "{asked}: {page}");
        }
    }
    let of_own = format!("/api/app/message/pending-messages?phoneNumber={PHONE}");
    assert_eq!(server.request("GET", &of_own, Some(&phone), None).await.0, 200);
    for (path, wanted) in [
        ("mobile-users?afterPhone=+967771234566", 1),
        ("mobile-users?afterPhone=+967771234567", 0),
        ("tokens?mobile=+967771234567", 1),
        ("messages?since=2020-01-31T12:00:00+03:00&to=+4996777+1234567", 1),
        ("messages?until=2020-01-31T12:00:00+03:00", 0),
        ("dead-letters?since=2020-01-31T12:00:00+03:00&recipient=+967771234567", 0),
        ("audit?since=2020-01-31T12:00:00+03:00&phone=+49967771234567&limit=1", 1),
    ] {
        let asked = format!("/api/v1/admin/{path}");
        let (status, page) = server.request("GET", &asked, Some(&root), None).await;
        assert_eq!(status, 200, "{asked}: {page}");
        assert_eq!(page["items"].as_array().unwrap().len(), wanted, "{asked}: {page}");
    }
    let books = "/api/v1/admin/books?since=2020-01-31T12:00:00+03:00";
    assert_eq!(server.request("GET", books, Some(&root), None).await.0, 200);
    for (typed, part) in [
        ("771234567.0", "spreadsheet"),
        ("+49015123456789", "national prefix"),
        ("+99912345678", "country code"),
        ("+9677712", "length"),
    ] {
        let body = json!({ "to": typed, "content": "x" }).to_string();
        let (status, problem) =
            server.request("POST", "/api/v1/messages", Some(&shop), Some(&body)).await;
        let message = problem["errors"]["to"][0]["message"].as_str().unwrap().to_owned();
        assert!(status == 400 && message.contains(part), "{typed}: {problem}");
    }
}

#[tokio::test]
async fn numbers_that_were_stored_wrongly_are_listed_and_left_as_they_are() {
    let server = Server::start_with(&[("ESH3AR__PHONE__DEFAULT_REGION", "US")]).await;
    let root = server.user("root", "Admin");
    let checked = |more: &[&str]| server.run_json(&[&["mobile", "check"], more].concat());
    let doctor = || {
        let checks = server.run_json(&["doctor"]);
        let found = checks.as_array().unwrap().iter().find(|c| c["check"] == "phone numbers");
        found.cloned().unwrap()
    };
    server.run_json(&["mobile", "add", "+967771234567", "+12025550123", "+393912345678"]);
    assert_eq!(checked(&[]), json!([]));
    assert_eq!(doctor()["state"], "ok");
    let database = server.database().await;
    let insert = "INSERT INTO mobile_users (id, phone, status, created_at) \
                  SELECT gen_random_uuid(), unnest($1::text[]), 1, now()";
    let wrong =
        ["+495123456789", "+863912345678", "+2416031234", "+9670771234567", "+9677712345670"];
    database.execute(insert, &[&&wrong[..]]).await.unwrap();
    let shop = server.user("shop", "SendMessages");
    server.send(&shop, wrong[0], "to whom?").await;
    let before = server.run_json(&["mobile", "list"]);
    let found = checked(&[]);
    let told = |found: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut all: Vec<(String, String)> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (text(&one["phone"]), text(&one["mayHaveBeen"])))
            .collect();
        all.sort_unstable();
        all
    };
    let pair = |stored: &str, given: &str| (stored.to_owned(), given.to_owned());
    let unreadable = [pair("+9670771234567", ""), pair("+9677712345670", "")];
    let of_america =
        [pair("+495123456789", "+4915123456789"), pair("+863912345678", "+8613912345678")];
    assert_eq!(told(&found), [&of_america[..1], &of_america[1..], &unreadable[..]].concat());
    let first = found.as_array().unwrap().iter().find(|one| one["phone"] == wrong[0]).unwrap();
    assert_eq!((&first["messages"], &first["mobileUser"]), (&json!(1), &json!(true)), "{first}");
    // By the rules of a region that the configuration had before.
    let of_yemen = told(&checked(&["--region", "YE"]));
    assert!(of_yemen.contains(&pair("+2416031234", "+24106031234")), "{of_yemen:?}");
    let check = doctor();
    assert_eq!(check["state"], "warn", "{check}");
    assert!(check["found"].as_str().unwrap().starts_with("4 of "), "{check}");
    assert!(check["remedy"].as_str().unwrap().contains("esh3ar mobile check"), "{check}");
    assert_eq!(server.run_json(&["mobile", "list"]), before, "nothing is changed by itself");
    // Page after page, and in the audit log.
    let mut cursor = String::new();
    for _ in 0..4 {
        let path = format!("/api/v1/admin/number-check?limit=1&after={cursor}");
        let path = path.trim_end_matches("&after=");
        let (status, page) = server.request("GET", path, Some(&root), None).await;
        assert_eq!((status, page["items"].as_array().unwrap().len()), (200, 1), "{page}");
        cursor = page["next"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(cursor, "", "there are four");
    let log = server.run_json(&["audit", "access", "--action", "mobile.check"]);
    assert!(log.as_array().unwrap().len() >= 6, "{log}");
    // What would not be taken today can be looked at and erased.
    assert_eq!(server.run_json(&["mobile", "show", wrong[4]])["phone"], wrong[4]);
    let gone = server.run(&["mobile", "erase", wrong[4], "--yes"]);
    assert_eq!(gone.status.code(), Some(0), "{}", String::from_utf8_lossy(&gone.stderr));
    assert_eq!(server.run(&["mobile", "show", wrong[4]]).status.code(), Some(4));
    let output = server.run(&["mobile", "check", "--region", "ZZ"]);
    assert_eq!(output.status.code(), Some(2));
}
