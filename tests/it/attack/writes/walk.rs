//! Every route and every hub method that stores something, from their tables: one party is refused past its limit,
//! and another is not.

use esh3ar::{
    client::HubClient,
    domain::Permission,
    server::{
        hub::hubs::service::Service,
        route::{Route, Who, Writes},
        routes,
    },
};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, id, number};

/// Names nothing.
const ABSENT: &str = "01a20a1b-7317-71ae-8f98-eacc86509605";
/// What each class lets through.
const MOST: usize = 3;
const LIMITS: [&str; 6] = [
    "MESSAGES_PER_MINUTE",
    "CONVERSATIONS_PER_USER_PER_HOUR",
    "CONVERSATIONS_PER_BUSINESS_USER_PER_HOUR",
    "WRITES_PER_USER_PER_MINUTE",
    "WRITES_PER_BUSINESS_USER_PER_MINUTE",
    "ADMIN_REQUESTS_PER_MINUTE",
];

/// A server with small limits, and parties that nothing was counted of yet.
struct Ground {
    server: Server,
    made: usize,
}

/// A party, and what it may name in a call.
struct Caller {
    token: String,
    /// Read, where it gives receipts.
    message: String,
    /// Its own, where it talks.
    conversation: String,
    name: String,
    phone: String,
}

impl Ground {
    async fn start() -> Ground {
        let names = LIMITS.map(|name| format!("ESH3AR__LIMITS__{name}"));
        let most = MOST.to_string();
        let limits: Vec<(&str, &str)> = names.iter().map(|name| (&**name, &*most)).collect();
        Ground { server: Server::start_with(&limits).await, made: 0 }
    }

    fn number(&mut self) -> String {
        self.made += 1;
        number(self.made)
    }

    /// Somebody who may call a row that stores this.
    async fn caller(&mut self, who: Who, writes: Writes) -> Caller {
        let phone = self.number();
        let name = format!("user {}", self.made);
        let permission = match who {
            Who::Business(permission) | Who::Either(permission) => permission,
            Who::Admin => Some(Permission::Admin),
            Who::Mobile | Who::Anyone => None,
        };
        let permission = permission.map_or("", Permission::name);
        let (mut message, mut conversation) = (ABSENT.to_owned(), ABSENT.to_owned());
        let token = if matches!(who, Who::Mobile | Who::Either(None)) {
            let mobile = self.server.phone(&phone);
            if writes == Writes::Receipts {
                let sender = self.server.user(&name, "SendMessages");
                message = self.server.send(&sender, &phone, "read").await;
                let read = format!("/api/v1/messages/{message}/read");
                assert_eq!(self.server.request("POST", &read, Some(&mobile), None).await.0, 200);
            }
            mobile
        } else {
            let user = self.server.user(&name, permission);
            if permission == "Chat" && writes != Writes::Conversations {
                self.server.phone(&phone);
                let body = json!({ "phone": phone }).to_string();
                let path = "/api/v1/conversations";
                let opened = self.server.request("POST", path, Some(&user), Some(&body)).await;
                assert_eq!(opened.0, 201, "{}", opened.1);
                conversation = id(&opened.1);
            }
            user
        };
        Caller { token, message, conversation, name, phone }
    }

    /// A body that the route takes.
    fn body(&mut self, route: &Route, caller: &Caller) -> Value {
        let to = self.number();
        let one = json!({ "to": to, "content": "x" });
        match route.path {
            "/api/v1/messages" => one,
            "/api/v1/messages/batch" => json!({ "messages": [one] }),
            "/api/v1/messages/acknowledge" => json!({ "ids": [caller.message] }),
            "/api/v1/conversations" => {
                self.server.phone(&to);
                json!({ "phone": to })
            }
            "/api/v1/conversations/{id}/messages" => json!({ "content": "x" }),
            "/api/app/message/ingestion-batch-message" => {
                json!({ "batchMessages": [{ "recipientPhoneNumber": to, "messageContent": "x" }] })
            }
            path if path.starts_with("/api/app/") => {
                json!({ "recipientPhoneNumber": to, "messageContent": "x" })
            }
            "/api/v1/admin/messages" if route.writes == Writes::Messages => {
                json!({ "from": caller.name, "to": to, "content": "x" })
            }
            _ => json!({}),
        }
    }

