//! Several connections of one user: each gets everything, whichever of them acknowledges first
//! (docs/DELIVERY.md, Acknowledgement).

use std::process::Command;

use esh3ar::{
    bench::checker::{History, ReceivedMessage, SendOutcome, SentMessage},
    domain::MessageId,
};
use serde_json::Value;

use crate::{
    foreign_clients::node,
    support::{Server, cluster::Cluster, in_cluster},
};

/// What the clients wrote down. Nothing is excused by having been told to be missed: nothing was broken.
fn history(text: &str) -> History {
    let mut history = History::new();
    let mut shown = std::collections::HashSet::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| entry[name].as_u64();
        let small = |name: &str| u32::try_from(number(name).unwrap()).unwrap();
        let id = || entry["id"].as_str().map(|id| MessageId(id.parse().unwrap()));
        let place = || {
            let conversation: uuid::Uuid = entry["conversation"].as_str()?.parse().unwrap();
            Some((conversation.as_u64_pair().1, entry["seq"].as_i64()?))
        };
        if let Some(connection) = number("opened") {
            history.opened(
                u32::try_from(connection).unwrap(),
                small("recipient"),
                number("at").unwrap(),
            );
        } else if let Some(connection) = number("closed") {
            history.closed(u32::try_from(connection).unwrap());
        } else if let Some(tag) = number("sent") {
            history.sent(SentMessage {
                tag,
                sender: small("sender"),
                recipient: small("recipient"),
                lane: 1,
                began: number("began").unwrap(),
                ended: number("ended").unwrap(),
                outcome: id().map_or(SendOutcome::Unknown, SendOutcome::Accepted),
                place: place(),
            });
        } else if number("got").is_some() {
            let (tag, recipient) = (number("tag").unwrap(), small("recipient"));
            history.received(ReceivedMessage {
                connection: small("got"),
                recipient,
                tag,
                id: id().unwrap(),
                place: place(),
                shown: shown.insert((recipient, tag)),
                retry: entry["retry"] == true,
            });
        }
    }
    history
}

async fn each_gets_everything(one: &Server, other: &Server, mut command: Command) {
    let path = one.folder.path().join("history");
    command
        .env("BASE", &one.base)
        .env("OTHER", &other.base)
        .env("SHOP", one.user("shop", "SendMessages,Chat"))
        .env("PHONE", one.phone("+967771234567"))
        .env("NUMBER", "+967771234567")
        .env("HISTORY", &path);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let history = history(&text);
    let report = history.check();
    assert!(report.is_clean(), "{report}\n{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(history.accepted() >= 590, "{} were accepted\n{said}", history.accepted());
    let opened = text.lines().filter(|line| line.starts_with("{\"opened\"")).count();
    assert!(opened > 20, "only {opened} connections: nobody came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_of_a_user_gets_everything_whichever_acknowledges_first() {
    let Some(command) = node("siblings.test.mjs") else { return };
    if in_cluster() {
        let Some(cluster) = Cluster::start(2, 1).await else { return };
        each_gets_everything(&cluster.gateways[0], &cluster.gateways[1], command).await;
    } else {
        let server = Server::start().await;
        each_gets_everything(&server, &server, command).await;
    }
}
