//! Beginning an installation, and finding out what is wrong with one.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};

use crate::support::{Folder, Server, cluster::Engines, command, run_json};

/// `esh3ar --config FILE --data-dir DIR init …`
fn init(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = command(&folder.data());
    command.arg("--config").arg(folder.path().join("esh3ar.toml")).arg("init");
    command.args(arguments).args(["-o", "json"]).output().unwrap()
}

fn made(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {text}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The states of checks by their names; several of a name in order.
fn states(checks: &Value, name: &str) -> Vec<String> {
    let all = checks.as_array().unwrap().iter().filter(|check| check["check"] == name);
    all.map(|check| check["state"].as_str().unwrap().to_owned()).collect()
}

fn doctor(folder: &Folder, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, Value) {
    let mut command = command(&folder.data());
    command.args(["doctor", "--json"]).args(arguments).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let checks = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), checks.unwrap_or_else(|_| panic!("{text}\n{output:?}")))
}

#[tokio::test]
async fn init_makes_what_is_missing_and_keeps_what_is_there() {
    let folder = Folder::new();
    let file = folder.path().join("esh3ar.toml");
    let options = ["--listen", "127.0.0.1:0", "--default-region", "YE", "--admin", "Root"];
    let first = made(&init(&folder, &options));
    assert_eq!(first["admin"], "Root");
    let token = first["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("esh_"));
    let next: Vec<&str> =
        first["next"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(next.len(), 3);
    assert!(next.iter().all(|line| line.contains("--config ")), "{next:?}");
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("\nlisten = \"127.0.0.1:0\"\n") && text.contains("\n#: tls_cert"),
        "{text}"
    );
    if nix::unistd::geteuid().is_root() {
        let owner = fs::metadata(folder.data()).unwrap();
        assert_ne!(owner.uid(), 0, "the data are not root's");
        assert_eq!(
            (metadata.uid(), metadata.gid()),
            (0, owner.gid()),
            "root's, for its group to read"
        );
    }

    let second = init(&folder, &options);
    let notes = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(notes.contains("already exists and is kept"), "{notes}");
    assert_eq!(made(&second)["token"], Value::Null, "one token is enough");
    assert_eq!(made(&init(&folder, &[]))["admin"], "Root", "the one that is there");
    let other = init(&folder, &["--listen", "127.0.0.1:1"]);
    assert_eq!(other.status.code(), Some(5), "an option that would not be heeded");
    assert!(String::from_utf8_lossy(&other.stderr).contains("http.listen"));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);

    let config = file.display().to_string();
    let server = Server::start_in(folder, &[("ESH3AR_CONFIG", &config)]).await;
    let (status, _) = server.request("GET", "/api/v1/admin/dead-letters", Some(&token), None).await;
    assert_eq!(status, 200, "the token is an administrator's");
    let (status, _) = server.request("GET", "/api/v1/messages", Some(&token), None).await;
    assert_ne!(status, 401);
}

#[test]
fn init_refuses_what_makes_no_configuration() {
    let folder = Folder::new();
    for (options, word) in [
        (&["--listen", "nowhere"][..], "http.listen must be an address"),
        (&["--queue-url", "amqp://q"], "needs cache.url"),
        (&["--database-url", "mysql://foo"], "it is not postgres://"),
        (&["--smtp-host", "mail"], "smtp.from is required"),
        (&["--database-url", "@/nowhere/url"], "cannot read /nowhere/url"),
    ] {
        let output = init(&folder, options);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {text}");
        assert!(text.contains(word), "{options:?}: {text}");
    }
    assert!(!folder.path().join("esh3ar.toml").exists(), "nothing was written");
    assert!(!folder.data().exists());
}

/// With a terminal of `script`'s: the answers are typed, and a wrong one is asked for again.
#[test]
fn init_asks_on_a_terminal() {
    let folder = Folder::new();
    let config = folder.path().join("esh3ar.toml");
    let init = format!(
        "{} --data-dir {} --config {} init --default-region YE",
        crate::support::BINARY,
        folder.data().display(),
        config.display()
    );
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &init, "/dev/null"]).env("NO_COLOR", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Address, wrong and right; no certificate; no database; no mail; the administrator's name.
    let answers = b"nowhere\n0.0.0.0:5999\n\n\n\nOperator\n";
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), answers).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("http.listen must be an address") && text.contains("Try again"),
        "{text}"
    );
    assert!(!text.contains("Region of phone numbers"), "an option is not asked for: {text}");
    assert!(text.contains("Operator") && text.contains("esh_") && text.contains("Next:"), "{text}");
    assert!(!text.contains("private key"), "without a certificate: {text}");
    assert!(fs::read_to_string(config).unwrap().contains("\nlisten = \"0.0.0.0:5999\"\n"));
}

/// A pair for `localhost` that is valid between these years.
fn pair(folder: &Path, from: i32, until: i32) -> [String; 2] {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let texts = [("tls.crt", cert.pem()), ("tls.key", key.serialize_pem())];
    texts.map(|(name, text)| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path.display().to_string()
    })
}

