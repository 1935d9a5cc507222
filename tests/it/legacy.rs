//! The existing apps and programs, by the contract of the existing system.

use std::time::Duration;

use esh3ar::{
    client::{HubClient, HubEvent},
    server::{legacy, route::Who, routes},
};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, run_json};

const PHONE: &str = "+967771234567";

async fn connect(server: &Server, hub: &str, token: &str) -> HubClient {
    HubClient::connect_to(&server.base, hub, token).await.unwrap()
}

/// The next call of the client: its name, and the one text that it has.
async fn called(hub: &mut HubClient) -> (String, Value) {
    loop {
        let event = tokio::time::timeout(DEADLINE, hub.next()).await.unwrap().unwrap();
        if let HubEvent::Invocation { target, arguments } = event {
            assert_eq!(arguments.len(), 1);
            let text = arguments[0].as_str().expect("JSON in a text");
            return (target, serde_json::from_str(text).unwrap());
        }
    }
}

#[tokio::test]
async fn an_existing_app_gets_its_messages_and_acknowledges_them() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let first = server.send(&shop, PHONE, "waiting ☎ \"1\"").await;
    let mut app = connect(&server, "/online-mobile-user", &phone).await;
    let (target, pending) = called(&mut app).await;
    assert_eq!(target, "ReceivePendingMessages");
    let creator = pending[0]["CreatorId"].as_str().unwrap().to_owned();
    let expected = json!([{
        "Id": first, "CreatorId": creator, "RecipientPhoneNumber": "967771234567",
        "MessageContent": "waiting ☎ \"1\"", "Status": 0, "From": "shop",
        "AccessUrl": null, "UrlExpiresAt": null,
    }]);
    assert_eq!(pending, expected);
    let wait = Duration::from_secs(10);
    let done = app.call("AcknowledgeMessage", vec![json!(first)], wait).await.unwrap();
    assert_eq!(done, Value::Null);
    server.wait_status(&shop, &first, "delivered").await;
    let live = server.send(&shop, PHONE, "live").await;
    let (target, message) = called(&mut app).await;
    assert_eq!((target.as_str(), &message["Id"]), ("ReceiveMessage", &json!(live)));
    assert_eq!(message["CreatorId"], creator);
    app.call("acknowledgemessage", vec![json!(live)], wait).await.unwrap();
    server.wait_status(&shop, &live, "delivered").await;
    // A number that is none of a message changes nothing; what is no number is refused.
    let none = json!("01a20a1b-7317-71ae-8f98-eacc86509605");
    assert_eq!(app.call("AcknowledgeMessage", vec![none], wait).await.unwrap(), Value::Null);
    let error = app.call("AcknowledgeMessage", vec![json!("x")], wait).await.unwrap_err();
    assert!(error.to_string().contains("Error binding arguments"), "{error}");
}

#[tokio::test]
async fn existing_apps_get_texts_without_tags_and_others_get_them_as_sent() {
    let server = Server::start().await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(PHONE);
    let written = "a < b & c<script>alert(1)</script><b>!</b>";
    let first = server.send(&shop, PHONE, written).await;
    let mut app = connect(&server, "/online-mobile-user", &phone).await;
    let (_, pending) = called(&mut app).await;
    assert_eq!(pending[0]["MessageContent"], "a < b & c!");
    let wait = Duration::from_secs(10);
    app.call("AcknowledgeMessage", vec![json!(first)], wait).await.unwrap();
    let live = server.send(&shop, PHONE, written).await;
    let (target, message) = called(&mut app).await;
    assert_eq!((target.as_str(), &message["Id"]), ("ReceiveMessage", &json!(live)));
    assert_eq!(message["MessageContent"], "a < b & c!");
    drop(app);
    let mut current = connect(&server, "/hub", &phone).await;
    let event = loop {
        match tokio::time::timeout(DEADLINE, current.next()).await.unwrap().unwrap() {
            HubEvent::Invocation { target, arguments } if target == "ReceivePendingMessages" => {
                break arguments;
            }
            _ => {}
        }
    };
    assert_eq!(event[0][0]["content"], written);
}

#[tokio::test]
async fn each_existing_hub_has_its_kind_of_user() {
    let server = Server::start().await;
    let (shop, phone) = (server.user("shop", "SendMessages"), server.phone(PHONE));
    let mut program = connect(&server, "/business-user", &shop).await;
    let echo = program.call("Echo", vec![json!([1])], Duration::from_secs(10)).await.unwrap();
    assert_eq!(echo, json!([1]));
    for (hub, token) in [("/business-user", &phone), ("/online-mobile-user", &shop)] {
        let path = format!("{hub}/negotiate?negotiateVersion=1");
        assert_eq!(server.request("POST", &path, Some(token), None).await.0, 403, "{hub}");
    }
    for hub in [legacy::MOBILE_HUB, legacy::BUSINESS_HUB] {
        let path = format!("{hub}/negotiate?negotiateVersion=1");
        assert_eq!(server.request("POST", &path, None, None).await.0, 401);
    }
}

