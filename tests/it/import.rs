//! What the existing system exported, taken over; and what is stored, listed.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{DEADLINE, Folder, Server, acknowledge, id, next_messages, run, run_json};

pub const MESSAGES: &str = "\
Id,RecipientPhoneNumber,Subject,MessageContent,Status,Type,ConversationId,SenderPhoneNumber,RetryCount,DeliveredAt,ReadAt,FailureReason,Priority,CreatorId,CreationTime
11111111-0000-4000-8000-000000000001,967770000001,Hi,\"two
lines, quoted\",2,,99999999-0000-4000-8000-000000000001,,9,2024-05-01 10:00:05.1234567,,,4,USER,2024-05-01 10:00:00.1234567
11111111-0000-4000-8000-000000000002,967770000001,,waits,4,0,,,2,,,,1,USER,2024-05-01T10:00:01Z
11111111-0000-4000-8000-000000000003,967770000001,,read,3,NULL,NULL,NULL,0,,2024-05-02 10:00:00,NULL,2,USER,2024-05-01 10:00:02
11111111-0000-4000-8000-000000000004,967770000002,,lost,5,,,,6,,,no such device,2,USER,2024-05-01 10:00:03
11111111-0000-4000-8000-000000000005,12,,bad number,0,,,,0,,,,2,USER,2024-05-01 10:00:04
11111111-0000-4000-8000-000000000006,967770000001,,bad status,9,,,,0,,,,2,USER,2024-05-01 10:00:04
11111111-0000-4000-8000-000000000007,967770000001,,no time,0,,,,0,,,,2,USER,
77,967770000002,,a number for an id,1,,,,0,,,,3,33333333-0000-4000-8000-000000000001,2024-05-01 10:00:05
too,short
";