    async fn ask(&mut self, route: &Route, caller: &Caller) -> (u16, Value) {
        let of_conversation = route.path.contains("/conversations/");
        let id = if of_conversation { &caller.conversation } else { &caller.message };
        let path = route.path.replace("{id}", id);
        let path = path.replace("{phone}", &caller.phone.replace('+', "%2B"));
        let body = self.body(route, caller).to_string();
        let body = (route.body != esh3ar::server::route::Body::None).then_some(body);
        let method = route.method.as_str();
        self.server.request(method, &path, Some(&caller.token), body.as_deref()).await
    }
}

fn is_refused((status, answer): &(u16, Value)) -> bool {
    let code = if answer["error"].is_object() { &answer["error"]["code"] } else { &answer["code"] };
    *status == 429 && code == "rate_limited"
}

#[tokio::test]
async fn every_route_that_writes_has_a_limit_by_party() {
    let mut ground = Ground::start().await;
    let mut walked = 0;
    // Registrations have limits by phone, address, prefix, country and day: `registration::*`.
    let limited = |route: &&Route| !matches!(route.writes, Writes::Nothing | Writes::Registrations);
    for route in routes::all().iter().filter(limited) {
        let caller = ground.caller(route.who, route.writes).await;
        let what = format!("{} {}", route.method, route.path);
        for n in 0..MOST {
            let answer = ground.ask(route, &caller).await;
            assert!(!is_refused(&answer) && answer.0 < 500, "{what}, call {n}: {answer:?}");
        }
        let answer = ground.ask(route, &caller).await;
        assert!(is_refused(&answer), "{what}, past the limit: {answer:?}");
        let other = ground.caller(route.who, route.writes).await;
        let answer = ground.ask(route, &other).await;
        assert!(!is_refused(&answer) && answer.0 < 500, "{what}, another: {answer:?}");
        walked += 1;
    }
    assert!(walked > 50, "{walked}");
}

/// What a method is called with.
fn arguments(hub: Service, method: &str, caller: &Caller) -> Value {
    match (hub, method) {
        (Service::Messages, "Acknowledge") => json!([caller.message]),
        (Service::Messages, "MarkRead") => json!({ "messageIds": [caller.message] }),
        (Service::Messages, "SendMessage") => {
            json!({ "conversationId": caller.conversation, "content": "x" })
        }
        (Service::LegacyMobile, "AcknowledgeMessage") => json!(caller.message),
        (Service::LegacyBusiness, "SendMessage") => {
            json!({ "content": "x", "receipientMobileNumber": caller.phone })
        }
        _ => panic!("what is {method} called with?"),
    }
}

#[tokio::test]
async fn every_hub_method_that_writes_has_a_limit_by_party() {
    let mut ground = Ground::start().await;
    let mut walked = 0;
    for (path, hub, _) in Service::ALL {
        for method in hub.methods().iter().filter(|method| method.writes != Writes::Nothing) {
            // It names the sender's number and the business user's, and is the same call as elsewhere.
            if (hub, method.name) == (Service::LegacyMobile, "SendMessage") {
                continue;
            }
            let caller = ground.caller(method.who, method.writes).await;
            let other = ground.caller(method.who, method.writes).await;
            for (who, calls) in [(&caller, MOST + 1), (&other, 1)] {
                let connected = HubClient::connect_to(&ground.server.base, path, &who.token).await;
                let mut client = connected.unwrap();
                for n in 0..calls {
                    let argument = arguments(hub, method.name, who);
                    let answer = client.call(method.name, vec![argument], DEADLINE).await;
                    let text = answer.err().map(|error| error.to_string()).unwrap_or_default();
                    let what = format!("{path} {}, call {n}: {text}", method.name);
                    assert_eq!(text.contains("HubException: rate_limited: "), n == MOST, "{what}");
                    assert!(n == MOST || text.is_empty(), "{what}");
                }
                client.close().await;
            }
            walked += 1;
        }
    }
    assert!(walked >= 5, "{walked}");
}