#[tokio::test]
async fn the_existing_routes_do_what_they_did() {
    let server = Server::start().await;
    let (shop, phone) = (server.user("shop", "SendMessages"), server.phone(PHONE));
    let other = server.phone("+967770000009");
    let post = |path: &'static str, body: Value| {
        let (server, shop) = (&server, &shop);
        async move {
            let path = format!("/api/app/message/{path}");
            server.request("POST", &path, Some(shop), Some(&body.to_string())).await
        }
    };
    // With the country's code and without, names in any case, unknown fields skipped.
    let mut sent = Vec::new();
    for (route, body) in [
        (
            "ingestion-send-one-way-message",
            json!({ "recipientPhoneNumber": "771234567", "subject": "s", "messageContent": "one" }),
        ),
        (
            "send-message-from-ui",
            json!({ "RecipientPhoneNumber": "967771234567", "MessageContent": "two", "Extra": 1 }),
        ),
        (
            "send-one-way-message",
            json!({ "recipientPhoneNumber": PHONE, "messageContent": "three" }),
        ),
    ] {
        let (status, answer) = post(route, body).await;
        assert_eq!(status, 200, "{route}: {answer}");
        sent.push(answer["id"].as_str().unwrap().to_owned());
    }
    let batch = json!({ "batchMessages": [
        { "mobileNumber": "771234567", "messageContent": "four", "subject": "s" },
        { "mobileNumber": "967771234567", "messageContent": "five" },
    ] });
    assert_eq!(post("ingestion-batch-message", batch).await, (200, json!(true)));
    // What breaks rules is told there in this form, and none of a batch is sent.
    let bad = json!({ "batchMessages": [
        { "mobileNumber": "771234567", "messageContent": "good" },
        { "mobileNumber": "1", "messageContent": "" },
    ] });
    let (status, answer) = post("ingestion-batch-message", bad).await;
    assert_eq!(status, 400, "{answer}");
    let errors = answer["error"]["validationErrors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{answer}");
    assert!(errors.iter().all(|error| error["members"][0].is_string()), "{answer}");

    let get = |path: &'static str, token: &str| {
        let (server, token) = (&server, token.to_owned());
        async move {
            let path = format!("/api/app/message/{path}");
            server.request("GET", &path, Some(&token), None).await
        }
    };
    let (status, pending) = get("pending-messages?phoneNumber=771234567", &phone).await;
    assert_eq!((status, pending.as_array().unwrap().len()), (200, 5));
    let expected = json!({
        "id": sent[0], "recipientPhoneNumber": "967771234567", "messageContent": "one", "from": "shop",
    });
    assert_eq!(pending[0], expected);
    let (status, answer) = get("pending-messages?phoneNumber=967771234567", &other).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_found")), "somebody else's");

    let (status, page) = get("one-way-messages?SkipCount=1&MaxResultCount=2", &shop).await;
    assert_eq!((status, &page["totalCount"]), (200, &json!(5)));
    let contents: Vec<&Value> =
        page["items"].as_array().unwrap().iter().map(|item| &item["messageContent"]).collect();
    assert_eq!(contents, ["four", "three"], "newest first");
    assert_eq!(page["items"][1]["id"], sent[2]);
    assert_eq!(page["items"][1]["status"], 0);
    assert_eq!(get("one-way-messages?MaxResultCount=x", &shop).await.0, 400);
    // As ASP.NET takes them, and as its generated clients write them.
    let (_, same) = get("one-way-messages?skipCount=1&maxresultcount=2", &shop).await;
    assert_eq!(same, page);
    assert_eq!(get("pending-messages?PhoneNumber=967771234567", &other).await.0, 404);
    assert_eq!(server.request("GET", "/health-status", None, None).await.0, 200);
}

#[tokio::test]
async fn the_existing_routes_refuse_the_wrong_callers_in_their_form() {
    let server = Server::start().await;
    let phone = server.phone(PHONE);
    let idle = server.user("idle", "Broadcast");
    let body = json!({ "recipientPhoneNumber": "771234567", "messageContent": "x" }).to_string();
    let existing = routes::all().iter().filter(|route| route.is_legacy && route.who != Who::Anyone);
    let mut count = 0;
    for (method, path) in existing.map(|route| (route.method.as_str(), route.path)) {
        count += 1;
        let body = (method == "POST").then_some(body.as_str());
        let (status, answer) = server.request(method, path, None, body).await;
        assert_eq!((status, &answer["error"]["code"]), (401, &json!("unauthenticated")), "{path}");
        let (status, _) = server.request(method, path, Some("esh_nonsense"), body).await;
        assert_eq!(status, 401, "{path}");
        let wrong = if path.ends_with("/pending-messages") { &idle } else { &phone };
        let (status, answer) = server.request(method, path, Some(wrong), body).await;
        assert_eq!(status, 403, "{path}: {answer}");
        assert!(answer["error"]["message"].is_string());
        if method == "POST" {
            assert_eq!(server.request(method, path, Some(&idle), body).await.0, 403, "{path}");
        }
    }
    assert_eq!(count, 6);
}

