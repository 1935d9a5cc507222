//! `esh3ar top`: the figures of a running server, and the dashboard in a real terminal.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    BINARY, DEADLINE, Folder, Server, acknowledge, command, id, next_messages, number, run,
    run_json,
};

pub const SILENT: &str = "+967771234567";
/// Fails a delivery after one attempt.
pub const HASTY: &[(&str, &str)] =
    &[("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "100ms"), ("ESH3AR__RETRY__ATTEMPTS", "0")];

/// Two delivered, two given up, three waiting for somebody who is away, one of them with priority.
pub async fn with_some_of_each(server: &Server, shop: &str) -> Vec<String> {
    let prompt = server.phone(&number(1));
    let mut hub = server.hub(&prompt).await;
    for n in 0..2 {
        server.send(shop, &number(1), &format!("good {n}")).await;
        let (_, found) = next_messages(&mut hub).await;
        let ids: Vec<String> = found.iter().map(id).collect();
        acknowledge(&mut hub, &ids).await;
    }
    let silent = server.phone(SILENT);
    let _silent = server.hub(&silent).await;
    let mut lost = Vec::new();
    for n in 0..2 {
        lost.push(server.send(shop, SILENT, &format!("lost {n}")).await);
    }
    for id in &lost {
        server.wait_status(shop, id, "failed").await;
    }
    for priority in ["normal", "high", "high"] {
        let body = json!({ "to": number(9), "content": "later", "priority": priority });
        server.api(shop).post("/api/v1/messages", &body).await.unwrap();
    }
    lost
}

/// Asks until what the processes said of themselves has come that far.
async fn stats_when(server: &Server, arguments: &[&str], ready: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let stats = server.run_json(&[&["top", "--once"], arguments].concat());
        if ready(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "never ready: {stats:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn the_figures_are_those_of_the_server() {
    let server = Server::start_with(HASTY).await;
    let shop = server.user("shop", "SendMessages");
    let admin = server.user("admin", "Admin");
    with_some_of_each(&server, &shop).await;
    let stats = stats_when(&server, &[], |stats| {
        let all = &stats["sinceStart"];
        // Samples are taken a moment later than what is counted since the start.
        (all["accepted"].as_u64(), all["failed"].as_u64()) == (Some(7), Some(2))
            && (&stats["recent"]["accepted"], &stats["recent"]["failed"]) == (&json!(7), &json!(2))
    })
    .await;
    let all = &stats["sinceStart"];
    assert_eq!((&all["delivered"], &all["retries"]), (&json!(2), &json!(0)));
    let delivery = &all["deliveryMs"];
    assert!(delivery["p50"].as_u64() <= delivery["max"].as_u64() && delivery["p99"].is_u64());
    assert_eq!(stats["recent"]["accepted"], 7);
    let sum = |name: &str| {
        let samples = stats["series"][name].as_array().unwrap();
        samples.iter().map(|sample| sample.as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((sum("accepted"), sum("delivered"), sum("failed")), (7, 2, 2));
    let lanes: Vec<(&str, u64, u64)> = stats["lanes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lane| {
            assert_eq!(lane["oldestWaitingAt"].is_string(), lane["waiting"] != 0);
            let number = |name: &str| lane[name].as_u64().unwrap();
            (lane["lane"].as_str().unwrap(), number("waiting"), number("inHand"))
        })
        .collect();
    assert_eq!(lanes, [("high", 2, 0), ("normal", 1, 0), ("low", 0, 0)]);
    assert_eq!(stats["waiting"], json!({ "count": 3, "atLeast": false }));
    let dead = &stats["deadLetters"];
    assert_eq!((&dead["count"], &dead["byClass"][0]["class"]), (&json!(2), &json!("recipient")));
    assert_eq!(dead["byClass"].as_array().unwrap().len(), 1);
    let nodes = stats["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|node| node["memoryBytes"].as_u64().unwrap() > 1 << 20));
    let sees_database = |node: &Value| {
        let parts = node["parts"].as_array().unwrap();
        parts.iter().any(|part| part["name"] == "database" && part["up"] == true)
    };
    assert!(nodes.iter().all(sees_database), "{nodes:#?}");
    assert!(stats["database"]["sizeBytes"].as_u64().unwrap() > 1 << 20);
    assert!(stats["database"]["version"].is_string());
    // The same over HTTP, for administrators only.
    let (status, body) = server.request("GET", "/api/v1/admin/stats", Some(&admin), None).await;
    assert_eq!((status, &body["sinceStart"]), (200, all));
    assert_eq!(body["deadLetters"], stats["deadLetters"]);
    let (status, _) = server.request("GET", "/api/v1/admin/stats", Some(&shop), None).await;
    assert_eq!(status, 403);
    let (status, problem) =
        server.request("GET", "/api/v1/admin/stats?numbers=maybe", Some(&admin), None).await;
    assert_eq!((status, &problem["errors"]["numbers"][0]["code"]), (400, &json!("unknown")));
    // Processes tell of what they reach every few seconds, and these have only just begun.
    let deadline = Instant::now() + DEADLINE;
    while !reach_everything(&server.run_json(&["top", "--once"])) {
        assert!(Instant::now() < deadline, "a process does not reach something");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // For people, without a terminal: a page of text, and no number in it.
    let page = command(&server.data()).envs(server.environment()).arg("top").output().unwrap();
    let page = text(&page);
    for wanted in ["WARN delivery: 2 failed", "accepted", "Dead letters 2", "high"] {
        assert!(page.contains(wanted), "{wanted} is not in\n{page}");
    }
}

/// Whether every process has said that it reaches all that it needs.
pub fn reach_everything(stats: &Value) -> bool {
    let nodes = stats["nodes"].as_array().unwrap();
    let mut parts = nodes.iter().flat_map(|node| node["parts"].as_array().unwrap());
    parts.all(|part| part["up"] == true)
}

#[tokio::test]
async fn who_is_slow_is_named_and_masked() {
    let server = Server::start_with(&[("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "30s")]).await;
    let shop = server.user("shop", "SendMessages");
    let phone = server.phone(SILENT);
    let mut hub = server.hub(&phone).await;
    let first = server.send(&shop, SILENT, "one").await;
    server.send(&shop, SILENT, "two").await;
    next_messages(&mut hub).await;
    let slow = |stats: &Value| stats["slowest"][0]["inHand"] == 2 && stats["connections"] == 1;
    let stats = stats_when(&server, &[], slow).await;
    let found = &stats["slowest"][0];
    assert_eq!(found["recipient"], "+967*******67");
    assert_eq!((&found["oldestMessageId"], &found["retries"]), (&json!(first), &json!(0)));
    let stats = stats_when(&server, &["--numbers"], slow).await;
    assert_eq!(stats["slowest"][0]["recipient"], SILENT);
    assert_eq!(stats["inHand"]["count"], 2);
    // Whose numbers were shown is recorded; masked ones are nobody's.
    let log = server.run_json(&["audit", "access", "--action", "recipient.list"]);
    assert!(!log.as_array().unwrap().is_empty(), "{log:#}");
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn without_a_database_it_says_so() {
    let folder = Folder::new();
    let output = command(&folder.data())
        .env("ESH3AR__DATABASE__URL", "postgres://nobody@127.0.0.1:1/none")
        .args(["top", "--once", "-o", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(run(&folder.data(), &["top", "--every"]).status.code(), Some(2));
}

/// A terminal of a given size, in a server of its own.
pub struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    /// Runs a shell line in it.
    pub fn start(folder: &Path, width: u16, height: u16, line: &str) -> Tmux {
        let tmux = Tmux { socket: folder.join("tmux.sock") };
        let (width, height) = (width.to_string(), height.to_string());
        let size = ["-x", &width, "-y", &height];
        let shell = format!("exec sh -c '{line}'");
        let new = [&["-f", "/dev/null", "new-session", "-d"], &size[..], &[&shell]].concat();
        tmux.ask(&new);
        tmux
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.arg("-u").arg("-S").arg(&self.socket).args(arguments);
        text(&tmux.env("LC_ALL", "C.UTF-8").env_remove("TMUX").output().expect("tmux"))
    }

    pub fn keys(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows something.
    pub async fn shows(&self, wanted: &str) -> String {
        self.until(wanted, |screen| screen.contains(wanted)).await
    }

    async fn until(&self, what: &str, right: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen();
            if right(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{what} did not come:\n{screen}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut tmux = Command::new("tmux");
        let _ = tmux.arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

#[tokio::test]
async fn a_panic_gives_the_terminal_back() {
    let folder = Folder::seeded();
    run_json(&folder.data(), &["user", "add", "Shop"]);
    let line = "before=$(stty -g); RUST_BACKTRACE=0 ESH3AR_FAILPOINT=top_draw LC_ALL=C.UTF-8 ";
    let line = format!(
        "{line} {BINARY} --data-dir {} top; echo status=$?; \
         test \"$before\" = \"$(stty -g)\" && echo restored; cat",
        folder.data().display()
    );
    let terminal = Tmux::start(folder.path(), 100, 30, &line);
    let screen = terminal.shows("restored").await;
    assert!(screen.contains("a test wanted this") && screen.contains("status=101"), "{screen}");
    let modes = terminal.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
    assert_eq!(modes.trim(), "0 1", "the usual screen, with a cursor");
}

/// The line that starts the dashboard, then tells its exit status and whether the terminal is as it was.
fn line(server: &Server, arguments: &str) -> String {
    let environment: String =
        server.environment().map(|(name, value)| format!("{name}=\"{value}\" ")).collect();
    format!(
        "before=$(stty -g); {environment} LC_ALL=C.UTF-8 {BINARY} --data-dir {} top {arguments}; \
         echo status=$?; test \"$before\" = \"$(stty -g)\" && echo restored; cat",
        server.data().display()
    )
}

#[tokio::test]
async fn driven_by_hand_in_a_terminal() {
    let server = Server::start_with(HASTY).await;
    let shop = server.user("shop", "SendMessages");
    let lost = with_some_of_each(&server, &shop).await;
    let terminal = Tmux::start(server.folder.path(), 80, 24, &line(&server, ""));
    let screen = terminal.shows("▸Dead letters 2").await;
    for wanted in ["Flow", "Waiting 3", "Processes", "OK   database", "+967*******67", "q quit"] {
        assert!(screen.contains(wanted), "{wanted}:\n{screen}");
    }
    terminal.keys(&["?"]);
    terminal.shows("Any key closes this").await;
    terminal.keys(&["Escape"]);
    // Until then what follows would be read as one key with it.
    terminal.until("the end of help", |screen| !screen.contains("Any key closes this")).await;
    terminal.keys(&["/", "z", "z", "z"]);
    terminal.shows("Dead letters 0 of 2").await;
    terminal.keys(&["Escape"]);
    terminal.shows("▸Dead letters 2").await;
    // By the id of the first that failed, so that it is known which one is opened.
    terminal.keys(&["/"]);
    terminal.keys(&["-l", &lost[0]]);
    terminal.keys(&["Enter"]);
    terminal.shows("Dead letters 1 of 2").await;
    terminal.keys(&["Enter"]);
    let story = terminal.shows("Verdict").await;
    assert!(story.contains(&lost[0]) && story.contains("recipient · delivery"), "{story}");
    terminal.keys(&["r"]);
    terminal.shows("Press y to requeue it").await;
    terminal.keys(&["x"]);
    terminal.shows("cancelled").await;
    assert_eq!(server.status(&shop, &lost[0]).await, "failed");
    terminal.keys(&["r"]);
    terminal.shows("Press y to requeue it").await;
    terminal.keys(&["y"]);
    terminal.shows("requeued").await;
    server.wait_status(&shop, &lost[0], "pending").await;
    terminal.keys(&["Escape"]);
    terminal.shows("▸Dead letters 1").await;
    // In another size everything is drawn anew.
    terminal.ask(&["resize-window", "-x", "140", "-y", "40"]);
    terminal.shows("MEMORY").await;
    terminal.ask(&["resize-window", "-x", "40", "-y", "10"]);
    terminal.until("one panel", |screen| !screen.contains("Flow")).await;
    terminal.keys(&["q"]);
    let after = terminal.shows("status=0").await;
    terminal.shows("restored").await;
    assert!(!after.contains("Dead letters"), "the dashboard is gone:\n{after}");
}

#[tokio::test]
async fn a_database_that_goes_is_told_and_comes_back() {
    let mut server = Server::start().await;
    let terminal = Tmux::start(server.folder.path(), 100, 30, &line(&server, "--readonly"));
    terminal.shows("OK   all healthy").await;
    server.stop().await;
    let screen = terminal.shows("FAIL").await;
    assert!(screen.contains("Processes 1") && screen.contains("read only"), "{screen}");
    // What it has is kept, and grows old.
    terminal.until("old data", |screen| screen.contains("OK   database")).await;
    server.launch().await;
    terminal.shows("OK   all healthy").await;
    // A service manager or a closed window ends it in order, too.
    let pid = terminal.ask(&["list-panes", "-F", "#{pane_pid}"]);
    let found = Command::new("pgrep").args(["-P", pid.trim()]).output().unwrap();
    let pid = text(&found).lines().next().unwrap().trim().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    terminal.shows("status=0").await;
    terminal.shows("restored").await;
}
