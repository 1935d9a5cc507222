//! Watching and emptying an installation from elsewhere: `top` and `drain` over the admin API.

use std::time::{Duration, Instant};

use esh3ar::client::HubClient;
use serde_json::{Value, json};

use crate::{
    remote::{Elsewhere, said},
    support::{BINARY, DEADLINE, Server, number},
    top::{HASTY, SILENT, Tmux, reach_everything, with_some_of_each},
};

/// What is shown by both, but for what moves with time.
fn still(mut stats: Value) -> Value {
    for moving in ["at", "series", "recent", "nodes", "database"] {
        stats.as_object_mut().unwrap().remove(moving);
    }
    stats
}

#[tokio::test]
async fn the_figures_are_the_same_from_elsewhere() {
    let server = Server::start_with(HASTY).await;
    let shop = server.user("shop", "SendMessages");
    let root = server.user("root", "Admin");
    with_some_of_each(&server, &shop).await;
    let elsewhere = Elsewhere::new(&server, &root);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (here, there) =
            (server.run_json(&["top", "--once"]), elsewhere.json(&["top", "--once"]));
        assert_eq!(
            here.as_object().unwrap().keys().collect::<Vec<_>>(),
            there.as_object().unwrap().keys().collect::<Vec<_>>()
        );
        // What the page says of failures is said of the last two minutes.
        let failed = &there["recent"]["failed"];
        if here["sinceStart"]["failed"] == 2
            && *failed == 2
            && reach_everything(&there)
            && still(here.clone()) == still(there.clone())
        {
            break;
        }
        assert!(Instant::now() < deadline, "{here:#}\n{there:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let page = elsewhere.run(&["top"]);
    let text = String::from_utf8_lossy(&page.stdout).into_owned();
    for wanted in ["WARN delivery: 2 failed", "Dead letters 2", "high"] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}{}", said(&page));
    }
    let refused = Elsewhere::new(&server, &shop).run(&["top", "--once"]);
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
}

