//! What is long or changes much, over the admin API: everything of a number given out and erased, and what
//! the existing system had taken over. The same
//! output as on the server, and nothing half true when somebody goes away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    erase::{a_life, rows_with},
    import::{MESSAGES, answer, lines, written},
    remote::{Elsewhere, said},
    support::{DEADLINE, Server, number},
};

const GONE: &str = "+967770000001";
const STAYS: &str = "+967770000002";

#[tokio::test]
async fn everything_of_a_number_is_given_out_and_erased_from_elsewhere() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages,Chat");
    let elsewhere = Elsewhere::new(&server, &root);
    let (gone, _) = a_life(&server, &shop, GONE).await;
    let (stays, _) = a_life(&server, &shop, STAYS).await;
    drop((gone, stays));
    // When it was here last is noted a moment later.
    let deadline = Instant::now() + DEADLINE;
    while !String::from_utf8_lossy(&server.run(&["mobile", "export", GONE]).stdout)
        .contains("disconnectReason\":\"")
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for format in ["json", "jsonl", "table"] {
        let arguments = ["mobile", "export", GONE, "-o", format];
        let (here, there) = (server.run(&arguments), elsewhere.run(&arguments));
        assert!(there.status.success(), "{}", said(&there));
        assert_eq!(there.stdout, here.stdout, "{format}");
    }
    let out = elsewhere.folder.path().join("all.jsonl");
    let out = out.to_str().unwrap();
    let output = elsewhere.run(&["mobile", "export", GONE, "--out", out]);
    assert!(said(&output).contains("records to"), "{}", said(&output));
    assert_eq!(std::fs::read(out).unwrap(), server.run(&["mobile", "export", GONE]).stdout);
    let log = elsewhere.json(&["audit", "access", "--action", "mobile.export", "--phone", GONE]);
    assert!(log.as_array().unwrap().iter().any(|entry| entry["actor"] == "root"), "{log}");

    let dry = ["mobile", "erase", GONE, "--dry-run"];
    let without_log = |mut report: Value| {
        report["erased"].as_array_mut().unwrap().retain(|line| line["what"] != "auditEntries");
        report
    };
    let (here, there) = (server.run_json(&dry), elsewhere.json(&dry));
    assert_eq!(without_log(there.clone()), without_log(here));
    let unasked = elsewhere.run(&["mobile", "erase", GONE]);
    assert_eq!(unasked.status.code(), Some(5), "{}", said(&unasked));
    let others = rows_with(&server, STAYS).await;
    let report = elsewhere.json(&[
        "mobile",
        "erase",
        GONE,
        "--yes",
        "--reason",
        format!("by {GONE}").as_str(),
    ]);
    let counts = |report: &Value| {
        let lines = report["erased"].as_array().unwrap().iter();
        let stored = lines.filter(|line| line["store"] == "database");
        stored.map(|line| (line["what"].clone(), line["count"].clone())).collect::<Vec<_>>()
    };
    assert_eq!((&report["phone"], &report["dryRun"]), (&json!(GONE), &json!(false)));
    let (report, dry) = (without_log(report), without_log(there));
    assert_eq!(counts(&report), counts(&dry));
    assert_eq!(rows_with(&server, GONE).await, []);
    for (table, count) in others.iter().filter(|(table, _)| !table.starts_with("audit_log")) {
        let after = rows_with(&server, STAYS).await;
        assert!(after.contains(&(table.clone(), *count)), "{table}: {after:?}");
    }
    let log = elsewhere.json(&["audit", "access", "--action", "mobile.erase"]);
    assert_eq!(
        (&log[0]["actor"], &log[0]["reason"], &log[1]["details"]["begun"]),
        (&json!("root"), &json!("by +967*******01"), &json!(true)),
        "{log}"
    );
    for verb in [&["mobile", "export", GONE][..], &["mobile", "erase", GONE, "--yes"]] {
        let output = elsewhere.run(verb);
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert_eq!(said(&output), said(&server.run(verb)));
    }
    let output = elsewhere.run(&["mobile", "erase", "12", "--yes"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let path = format!("/api/v1/admin/mobile-users/{}/erase", GONE.replace('+', "%2B"));
    let (status, problem) =
        server.request("POST", &path, Some(&root), Some(r#"{"dry":true}"#)).await;
    assert_eq!((status, &problem["code"]), (400, &json!("unknown_field")));
}

#[tokio::test]
async fn an_erasure_goes_on_when_who_asked_for_it_goes_away() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages,Chat");
    let (_gone, _) = a_life(&server, &shop, GONE).await;
    let elsewhere = Elsewhere::new(&server, &root);
    let mut asking = elsewhere.asking(&["mobile", "erase", GONE, "--yes"]).spawn().unwrap();
    let log = |server: &Server| server.run_json(&["audit", "access", "--action", "mobile.erase"]);
    let deadline = Instant::now() + DEADLINE;
    while log(&server)[0]["details"]["begun"] != true {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It waits two seconds until nobody lets the phone in any more.
    asking.kill().unwrap();
    asking.wait().unwrap();
    while !log(&server)[0]["details"]["messages"].is_number() {
        assert!(Instant::now() < deadline, "{}", log(&server));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while !rows_with(&server, GONE).await.is_empty() {
        assert!(Instant::now() < deadline, "{:?}", rows_with(&server, GONE).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_breaks_off_is_not_taken_for_whole() {
    let mut server = Server::start().await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages");
    server.phone(GONE);
    server.send(&shop, GONE, "first").await;
    // More than is under way between two processes that do not read.
    let database = server.database().await;
    database
        .batch_execute(
            "INSERT INTO messages (id, sender_user_id, recipient_phone, content, created_at)
             SELECT ('01900000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid,
                    (SELECT id FROM business_users WHERE name = 'Shop'), '+967770000001',
                    repeat('x', 9000), now()
             FROM generate_series(1, 3000) AS n",
        )
        .await
        .unwrap();
    drop(database);
    let elsewhere = Elsewhere::new(&server, &root);
    // Its output is not read until the server is gone.
    let mut asking = elsewhere.asking(&["mobile", "export", GONE]);
    asking.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let asking = asking.spawn().unwrap();
    let deadline = Instant::now() + DEADLINE;
    while server.run_json(&["audit", "access", "--action", "mobile.export"]) == json!([]) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.kill();
    let output = tokio::task::spawn_blocking(move || asking.wait_with_output()).await;
    let output = output.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    assert!(said(&output).contains("the export is incomplete"), "{}", said(&output));
    server.launch().await;
    let whole = elsewhere.run(&["mobile", "export", GONE]);
    assert!(whole.status.success(), "{}", said(&whole));
    let lines = whole.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert!(lines > 3000, "{lines}");
}

#[tokio::test]
async fn what_the_existing_system_had_is_taken_over_from_elsewhere() {
    let server = Server::start().await;
    let root = server.user("root", "Admin");
    let elsewhere = Elsewhere::new(&server, &root);
    let user = server.run_json(&["user", "add", "Old shop", "--permission", "SendMessages"]);
    let text = MESSAGES.replace("USER", user["id"].as_str().unwrap());
    let file = written(&elsewhere.folder, "EtMessages.csv", &text);
    let import = |more: &[&str]| {
        elsewhere.run(&[&["import", "messages", &file, "-o", "json"], more].concat())
    };
    let dry = ["import", "messages", &file, "-o", "json", "--dry-run"];
    let (here, there) = (server.run(&dry), elsewhere.run(&dry));
    assert_eq!((&there.stdout, said(&there)), (&here.stdout, said(&here)));
    assert_eq!(server.run_json(&["message", "list"]), json!([]));
    let first = answer(&import(&["--reason", "moving"]), 3);
    assert_eq!(
        (&first["read"], &first["imported"], &first["rejected"], &first["unknownSenders"]),
        (&json!(9), &json!(5), &json!(4), &json!(1)),
        "{first}"
    );
    let rejected = lines(first["rejectFile"].as_str().unwrap());
    let told: Vec<u64> = rejected.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(told, [7, 8, 9, 11]);
    assert_eq!(rejected[3]["raw"], "too,short");
    // What is refused there is written here as it is refused on the server.
    let rejects = written(&server.folder, "EtMessages.csv", &text);
    let here = answer(&server.run(&["import", "messages", &rejects, "-o", "json"]), 3);
    assert_eq!(lines(here["rejectFile"].as_str().unwrap()), rejected);
    assert_eq!((&here["imported"], &here["alreadyThere"]), (&json!(0), &json!(5)));
    let log = elsewhere.json(&["audit", "access", "--action", "message.import", "--actor", "root"]);
    assert_eq!(
        (&log[0]["reason"], &log[0]["details"]),
        (
            &json!("moving"),
            &json!({ "file": "EtMessages.csv", "imported": 5, "alreadyThere": 0, "rejected": 3 })
        ),
        "{log}"
    );
    let of_it = ["message", "explain", "11111111-0000-4000-8000-000000000001"];
    let told = server.run_json(&of_it)["steps"].to_string();
    assert!(told.contains("from EtMessages.csv by root"), "{told}");
    // Nobody adds to an import of somebody else's.
    let other = server.user("other", "Admin");
    let body = json!({ "rows": [{ "Id": 1 }], "import": log[0]["id"] }).to_string();
    let path = "/api/v1/admin/import/messages";
    assert_eq!(server.request("POST", path, Some(&root), Some(&body)).await.0, 200);
    assert_eq!(server.request("POST", path, Some(&other), Some(&body)).await.0, 404);
    let nobody = import(&["--from", "nobody", "--rejects", "elsewhere.jsonl"]);
    assert_eq!(nobody.status.code(), Some(4), "{}", said(&nobody));

    let users = "{\"Id\":\"x\",\"MobileNumber\":\"967770000003\",\"Status\":1}\n\
                 {\"Id\":\"y\",\"MobileNumber\":\"nobody\"}\n";
    let file = written(&elsewhere.folder, "EtMobileUsers.jsonl", users);
    let done = answer(&elsewhere.run(&["import", "users", &file, "-o", "json"]), 3);
    assert_eq!((&done["imported"], &done["rejected"]), (&json!(1), &json!(1)), "{done}");
    assert_eq!(server.run_json(&["mobile", "show", "+967770000003"])["status"], "verified");
    // A call has its limits.
    let path = "/api/v1/admin/import/users";
    let too_many = json!({ "rows": vec![json!({}); 501] }).to_string();
    for (body, code) in [(r#"{"rows":[]}"#, 400), (&too_many, 400), (r#"{"rows":[1]}"#, 400)] {
        let (status, problem) = server.request("POST", path, Some(&root), Some(body)).await;
        assert_eq!(status, code, "{problem}");
    }
}

#[tokio::test]
async fn an_import_that_is_broken_off_is_stored_as_far_as_the_log_says() {
    const ROWS: usize = 2600;
    let mut server = Server::start().await;
    let root = server.user("root", "Admin");
    let elsewhere = Elsewhere::new(&server, &root);
    let row = |n: usize| {
        let number = format!("96777{n:07}");
        let row = json!({ "Id": n, "MobileNumber": number, "Status": 1, "Note": "x".repeat(2000) });
        format!("{row}\n")
    };
    let text: String = (0..ROWS).map(row).collect();
    let file = written(&elsewhere.folder, "users.jsonl", &text);
    let mut asking = elsewhere.asking(&["import", "users", &file]).spawn().unwrap();
    let log = ["audit", "access", "--action", "user.import", "--limit", "1000"];
    let deadline = Instant::now() + DEADLINE;
    while server.run_json(&log) == json!([]) {
        assert!(Instant::now() < deadline);
    }
    server.kill();
    asking.wait().unwrap();
    server.launch().await;
    let recorded = |server: &Server| {
        let log = server.run_json(&log);
        let entries = log.as_array().unwrap().iter();
        entries.map(|entry| entry["details"]["imported"].as_u64().unwrap()).sum::<u64>()
    };
    let stored = async |server: &Server| {
        let database = server.database().await;
        let row = database.query_one("SELECT count(*) FROM mobile_users", &[]).await.unwrap();
        u64::try_from(row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(
        recorded(&server),
        stored(&server).await,
        "what is stored is in the log, and no more"
    );
    let again = elsewhere.json(&["import", "users", &file]);
    assert_eq!(again["imported"].as_u64().unwrap() + again["alreadyThere"].as_u64().unwrap(), 2600);
    assert_eq!((recorded(&server), stored(&server).await), (2600, 2600));
}

#[tokio::test(flavor = "multi_thread")]
async fn erasures_leave_connections_to_others_and_end_before_a_stop() {
    let mut server = Server::start_with(&[("ESH3AR__DATABASE__POOL_SIZE", "4")]).await;
    let root = server.user("root", "Admin");
    let shop = server.user("Shop", "SendMessages");
    for n in 1..=6 {
        server.send(&shop, &number(n), "first").await;
    }
    let mut database = server.database().await;
    // Those that have begun have to wait for this.
    let transaction = database.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE mobile_users IN EXCLUSIVE MODE").await.unwrap();
    let erase = |server: &Server, n| {
        let phone = number(n).replace('+', "%2B");
        let path = format!("{}/api/v1/admin/mobile-users/{phone}/erase", server.base);
        server.http().post(path).bearer_auth(&root).send()
    };
    let asked: Vec<_> = (1..=6).map(|n| tokio::spawn(erase(&server, n))).collect();
    let deadline = Instant::now() + DEADLINE;
    let sql =
        "SELECT count(*) FROM pg_locks WHERE relation = 'mobile_users'::regclass AND NOT granted";
    while transaction.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < 2 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for n in 0..20 {
        let (phone, text) = (number(20), format!("meanwhile {n}"));
        let sent = server.send(&shop, &phone, &text);
        tokio::time::timeout(Duration::from_secs(2), sent).await.expect("has a connection");
    }
    let mut answers = Vec::new();
    let mut refused = 0;
    for answer in asked {
        let answer = answer.await.unwrap().unwrap();
        if answer.status() == 200 {
            answers.push(answer);
            continue;
        }
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(problem["code"], "overloaded", "{problem}");
        refused += 1;
    }
    assert_eq!((answers.len(), refused), (2, 4));
    transaction.rollback().await.unwrap();
    for answer in answers {
        let text = answer.text().await.unwrap();
        assert!(text.lines().last().unwrap().contains("\"erased\""), "{text}");
    }
    // One that nobody waits for ends before the process does.
    let left = (1..=6).find(|n| server.run(&["mobile", "export", &number(*n)]).status.success());
    let left = left.expect("four are left");
    drop(erase(&server, left).await.unwrap());
    server.stop().await;
    server.launch().await;
    let entry = server.run_json(&["audit", "access", "--action", "mobile.erase"])[0].clone();
    assert!(entry["details"]["messages"].is_number(), "{entry}");
    assert_eq!(rows_with(&server, &number(left)).await, []);
}