pub fn written(folder: &Folder, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

pub fn answer(output: &Output, code: i32) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn messages_become_one_way_keep_their_ids_and_come_once() {
    let server = Server::start().await;
    let data = server.data();
    let user = run_json(&data, &["user", "add", "Old shop", "--permission", "SendMessages"]);
    let shop = server.token(&["--user", "Old shop"]);
    let text = MESSAGES.replace("USER", user["id"].as_str().unwrap());
    let file = written(&server.folder, "EtMessages.csv", &text);
    // What is there is not overwritten: each gets a place of its own.
    let number = std::cell::Cell::new(0);
    let import = |more: &[&str]| {
        number.set(number.get() + 1);
        let rejects = format!("{file}.{}.jsonl", number.get());
        let arguments = ["import", "messages", &file, "-o", "json", "--rejects", &rejects];
        run(&data, &[&arguments, more].concat())
    };

    let dry = answer(&import(&["--dry-run"]), 3);
    assert_eq!((&dry["imported"], &dry["rejected"]), (&json!(5), &json!(4)), "{dry}");
    assert_eq!(run_json(&data, &["message", "list"]), json!([]), "nothing was stored");
    assert!(!Path::new(&format!("{file}.1.jsonl")).exists());
    let first = answer(&import(&[]), 3);
    assert_eq!((&first["read"], &first["imported"]), (&json!(9), &json!(5)), "{first}");
    assert_eq!(first["unknownSenders"], 1, "{first}");
    let rejected = lines(first["rejectFile"].as_str().unwrap());
    let told: Vec<(u64, &str)> = rejected
        .iter()
        .map(|row| (row["line"].as_u64().unwrap(), row["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(told.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [7, 8, 9, 11], "{told:?}");
    for ((_, reason), part) in
        told.iter().zip(["recipientphonenumber", "status 9", "creationtime", "2 fields"])
    {
        assert!(reason.contains(part), "{reason}");
    }
    let again = answer(&import(&[]), 3);
    assert_eq!((&again["imported"], &again["alreadyThere"]), (&json!(0), &json!(5)), "{again}");

    let shown = |n: u32| {
        run_json(&data, &["message", "show", &format!("11111111-0000-4000-8000-00000000000{n}")])
    };
    let one = shown(1);
    assert_eq!(
        [&one["type"], &one["status"], &one["priority"], &one["to"], &one["from"]],
        ["oneWay", "delivered", "high", "+967770000001", "Old shop"],
        "{one}"
    );
    assert_eq!(one["content"], "two\nlines, quoted");
    assert_eq!(one["deliveredAt"], "2024-05-01T10:00:05.123456Z");
    assert!(one.get("conversationId").is_none(), "{one}");
    assert_eq!(
        (&shown(3)["status"], &shown(3)["readAt"]),
        (&json!("read"), &json!("2024-05-02T10:00:00.000000Z"))
    );
    assert!(shown(4)["failureReason"].as_str().unwrap().ends_with("no such device"));
    let books = run_json(&data, &["audit", "delivery", "--since", "2024-01-01T00:00:00Z"]);
    assert_eq!(books["balanced"], true, "{books}");
    let told = |n: u32| {
        let id = format!("11111111-0000-4000-8000-00000000000{n}");
        run_json(&data, &["message", "explain", &id])
    };
    let of_it = told(1);
    let steps: Vec<&str> =
        of_it["steps"].as_array().unwrap().iter().filter_map(|s| s["step"].as_str()).collect();
    assert_eq!(steps, ["pending", "sent", "delivered", "imported"], "{of_it}");
    assert_eq!(of_it["steps"][2]["detail"], "in the previous system", "{of_it}");
    let by_what = of_it["steps"][3]["detail"].as_str().unwrap();
    assert!(by_what.starts_with("from EtMessages.csv by "), "{of_it}");
    assert_eq!(of_it["verdict"]["code"], "imported_delivered", "{of_it}");
    assert_eq!(told(4)["verdict"]["code"], "imported_failed");
    let waits = told(2);
    let sentence = waits["verdict"]["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("It was imported at ") && sentence.contains("waits"), "{waits}");

    // What waited there is delivered here, once.
    let phone = server.phone("+967770000001");
    let mut hub = server.hub(&phone).await;
    let (_, found) = next_messages(&mut hub).await;
    assert_eq!((found.len(), &found[0]["content"]), (1, &json!("waits")));
    acknowledge(&mut hub, &[id(&found[0])]).await;
    server.wait_status(&shop, &id(&found[0]), "delivered").await;
    let sentence = told(2)["verdict"]["sentence"].as_str().unwrap().to_owned();
    assert!(sentence.contains("after it was imported"), "{sentence}");
    // To whom the message is, but not who imported it from which file.
    let seen =
        server.api(&phone).get(&format!("/api/v1/messages/{}/timeline", id(&found[0]))).await;
    let seen = seen.unwrap().body;
    let step = &seen["steps"].as_array().unwrap()[1];
    assert_eq!((&step["step"], step.get("detail")), (&json!("imported"), None), "{seen}");
    assert_eq!(answer(&import(&[]), 3)["imported"], 0);
    assert_eq!(shown(2)["status"], "delivered", "a repeat takes nothing back");

    // A repaired reject file is a file like any other.
    let mut repaired = rejected[0].clone();
    repaired["RecipientPhoneNumber"] = json!("967770000003");
    let repaired = written(&server.folder, "again.jsonl", &format!("{repaired}\n\n{{broken\n"));
    let more = run(&data, &["import", "messages", &repaired, "-o", "json"]);
    let more = answer(&more, 3);
    assert_eq!((&more["imported"], &more["rejected"]), (&json!(1), &json!(1)), "{more}");
    let path = more["rejectFile"].as_str().unwrap().to_owned();
    assert_eq!(lines(&path)[0]["raw"], "{broken", "nothing of it is lost");
    let refused = |rejects: &str| {
        let output = run(&data, &["import", "messages", &repaired, "--rejects", rejects]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(5) && text.contains("already exists"), "{text}");
    };
    let before = fs::read(&repaired).unwrap();
    refused(&path);
    refused(&repaired);
    assert_eq!(fs::read(&repaired).unwrap(), before, "what is imported is not overwritten");
    let new_ids =
        run(&data, &["import", "messages", &file, "--new-ids", "--from", "Old shop", "-o", "json"]);
    let new_ids = answer(&new_ids, 3);
    assert_eq!(new_ids["alreadyThere"], 1, "the one whose id was made from its number: {new_ids}");
    let log = run_json(&data, &["audit", "access", "--action", "message.import"]);
    let details = &log[0]["details"];
    assert_eq!(
        (&details["imported"], &details["alreadyThere"]),
        (&new_ids["imported"], &json!(1)),
        "{log}"
    );
}

#[tokio::test]
async fn mobile_users_come_with_their_status_and_messages_are_listed_by_what_they_are() {
    let folder = Folder::seeded();
    let data = folder.data();
    let users = "\
        {\"Id\":\"22222222-0000-4000-8000-000000000001\",\"MobileNumber\":\"967770000001\",\"Status\":1}\n\
        {\"Id\":\"22222222-0000-4000-8000-000000000002\",\"MobileNumber\":\"967770000002\",\"Status\":2,\"Email\":\"two@example.org\"}\n\
        {\"Id\":\"x\",\"MobileNumber\":\"967770000003\"}\n";
    let file = written(&folder, "EtMobileUsers.jsonl", users);
    let first = run_json(&data, &["import", "users", &file]);
    assert_eq!((&first["imported"], &first["rejected"]), (&json!(3), &json!(0)));
    assert!(!Path::new(&format!("{file}.rejected.jsonl")).exists());
    assert_eq!(run_json(&data, &["import", "users", &file])["alreadyThere"], 3);
    let shown = run_json(&data, &["mobile", "show", "+967770000002"]);
    assert_eq!(
        (&shown["id"], &shown["status"]),
        (&json!("22222222-0000-4000-8000-000000000002"), &json!("rejected"))
    );
    assert_eq!(shown["email"], "two@example.org");
    let bad = "{\"Id\":\"y\",\"MobileNumber\":\"967770000004\",\"Email\":\"nobody\"}\n";
    let bad = written(&folder, "bad.jsonl", bad);
    let output = run(&data, &["import", "users", &bad]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let missing = run(&data, &["import", "users", "/nowhere/at-all.csv"]);
    assert_eq!(missing.status.code(), Some(4));

    for shop in ["One", "Two"] {
        run_json(&data, &["user", "add", shop, "--permission", "SendMessages"]);
        for n in 0..3 {
            let text = format!("{shop} {n}");
            let send = ["message", "send", "--from", shop, "--to", "+967770000001", &text];
            run_json(&data, &send);
        }
    }
    let list = |arguments: &[&str]| {
        let found = run_json(&data, &[&["message", "list"], arguments].concat());
        let contents = found.as_array().unwrap().iter();
        contents.map(|m| m["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(&["--user", "One"]), ["One 2", "One 1", "One 0"]);
    assert_eq!(list(&["--since", "1h"]).len(), 6);
    assert!(list(&["--until", "1h"]).is_empty());
    assert_eq!(
        list(&[
            "--user",
            "Two",
            "--status",
            "pending",
            "--type",
            "oneWay",
            "--until",
            "2099-01-01T00:00:00Z"
        ])
        .len(),
        3
    );
    let page = run(&data, &["message", "list", "--limit", "4", "-o", "json"]);
    let note = String::from_utf8_lossy(&page.stderr).into_owned();
    let next = note.trim().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(list(&["--before", &next]), ["One 1", "One 0"]);
}

#[tokio::test]
async fn what_is_long_only_as_it_is_sent_is_sent_in_more_calls() {
    let server = Server::start().await;
    // Six bytes each in JSON.
    let note = "\u{1}".repeat(900_000);
    let row = |n: usize| format!("{n},96777{n:07},1,{note}\n");
    let text: String = (0..6).map(row).collect();
    let text = format!("Id,MobileNumber,Status,Note\n{text}");
    let file = written(&server.folder, "EtMobileUsers.csv", &text);
    let done = answer(&run(&server.data(), &["import", "users", &file, "-o", "json"]), 0);
    assert_eq!((&done["read"], &done["imported"]), (&json!(6), &json!(6)), "{done}");
    let root = server.user("root", "Admin");
    let there = crate::remote::Elsewhere::new(&server, &root);
    let done = answer(&there.run(&["import", "users", &file, "-o", "json"]), 0);
    assert_eq!((&done["read"], &done["alreadyThere"]), (&json!(6), &json!(6)), "{done}");
}

/// Root's command goes on as another user, and ends with the one that was started.
#[tokio::test]
async fn who_ends_an_import_ends_what_it_goes_on_as() {
    let server = Server::start().await;
    let pipe = server.folder.path().join("rows.csv");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = server.command();
    command.args(["import", "messages", pipe.to_str().unwrap()]);
    let mut import = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let opened = tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(pipe));
    let mut rows = tokio::time::timeout(DEADLINE, opened).await.unwrap().unwrap().unwrap();
    rows.write_all(MESSAGES.as_bytes()).unwrap();
    // Whoever reads has begun to.
    let deadline = Instant::now() + DEADLINE;
    let reads = |pid: u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|file| file.ends_with("rows.csv"))
    };
    let child = loop {
        let path = format!("/proc/{0}/task/{0}/children", import.id());
        let children = fs::read_to_string(path).unwrap_or_default();
        let child = children.split_whitespace().find_map(|pid| pid.parse().ok());
        // Who is not root has no other process to go on as.
        let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        let worker = if is_root { child } else { Some(import.id()) };
        if let Some(worker) = worker.filter(|worker| reads(*worker)) {
            break worker;
        }
        assert!(Instant::now() < deadline, "nobody reads the rows");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(import.try_wait().unwrap().is_none(), "it waits for more rows");
    import.kill().unwrap();
    import.wait().unwrap();
    let deadline = Instant::now() + DEADLINE;
    while rows.write_all(b"\n").is_ok() {
        assert!(Instant::now() < deadline, "process {child} goes on without the one it is for");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Files as others write them: what is said of each, before anything is asked of the server.
#[tokio::test]
async fn a_file_that_is_no_table_is_refused_before_its_first_row() {
    let folder = Folder::new();
    let data = folder.data();
    let utf16: Vec<u8> = "\u{FEFF}Id,MobileNumber\r\n1,967771234567\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (name, bytes, what, remedy) in [
        ("a.csv", b"Id;MobileNumber\n1;967771234567\n".to_vec(), "';'", "--delimiter ';'"),
        ("b.csv", b"sep=;\r\nId;MobileNumber\r\n".to_vec(), "sep=;", "delete that line"),
        ("c.csv", utf16, "UTF-16", "UTF-8"),
        ("d.xlsx", b"PK\x03\x04\x14\0\x06\0\x08\0".to_vec(), "Excel workbook", "CSV UTF-8"),
        ("e.json", b"[{\"Id\":1,\"MobileNumber\":967771234567}]".to_vec(), "JSON array", "jq"),
        ("f.json", b"{\n \"Id\": 1,\n \"MobileNumber\": 1\n}\n".to_vec(), "several lines", "jq"),
        ("g.csv", b"1,967771234567,1\n".to_vec(), "no header row", "Id, MobileNumber"),
        ("h.csv", MESSAGES.as_bytes().to_vec(), "columns of messages", "esh3ar import messages"),
        ("i.csv", b"Id,MobileNumber,ID\n1,967771234567,2\n".to_vec(), "two columns Id", "delete"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        for dry_run in [&[][..], &["--dry-run"]] {
            let arguments = [&["import", "users", file.to_str().unwrap()], dry_run].concat();
            let output = run(&data, &arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{name}: {said}");
            assert!(said.contains(what) && said.contains(remedy), "{name}: {said}");
            assert!(output.stdout.is_empty(), "{name}");
        }
    }
    assert!(!data.join("postgres").exists(), "nothing was begun for a file that is none");
}

/// What spreadsheets, other databases and hands make of a file: every row of it is imported or rejected, by
/// itself and with its own line.
#[tokio::test]
async fn every_row_of_a_mended_file_is_imported_or_rejected_with_its_line() {
    let server = Server::start_with(&[("ESH3AR__PHONE__DEFAULT_REGION", "US")]).await;
    let data = server.data();
    let told = |name: &str, text: &str, more: &[&str]| {
        let file = written(&server.folder, name, text);
        let output = run(&data, &[&["import", "users", &file, "-o", "json"], more].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let path = report["rejectFile"].as_str().map(str::to_owned);
        let rejected = path.map(|path| lines(&path)).unwrap_or_default();
        (report, rejected)
    };
    let line_of = |row: &Value| row["line"].as_u64().unwrap();
    let row = |n: u32| format!("{n},96777000{n:04},1");
    let broken = |n: u32| format!("{n},\"96777000{n:04},1");
    for (end, first) in [("\n", 1), ("\r\n", 11)] {
        let text = [
            "Id,MobileNumber,Status".to_owned(),
            broken(first),
            row(first + 1),
            broken(first + 2),
            row(first + 3),
        ];
        let (report, rejected) = told(&format!("quotes{first}.csv"), &text.join(end), &[]);
        let counts = ["read", "imported", "rejected"].map(|name| report[name].as_u64().unwrap());
        assert_eq!(counts, [4, 2, 2], "{report}");
        assert_eq!(rejected.iter().map(line_of).collect::<Vec<_>>(), [2, 4], "{rejected:?}");
        assert_eq!(rejected[1]["raw"], broken(first + 2));
    }
    let text = "\u{FEFF}id;Mobile Number;status;;\r\n\
        21;+4915123456789;1;;\r\n\
        22;771234567.0;1;;\r\n\
        23;9.67771E+11;1;;\r\n\
        24;967770000024;1.0;;\r\n\
        25;٩٦٧٧٧٠٠٠٠٠٢٥;1;;\r\n\
        26;(+967) 77\u{2011}0000026;1;;\r\n\
        27.0;967770000027;1;;\r\n\
        28;967790000028;\"1\";;\r\n";
    let delimiter = ["--delimiter", ";"];
    let (dry, none) = told("excel.csv", text, &[&delimiter[..], &["--dry-run"]].concat());
    assert!(none.is_empty());
    let reasons = dry["reasons"].as_array().unwrap();
    assert_eq!(reasons.iter().map(line_of).collect::<Vec<_>>(), [3, 4, 5, 8], "{dry}");
    let (report, rejected) = told("excel.csv", text, &delimiter);
    assert_eq!((&report["read"], &report["imported"]), (&json!(8), &json!(4)), "{report}");
    for (row, (line, part)) in rejected.iter().zip([
        (3, "mobilenumber is a phone number mangled by a spreadsheet"),
        (4, "spreadsheet"),
        (5, "status is 1.0, a decimal number as spreadsheets write them"),
        (8, "id is 27.0"),
    ]) {
        let reason = row["reason"].as_str().unwrap();
        assert!(line_of(row) == line && reason.contains(part), "{row}");
        assert_eq!(reasons.iter().find(|r| r["line"] == line).unwrap()["reason"], reason);
    }
    let stored = run_json(&data, &["mobile", "list"]);
    let numbers: Vec<&str> =
        stored.as_array().unwrap().iter().map(|user| user["phone"].as_str().unwrap()).collect();
    for number in ["+4915123456789", "+967770000025", "+967770000026", "+967790000028"] {
        assert!(numbers.contains(&number), "{numbers:?}");
    }
    assert!(!numbers.contains(&"+17712345670") && !numbers.contains(&"+495123456789"));
}

#[tokio::test]
async fn times_of_no_time_and_of_the_future_are_told_apart() {
    let server = Server::start().await;
    let data = server.data();
    run_json(&data, &["user", "add", "Old shop", "--permission", "SendMessages"]);
    let file = "Id,RecipientPhoneNumber,MessageContent,Status,DeliveredAt,ReadAt,CreationTime\n\
        11111111-0000-4000-8000-000000000001,967770000001,\"  \",1,0001-01-01 00:00:00.0000000,0001-01-01T00:00:00Z,2024-05-01 10:00:00\n\
        11111111-0000-4000-8000-000000000002,967770000001,x,3,0001-01-01 00:00:00,2024-05-02 10:00:00,2024-05-01 10:00:00\n\
        11111111-0000-4000-8000-000000000003,967770000001,x,3,,2999-05-02 10:00:00,2024-05-01 10:00:00\n\
        11111111-0000-4000-8000-000000000004,967770000001,x,2,2999-05-02 10:00:00,,2024-05-01 10:00:00\n\
        11111111-0000-4000-8000-000000000005,967770000001,x,1,,,0001-01-01 00:00:00\n\
        11111111-0000-4000-8000-000000000006,967770000001,x,1,,,9999-12-31 23:59:59.9999999\n";
    let file = written(&server.folder, "times.csv", file);
    let import = ["import", "messages", &file, "--from", "Old shop", "-o", "json"];
    let report = answer(&run(&data, &import), 3);
    assert_eq!((&report["imported"], &report["rejected"]), (&json!(2), &json!(4)), "{report}");
    let rejected = lines(report["rejectFile"].as_str().unwrap());
    let reasons: Vec<&str> = rejected.iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        [
            "readat is in the future",
            "deliveredat is in the future",
            "creationtime is missing: it is of the year 1, which means none",
            "creationtime is in the future"
        ]
    );
    let shown = |n: u32| {
        run_json(&data, &["message", "show", &format!("11111111-0000-4000-8000-00000000000{n}")])
    };
    assert_eq!(shown(1)["content"], "  ");
    assert!(shown(1)["deliveredAt"].is_null() && shown(1)["readAt"].is_null());
    let read = shown(2);
    let times = [&read["deliveredAt"], &read["readAt"]];
    assert_eq!(times, ["2024-05-02T10:00:00.000000Z"; 2], "{read}");
}

/// A row is known by its id, and is not taken for another one that has the same.
#[tokio::test]
async fn a_row_with_the_id_of_another_is_rejected() {
    let server = Server::start().await;
    let data = server.data();
    run_json(&data, &["user", "add", "shop", "--permission", "SendMessages"]);
    let import = |kind: &str, name: &str, text: &str, more: &[&str], code| {
        let file = written(&server.folder, name, text);
        let arguments = ["import", kind, &file, "-o", "json"];
        let report = answer(&run(&data, &[&arguments, more].concat()), code);
        let count = |name: &str| report[name].as_u64().unwrap();
        ["imported", "alreadyThere", "rejected"].map(count)
    };
    let users = "Id,MobileNumber\nsame1,967771500011\nsame1,967771500012\nsame2,967771500011\n";
    for more in [&["--dry-run"][..], &[]] {
        assert_eq!(import("users", "a.csv", users, more, 3), [1, 1, 1], "{more:?}");
    }
    // And of another file that numbers its rows likewise.
    let other = "Id,MobileNumber\nsame1,967771500012\nsame3,967771500013\nsame9,967771500011\n";
    assert_eq!(import("users", "b.csv", other, &["--dry-run"], 3), [1, 1, 1]);
    assert_eq!(import("users", "b.csv", other, &[], 3), [1, 1, 1]);
    let reason = lines(&format!("{}/b.csv.rejected.jsonl", server.folder.path().display()));
    assert!(reason[0]["reason"].as_str().unwrap().contains("another number"), "{reason:?}");

    let heading = "Id,RecipientPhoneNumber,CreationTime,MessageContent";
    let messages = format!(
        "{heading}\n7,967771500011,2024-05-01,one\n7,967771500012,2024-05-01,one\n\
         7,967771500011,2024-05-01,two\n7,967771500011,2024-05-01,one\n"
    );
    for more in [&["--from", "shop", "--dry-run"][..], &["--from", "shop"]] {
        assert_eq!(import("messages", "c.csv", &messages, more, 3), [1, 1, 2], "{more:?}");
    }
    let again = format!("{heading}\n7,967771500011,2024-05-01,one\n");
    assert_eq!(import("messages", "d.csv", &again, &["--from", "shop"], 0), [0, 1, 0]);
    // What an earlier import said of a row is not said again.
    let mended = "{\"Id\":\"8\",\"MobileNumber\":\"967771500018\",\"Status\":9,\"line\":7,\"reason\":\"old\",\"raw\":\"x\"}\n";
    assert_eq!(import("users", "e.jsonl", mended, &[], 3), [0, 0, 1]);
    let told = &lines(&format!("{}/e.jsonl.rejected.jsonl", server.folder.path().display()))[0];
    assert_eq!((&told["line"], &told["reason"]), (&json!(1), &json!("status 9 is not known")));
    assert!(told.get("raw").is_none(), "{told}");
    let folder = run(&data, &["import", "users", server.folder.path().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&folder.stderr).into_owned();
    assert!(folder.status.code() == Some(1) && text.contains("is a folder"), "{text}");
}