#[tokio::test]
async fn the_dashboard_is_driven_by_hand_from_elsewhere() {
    let server = Server::start_with(HASTY).await;
    let shop = server.user("shop", "SendMessages");
    let root = server.user("root", "Admin");
    let lost = with_some_of_each(&server, &shop).await;
    let elsewhere = Elsewhere::new(&server, &root);
    let token = elsewhere.folder.path().join("token");
    let line = format!(
        "LC_ALL=C.UTF-8 ESH3AR__DATA_DIR={0}/none {BINARY} top --url {1} --token-file {2}; \
         echo status=$?; cat",
        elsewhere.folder.path().display(),
        server.base,
        token.display()
    );
    let terminal = Tmux::start(elsewhere.folder.path(), 100, 30, &line);
    let screen = terminal.shows("▸Dead letters 2").await;
    assert!(screen.contains("+967*******67") && !screen.contains(SILENT), "{screen}");
    let log = |action: &str| server.run_json(&["audit", "access", "--action", action]);
    assert_eq!(log("recipient.list"), json!([]), "masked numbers are nobody's");
    assert_eq!(log("dead_letter.list"), json!([]));
    terminal.keys(&["n"]);
    terminal.shows(SILENT).await;
    let shown = log("recipient.list");
    assert_eq!((&shown[0]["actor"], &shown[0]["phone"]), (&json!("root"), &json!(SILENT)));
    terminal.keys(&["n"]);
    terminal.shows("+967*******67").await;
    terminal.keys(&["n"]);
    terminal.shows(SILENT).await;
    assert_eq!(log("recipient.list").as_array().unwrap().len(), 1, "each once");
    terminal.keys(&["/"]);
    terminal.keys(&["-l", &lost[0]]);
    terminal.keys(&["Enter"]);
    terminal.shows("Dead letters 1 of 2").await;
    terminal.keys(&["Enter"]);
    let story = terminal.shows("Verdict").await;
    assert!(story.contains(&lost[0]) && story.contains("recipient · delivery"), "{story}");
    terminal.keys(&["r"]);
    terminal.shows("Press y to requeue it").await;
    terminal.keys(&["y"]);
    terminal.shows("requeued").await;
    server.wait_status(&shop, &lost[0], "pending").await;
    let requeued = log("dead_letter.requeue");
    assert_eq!((&requeued[0]["actor"], &requeued[0]["outcome"]), (&json!("root"), &json!("done")));
    terminal.keys(&["q"]);
    terminal.shows("status=0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_emptied_from_elsewhere() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("shop", "SendMessages");
    let elsewhere = Elsewhere::new(&server, &root);
    let token = server.phone(&number(1));
    let mut hubs: Vec<HubClient> = Vec::new();
    for _ in 0..3 {
        hubs.push(server.hub(&token).await);
    }
    let leaving: Vec<_> = hubs
        .into_iter()
        .map(|mut hub| tokio::spawn(async move { while hub.next().await.is_ok() {} }))
        .collect();
    let drained = {
        let mut drain = elsewhere.asking(&["drain", "--reason", "new kernel", "-o", "json"]);
        tokio::task::spawn_blocking(move || drain.output().unwrap()).await.unwrap()
    };
    assert!(drained.status.success(), "{}", said(&drained));
    let view: Value = serde_json::from_slice(&drained.stdout).unwrap();
    assert_eq!(view, json!({ "state": "drained", "connections": 0 }));
    for hub in leaving {
        tokio::time::timeout(DEADLINE, hub).await.expect("told to leave").unwrap();
    }
    assert_eq!(server.request("GET", "/health/ready", None, None).await.0, 503);
    assert!(HubClient::connect(&server.base, &token).await.is_err(), "no new connections");
    server.send(&shop, &number(1), "sent while it drains").await;
    let log = elsewhere.json(&["audit", "access", "--action", "node.drain"]);
    assert_eq!(
        (&log[0]["actor"], &log[0]["reason"], &log[0]["details"]["draining"]),
        (&json!("root"), &json!("new kernel"), &json!(true)),
        "{log}"
    );
    // By its name, on the server's side too.
    let nodes = server.request("GET", "/api/v1/admin/nodes", Some(&root), None).await.1;
    let node = nodes["items"].as_array().unwrap().iter().find(|node| node["role"] != "worker");
    let (id, host) = (&node.unwrap()["id"], &node.unwrap()["host"]);
    assert_eq!(node.unwrap()["draining"], true);
    let undone = server.run_json(&["drain", "--undo", "--node", id.as_str().unwrap()]);
    assert_eq!(undone["state"], "serving");
    assert_eq!(server.request("GET", "/health/ready", None, None).await.0, 200);
    let again = elsewhere.json(&["drain", "--node", host.as_str().unwrap()]);
    assert_eq!(again["state"], "drained");
    assert_eq!(elsewhere.json(&["drain", "--undo"])["state"], "serving");
    server.hub(&token).await.close().await;
    // What is not there, and who may not.
    for name in ["0000000000000000", "nonsense"] {
        assert_eq!(elsewhere.run(&["drain", "--node", name]).status.code(), Some(4));
        let path = format!("/api/v1/admin/nodes/{name}/drain");
        assert_eq!(server.request("POST", &path, Some(&root), None).await.0, 404);
    }
    let refused = Elsewhere::new(&server, &shop).run(&["drain"]);
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
}

#[tokio::test]
async fn a_process_is_shown_as_it_is_until_it_has_taken_up_what_it_was_asked() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let database = server.database().await;
    let silent = "INSERT INTO nodes (id, role, host, pid, version, partitions, draining, figures, started_at,
                                     seen_at)
                  VALUES ('\\x00000000000000aa', 'gateway', 'gw-2', 1, '0.1.0', '{}', false, '{}', now(),
                          now())";
    database.batch_execute(silent).await.unwrap();
    let path = "/api/v1/admin/nodes/00000000000000aa/drain";
    let (status, node) = server.request("POST", path, Some(&root), None).await;
    assert_eq!(status, 202, "{node}");
    assert_eq!((&node["draining"], &node["drainAsked"]), (&json!(false), &json!(true)), "{node}");
    let undo = Some(r#"{"undo":true}"#);
    let node = server.request("POST", path, Some(&root), undo).await.1;
    assert_eq!((&node["draining"], &node["drainAsked"]), (&json!(false), &json!(false)), "{node}");
    // The one that is asked itself does so at once.
    let nodes = server.request("GET", "/api/v1/admin/nodes", Some(&root), None).await.1;
    let own = nodes["items"].as_array().unwrap().iter();
    let mut own = own.filter(|node| node["role"] != "worker" && node["host"] != "gw-2");
    let path =
        format!("/api/v1/admin/nodes/{}/drain", own.next_back().unwrap()["id"].as_str().unwrap());
    let node = server.request("POST", &path, Some(&root), None).await.1;
    assert_eq!((&node["draining"], &node["drainAsked"]), (&json!(true), &json!(null)), "{node}");
}