#[tokio::test]
async fn doctor_finds_faults_and_says_so_by_its_exit_status() {
    let folder = Folder::new();
    run_json(&folder.data(), &["user", "add", "Shop"]);
    let (status, checks) = doctor(&folder, &[], &[]);
    assert_eq!(status, 0, "{checks}");
    for name in ["disk", "certificate", "connections", "clock", "rabbitmq", "redis", "service"] {
        assert_ne!(states(&checks, name), ["FAIL"], "{checks}");
        assert_eq!(states(&checks, name).len(), 1, "{name}: {checks}");
    }
    let tls = |from, until| {
        let [cert, key] = pair(folder.path(), from, until);
        [("ESH3AR__HTTP__TLS_CERT", cert), ("ESH3AR__HTTP__TLS_KEY", key)]
    };
    for (from, until, state, exit) in
        [(2020, 2021, "FAIL", 1), (2200, 2201, "FAIL", 1), (2020, 2201, "ok", 0)]
    {
        let told = tls(from, until);
        let told: Vec<(&str, &str)> =
            told.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (status, checks) = doctor(&folder, &[], &told);
        assert_eq!(
            (states(&checks, "certificate"), status),
            (vec![state.to_owned()], exit),
            "{checks}"
        );
    }
    // A gateway that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap().to_string();
    let serve = json!({ "pid": std::process::id(), "http": at, "metrics": at });
    fs::write(folder.data().join("serve.json"), serve.to_string()).unwrap();
    let (status, checks) = doctor(&folder, &[], &[]);
    assert_eq!((states(&checks, "service"), status), (vec!["FAIL".to_owned()], 1), "{checks}");
    fs::remove_file(folder.data().join("serve.json")).unwrap();
    // Nobody listens on port 1: each way that is away is told, with what to do, and without passwords.
    let away = [
        ("ESH3AR__DATABASE__URL", "postgres://u:hunter2@127.0.0.1:1/x"),
        ("ESH3AR__QUEUE__URL", "amqp://u:hunter2@127.0.0.1:1"),
        ("ESH3AR__CACHE__URL", "redis://u:hunter2@127.0.0.1:1"),
        ("ESH3AR__SMTP__HOST", "127.0.0.1"),
        ("ESH3AR__SMTP__PORT", "1"),
        ("ESH3AR__SMTP__TLS", "none"),
        ("ESH3AR__SMTP__FROM", "a@b"),
        ("ESH3AR__SMTP__TO", "a@b"),
    ];
    let (status, checks) = doctor(&folder, &[], &away);
    assert_eq!(status, 1);
    for name in ["database", "rabbitmq", "redis", "mail"] {
        assert_eq!(states(&checks, name), ["FAIL"], "{checks}");
    }
    let failed = checks.as_array().unwrap().iter().filter(|check| check["state"] == "FAIL");
    assert!(failed.clone().all(|check| !check["remedy"].as_str().unwrap().is_empty()), "{checks}");
    assert!(!checks.to_string().contains("hunter2"), "{checks}");
    // A warning fails only if it is asked to.
    let few = |arguments: &[&str]| {
        let line = format!("ulimit -n 512 && exec \"$@\" doctor --json {}", arguments.join(" "));
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &line, "sh", crate::support::BINARY, "--data-dir"]).arg(folder.data());
        shell.output().unwrap().status.code()
    };
    assert_eq!((few(&[]), few(&["--strict"])), (Some(0), Some(1)));
}

#[tokio::test]
async fn doctor_says_which_engines_let_it_in() {
    let engines = Engines::start().await.expect("the engines of a cluster");
    let folder = Folder::new();
    let all = engines.environment();
    let told: Vec<(&str, &str)> = all.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let (status, checks) = doctor(&folder, &[], &told);
    assert_eq!(status, 0, "{checks}");
    let found = |name: &str| {
        let check = checks.as_array().unwrap().iter().find(|check| check["check"] == name);
        check.unwrap()["found"].as_str().unwrap().to_owned()
    };
    assert!(found("rabbitmq").contains("RabbitMQ 3.") || found("rabbitmq").contains("RabbitMQ 4."));
    assert!(found("redis").starts_with("Redis 7.") || found("redis").starts_with("Redis 8."));
    assert!(!folder.data().join("postgres").exists(), "it looks at the given database");
}

#[test]
fn doctor_names_every_fault_of_a_configuration() {
    let folder = Folder::new();
    let told = [("ESH3AR__HTTP__LISTEN", "x"), ("ESH3AR__LOG__LEVLE", "y")];
    let (status, checks) = doctor(&folder, &[], &told);
    assert_eq!(status, 78);
    assert_eq!(states(&checks, "configuration"), ["FAIL", "FAIL"], "{checks}");
}

#[tokio::test]
async fn doctor_sees_what_serves() {
    let server = Server::start().await;
    let checks = server.run_json(&["doctor"]);
    let service = checks.as_array().unwrap().iter().find(|check| check["check"] == "service");
    let found = service.unwrap()["found"].as_str().unwrap();
    assert!(found.contains(&server.pid().to_string()) && found.contains("is ready"), "{found}");
    assert_eq!(states(&checks, "redis"), ["ok"], "{checks}");
}

#[test]
fn the_configuration_on_paper_needs_no_configuration() {
    let folder = Folder::new();
    let wrong = [("ESH3AR__HTTP__LISTEN", "x")];
    for (word, wanted) in
        [("default", "#: listen"), ("doc", "| `http.listen` | `127.0.0.1:5000` |")]
    {
        let output = command(&folder.data()).args(["config", word]).envs(wrong).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(wanted), "{text}");
    }
    assert!(!folder.data().exists(), "and begins nothing");
}

#[test]
fn there_is_a_page_for_each_command() {
    let folder = Folder::new();
    let pages = folder.path().join("man");
    let output = command(&folder.data()).args(["man", "--dir"]).arg(&pages).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for name in ["esh3ar", "esh3ar-serve", "esh3ar-init", "esh3ar-message-explain"] {
        let text = fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        assert!(text.contains(".TH") && text.contains(".SH DESCRIPTION"), "{name}: {text}");
    }
    let first = fs::read_to_string(pages.join("esh3ar.1")).unwrap();
    assert!(first.contains("EXIT STATUS"), "{first}");
    assert!(!pages.join("esh3ar-help.1").exists());
}