#[tokio::test]
async fn existing_apps_and_programs_talk_to_each_other() {
    let server = Server::start().await;
    let wait = Duration::from_secs(10);
    let made = run_json(
        &server.data(),
        &["user", "add", "shop", "--permission", "Chat", "--phone", "+967780000001"],
    );
    assert!(made["id"].is_string());
    let (shop, phone) = (server.token(&["--user", "shop"]), server.phone(PHONE));
    let mut app = connect(&server, "/online-mobile-user", &phone).await;
    let mut program = connect(&server, "/business-user", &shop).await;
    let said = json!({
        "id": "01a20a1b-7317-71ae-8f98-eacc86509605", "from": "771234567",
        "mobileAccount": "780000001", "content": "hello?",
    });
    app.call("SendMessage", vec![said.clone()], wait).await.unwrap();
    // A repeat is none.
    app.call("SendMessage", vec![said], wait).await.unwrap();
    let (target, text) = called(&mut program).await;
    assert_eq!(target, "ReceiveChatMessage");
    let expected = json!({
        "Id": text["Id"], "CreatorId": null, "RecipientPhoneNumber": "967780000001",
        "MessageContent": "hello?", "Status": 0, "From": "967771234567", "AccessUrl": null,
        "UrlExpiresAt": null, "MessageId": text["Id"], "SenderId": null,
        "ReceipientMobileNumber": null, "MobileAccount": "967780000001", "Content": "hello?",
    });
    assert_eq!(text, expected);
    let answer = json!({
        "senderId": made["id"], "messageId": "01a20a1b-7317-71ae-8f98-eacc86509606",
        "content": "hello!", "mobileAccount": "967780000001",
        "receipientMobileNumber": "967771234567",
    });
    let done = program.call("SendMessage", vec![answer], wait).await.unwrap();
    assert_eq!(done, Value::Null, "nothing is returned there");
    let (target, text) = called(&mut app).await;
    let expected = json!({
        "Id": text["Id"], "CreatorId": made["id"], "RecipientPhoneNumber": "967771234567",
        "MessageContent": "hello!", "Status": 0, "From": "shop", "AccessUrl": null,
        "UrlExpiresAt": null, "MessageId": text["Id"], "SenderId": made["id"],
        "ReceipientMobileNumber": "967771234567", "MobileAccount": "967780000001",
        "Content": "hello!",
    });
    assert_eq!((target.as_str(), &text), ("ReceiveChatMessage", &expected));
    // Nobody speaks for another number.
    let forged = json!({ "from": "770000009", "mobileAccount": "780000001", "content": "x" });
    let error = app.call("SendMessage", vec![forged], wait).await.unwrap_err();
    assert!(error.to_string().contains("from must be your own number"), "{error}");
    let forged = json!({
        "mobileAccount": "780000009", "receipientMobileNumber": "771234567", "content": "x",
    });
    let error = program.call("SendMessage", vec![forged], wait).await.unwrap_err();
    assert!(error.to_string().contains("from must be your own number"), "{error}");
}

/// Existing programs have no word for "I have it", so their transport's answers have to do.
#[tokio::test]
async fn what_came_to_an_existing_program_is_delivered_and_not_told_again() {
    let server = Server::start().await;
    let wait = Duration::from_secs(10);
    run_json(
        &server.data(),
        &["user", "add", "shop", "--permission", "Chat", "--phone", "+967780000001"],
    );
    let (shop, phone) = (server.token(&["--user", "shop"]), server.phone(PHONE));
    let mut app = connect(&server, "/online-mobile-user", &phone).await;
    let say = |content: &str| {
        vec![json!({ "from": "771234567", "mobileAccount": "780000001", "content": content })]
    };
    app.call("SendMessage", say("waiting"), wait).await.unwrap();
    let mut program = connect(&server, "/business-user", &shop).await;
    // It knows no call for what waited.
    let (target, waiting) = called(&mut program).await;
    assert_eq!((target.as_str(), &waiting["Content"]), ("ReceiveChatMessage", &json!("waiting")));
    app.call("SendMessage", say("live"), wait).await.unwrap();
    let (target, live) = called(&mut program).await;
    assert_eq!((target.as_str(), &live["Content"]), ("ReceiveChatMessage", &json!("live")));
    let delivered = async {
        for text in [&waiting, &live] {
            server.wait_status(&phone, text["Id"].as_str().unwrap(), "delivered").await;
        }
        // An unacknowledged message would come again by now.
        tokio::time::sleep(Duration::from_secs(7)).await;
    };
    tokio::select! {
        (_, again) = called(&mut program) => panic!("told again: {again}"),
        () = delivered => {}
    }
}
