//! Registration by one-time code: over HTTP as an app does it, and its limits over several processes.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use esh3ar::{
    app::{
        App, Clock, Error, RuntimeSettings, Settings,
        failpoints::REGISTRATION_NAMES,
        jobs::TakenJobs,
        registration::{RegistrationError, RegistrationReceipt, RegistrationRequest},
    },
    domain::{
        Phone,
        job::JobKind,
        registration::{CodeRoute, OtpRules},
    },
    mail::{Encryption, Mailer, SmtpSettings},
    secrets::{KeyFile, KeyStore},
    store::{Store, accounts::MobileStatus},
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{
    Folder, Server,
    guard::free_port,
    operator,
    postgres::Database,
    run_json, settings,
    sms_gateway::GatewayStub,
    smtp::{Mood, SmtpSink},
    wait_for,
};

const PHONE: &str = "+967771234567";
const LOGGED: (&str, &str) = ("ESH3AR__OTP__LOG_CODES", "true");
/// Far more than a test asks for.
const MANY: &str = "100000";

/// A number of Yemen; each has a prefix of its own.
fn number(n: usize) -> String {
    format!("+9677{n:04}0000")
}

/// The code of a registration, from the log.
async fn logged_code(server: &Server, id: &str) -> String {
    wait_for("the code in the log", || {
        let log = server.log();
        let line = log.lines().rfind(|l| l.contains(id) && l.contains("one-time code"))?.to_owned();
        let quoted = line.split('"').find(|part| is_code(part))?;
        Some(quoted.to_owned())
    })
    .await
}

fn is_code(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|c| c.is_ascii_digit())
}

/// Another code than this.
fn wrong(code: &str) -> String {
    let number: u32 = code.parse().unwrap();
    format!("{:06}", (number + 1) % 1_000_000)
}

async fn post(server: &Server, path: &str, body: Value) -> (u16, Value) {
    server.request("POST", path, None, Some(&body.to_string())).await
}

async fn register(server: &Server, body: Value) -> String {
    let (status, answer) = post(server, "/api/v1/registrations", body).await;
    assert_eq!(status, 202, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

async fn verify(server: &Server, id: &str, code: &str) -> (u16, Value) {
    post(server, &format!("/api/v1/registrations/{id}/verify"), json!({ "code": code })).await
}

#[tokio::test]
async fn a_phone_registers_and_sends_nothing_to_log_or_database() {
    let server = Server::start_with(&[LOGGED]).await;
    let asked = json!({ "phone": PHONE, "platform": "android", "locale": "ar" });
    let (status, answer) = post(&server, "/api/v1/registrations", asked).await;
    assert_eq!((status, &answer["resendAfter"]), (202, &json!(60)), "{answer}");
    assert_eq!(answer["channel"], "sms");
    let fields: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), 4, "{answer}");
    let id = answer["id"].as_str().unwrap().to_owned();
    let code = logged_code(&server, &id).await;
    let resend = format!("/api/v1/registrations/{id}/resend");
    let (status, answer) = server.request("POST", &resend, None, None).await;
    assert_eq!((status, &answer["code"]), (429, &json!("resend_too_early")), "{answer}");
    assert!(answer["retryAfter"].as_u64().is_some_and(|wait| (50..=60).contains(&wait)));
    let (status, answer) = verify(&server, &id, &wrong(&code)).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_code")));
    let device = json!({ "code": code, "deviceName": "My phone", "platform": "android" });
    let path = format!("/api/v1/registrations/{id}/verify");
    let (status, session) = post(&server, &path, device).await;
    assert_eq!(status, 200, "{session}");
    assert!(session["expiresAt"].is_string() && session["sessionId"].is_string(), "{session}");
    let token = session["accessToken"].as_str().unwrap();
    let (status, _) = server.request("GET", "/api/v1/messages", Some(token), None).await;
    assert_eq!(status, 200, "the token opens what a phone may see");
    // Used up, unknown, no code: all the same answer.
    let unknown = uuid::Uuid::now_v7().to_string();
    for (id, code) in [(&*id, &*code), (&*unknown, &*code), ("x", &*code), (&*id, "١٢٣٤٥٦")] {
        let (status, answer) = verify(&server, id, code).await;
        assert_eq!((status, &answer["code"]), (400, &json!("invalid_code")), "{answer}");
    }
    let shown = run_json(&server.data(), &["mobile", "show", PHONE]);
    assert_eq!(shown["status"], "verified");
    let entries = run_json(&server.data(), &["audit", "access", "--action", "registration"]);
    assert_eq!(entries.as_array().unwrap().len(), 1, "{entries}");
    assert_eq!(entries[0]["details"]["registration"], id.as_str(), "{entries}");

    // What is stored and told about it has the code nowhere.
    let database = server.database().await;
    for table in ["registrations", "registration_codes", "registration_counts", "jobs", "audit_log"]
    {
        let sql = format!("SELECT coalesce(string_agg(t::text, ' '), '') AS text FROM {table} t");
        let text: String = database.query_one(&sql, &[]).await.unwrap().get("text");
        let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
        assert_eq!(parts.filter(|part| *part == code).count(), 0, "{table}");
    }
    assert_eq!(server.log().matches(&*format!("\"{code}\"")).count(), 1, "the one log line");
    assert!(!entries.to_string().contains(&code));
}

#[tokio::test]
async fn what_cannot_register_is_refused_with_its_code() {
    let server = Server::start_with(&[LOGGED, ("ESH3AR__OTP__COUNTRIES", "YE,SA")]).await;
    for (body, code) in [
        (json!({ "phone": "12" }), "invalid_phone"),
        (json!({ "phone": "+491711234567" }), "country_not_allowed"),
        (json!({ "phone": PHONE, "email": "a@example.org" }), "validation_failed"),
        (json!({ "phone": PHONE, "channel": "voice" }), "validation_failed"),
        (json!({ "phone": PHONE, "locale": "fr" }), "validation_failed"),
        (json!({}), "validation_failed"),
    ] {
        let (status, answer) = post(&server, "/api/v1/registrations", body.clone()).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{body}: {answer}");
    }
    register(&server, json!({ "phone": "+966501234567" })).await;
    let unknown = format!("/api/v1/registrations/{}/resend", uuid::Uuid::now_v7());
    let (status, answer) = server.request("POST", &unknown, None, None).await;
    assert_eq!((status, &answer["resendAfter"]), (202, &json!(60)), "{answer}");
}

#[tokio::test]
async fn without_its_counters_nothing_is_sent() {
    let server = Server::start_with(&[LOGGED]).await;
    let database = server.database().await;
    let rename = "ALTER TABLE registration_counts RENAME TO gone";
    server.expect_error("the database refused a statement");
    database.batch_execute(rename).await.unwrap();
    let asked = json!({ "phone": PHONE });
    let (status, answer) = post(&server, "/api/v1/registrations", asked.clone()).await;
    assert_eq!((status, &answer["code"]), (503, &json!("unavailable")), "{answer}");
    assert!(!server.log().contains("one-time code"));
    database.batch_execute("ALTER TABLE gone RENAME TO registration_counts").await.unwrap();
    register(&server, asked).await;
}

#[tokio::test]
async fn an_existing_app_registers_unchanged() {
    let server = Server::start_with(&[LOGGED]).await;
    let body =
        json!({ "mobileNumber": "967771234567", "os": 1, "noSms": false, "howToSendOtp": "" });
    let (status, answer) = post(&server, "/api/app/registretion/register", body).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["registrationRequestId"].as_str().unwrap().to_owned();
    let code = logged_code(&server, &id).await;
    let check = async |code: &str| {
        let body = json!({ "registrationRequestId": id, "otpCode": code });
        post(&server, "/api/app/registretion/verify-otp", body).await
    };
    let (status, answer) = check(&wrong(&code)).await;
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("invalid_code")), "{answer}");
    let resend = "/api/app/registretion/resend-otp";
    let (status, answer) = post(&server, resend, json!({ "mobileNumber": "771234567" })).await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("resend_too_early")), "{answer}");
    let (status, _) = post(&server, resend, json!({ "mobileNumber": "771234568" })).await;
    assert_eq!(status, 204, "an unknown number is answered alike");
    let (status, answer) = check(&code).await;
    assert_eq!(status, 200, "{answer}");
    let token = answer["accessToken"].as_str().unwrap();
    let pending = "/api/app/message/pending-messages?phoneNumber=967771234567";
    assert_eq!(server.request("GET", pending, Some(token), None).await.0, 200);
    // Without a stored address nothing is sent, and the answer is as always.
    let body = json!({ "mobileNumber": "771234569", "os": 2, "noSms": true });
    let (status, answer) = post(&server, "/api/app/registretion/register", body).await;
    assert_eq!(status, 200, "{answer}");
    let silent = answer["registrationRequestId"].as_str().unwrap();
    no_job_is_left(&server).await;
    assert!(!server.log().contains(silent));
}

async fn no_job_is_left(server: &Server) {
    let database = server.database().await;
    let deadline = Instant::now() + crate::support::DEADLINE;
    loop {
        let sql = "SELECT count(*) AS count FROM jobs WHERE kind = 'otp'";
        let count: i64 = database.query_one(sql, &[]).await.unwrap().get("count");
        if count == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{count} jobs are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn codes_are_mailed_only_to_addresses_that_were_stored_before() {
    let sink = SmtpSink::start(Mood::Kind).await;
    let port = sink.port.to_string();
    let server = Server::start_with(&[
        ("ESH3AR__SMTP__HOST", "127.0.0.1"),
        ("ESH3AR__SMTP__PORT", &port),
        ("ESH3AR__SMTP__TLS", "none"),
        ("ESH3AR__SMTP__FROM", "esh3ar@example.org"),
        ("ESH3AR__SMTP__TO", "admin@example.org"),
        LOGGED,
    ])
    .await;
    let data = server.data();
    let blocked = "+967771234569";
    let added = run_json(&data, &["mobile", "add", PHONE, "--email", "user@example.org"]);
    assert_eq!(
        (&added["email"], &added["status"]),
        (&json!("user@example.org"), &json!("pending"))
    );
    run_json(&data, &["mobile", "add", blocked, "--verified", "--email", "user@example.org"]);
    run_json(&data, &["mobile", "block", blocked]);
    let mut answers = Vec::new();
    for phone in ["+967771234568", blocked, PHONE] {
        let asked = json!({ "phone": phone, "channel": "email" });
        let (status, answer) = post(&server, "/api/v1/registrations", asked).await;
        assert_eq!((status, &answer["channel"]), (202, &json!("email")), "{answer}");
        answers.push(answer);
    }
    no_job_is_left(&server).await;
    assert_eq!(sink.count(), 1, "neither to an unknown number nor to a blocked one");
    let mail = sink.mails.lock().unwrap()[0].clone();
    assert!(mail.contains("To: user@example.org"), "{mail}");
    let code = mailed_code(&mail);
    let subject = mail.lines().find(|line| line.starts_with("Subject:")).unwrap();
    assert!(!subject.contains(&code), "{subject}");
    assert!(!server.log().contains(&code), "log_codes has no effect beside a mail server");
    let (status, answer) = verify(&server, answers[2]["id"].as_str().unwrap(), &code).await;
    assert_eq!(status, 200, "{answer}");
    let removed = run_json(&data, &["mobile", "set", PHONE, "--email", "none"]);
    assert_eq!(removed["email"], Value::Null);
    assert_eq!(
        server.run(&["mobile", "set", PHONE, "--email", "no address"]).status.code(),
        Some(2)
    );
}

#[tokio::test]
async fn an_outage_of_the_mail_server_and_a_kill_lose_no_code() {
    let port = free_port();
    let at = port.to_string();
    let mut server = Server::start_with(&[
        ("ESH3AR__SMTP__HOST", "127.0.0.1"),
        ("ESH3AR__SMTP__PORT", &at),
        ("ESH3AR__SMTP__TLS", "none"),
        ("ESH3AR__SMTP__FROM", "esh3ar@example.org"),
        ("ESH3AR__SMTP__TO", "admin@example.org"),
    ])
    .await;
    run_json(&server.data(), &["mobile", "add", PHONE, "--email", "user@example.org"]);
    let id = register(&server, json!({ "phone": PHONE })).await;
    wait_for("a failed attempt", || {
        let log = server.log();
        log.lines()
            .any(|line| line.contains("a job is retried") && line.contains("otp"))
            .then_some(())
    })
    .await;
    server.kill();
    let sink = SmtpSink::start_on(port, Mood::Kind).await;
    server.launch().await;
    wait_for("the mail", || (sink.count() > 0).then_some(())).await;
    let code = mailed_code(&sink.mails.lock().unwrap()[0].clone());
    let (status, answer) = verify(&server, &id, &code).await;
    assert_eq!(status, 200, "{answer}");
}

/// The code of a mail in English.
fn mailed_code(mail: &str) -> String {
    let line = mail.lines().find_map(|line| line.trim().strip_suffix(" is your code"));
    line.filter(|code| is_code(code)).unwrap_or_else(|| panic!("no code in {mail}")).to_owned()
}

#[tokio::test]
async fn registrations_are_exported_and_erased() {
    let server = Server::start_with(&[LOGGED]).await;
    let id = register(&server, json!({ "phone": PHONE })).await;
    let code = logged_code(&server, &id).await;
    verify(&server, &id, &code).await;
    let exported = server.run(&["mobile", "export", PHONE]);
    let exported = String::from_utf8_lossy(&exported.stdout).into_owned();
    let line = exported.lines().find(|line| line.contains("\"record\":\"registration\""));
    let record: Value = serde_json::from_str(line.unwrap_or_else(|| panic!("{exported}"))).unwrap();
    assert_eq!((&record["id"], &record["country"]), (&json!(id), &json!("YE")), "{record}");
    assert!(!exported.contains(&code));
    run_json(&server.data(), &["mobile", "erase", PHONE, "--yes"]);
    let database = server.database().await;
    for table in ["registrations", "registration_codes", "registration_counts"] {
        let sql = format!("SELECT count(*) AS count FROM {table} t WHERE t::text LIKE $1");
        let about = format!("%{}%", PHONE.trim_start_matches('+'));
        let left: i64 = database.query_one(&sql, &[&about]).await.unwrap().get("count");
        assert_eq!(left, 0, "{table}");
    }
}

/// The time of an answer does not tell whether a number is known.
#[tokio::test]
async fn a_known_number_is_answered_as_fast_as_an_unknown_one() {
    const SAMPLES: usize = 40;
    let limits = ["ADDRESS", "COUNTRY"].map(|of| format!("ESH3AR__OTP__PER_{of}_HOUR"));
    // Fewer than the guard of a country judges.
    let server = Server::start_with(&[(&*limits[0], MANY), (&*limits[1], MANY)]).await;
    let known: Vec<String> = (0..SAMPLES / 2).map(number).collect();
    server.phones(&known.iter().map(String::as_str).collect::<Vec<_>>());
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..SAMPLES {
        let phone = if n % 2 == 0 { known[n / 2].clone() } else { number(1000 + n) };
        let began = Instant::now();
        register(&server, json!({ "phone": phone })).await;
        times[n % 2].push(began.elapsed());
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    assert!(known.abs_diff(unknown) < Duration::from_millis(5), "{known:?} {unknown:?}");
}

/// Processes over one database and one key file, with a clock that the test moves.
struct Processes {
    database: Database,
    keys: KeyStore,
    clock: Clock,
    sink: SmtpSink,
    rules: OtpRules,
    _folder: Folder,
}

fn key_file(folder: &Path) -> KeyStore {
    let file = KeyFile::new(folder.join("secrets.key"));
    let ring = file.create(time::OffsetDateTime::UNIX_EPOCH).unwrap();
    KeyStore::new(file, ring)
}

impl Processes {
    async fn new(change: impl FnOnce(OtpRules) -> OtpRules) -> Processes {
        let folder = Folder::new();
        Processes {
            database: Database::new().await,
            keys: key_file(folder.path()),
            // Not near midnight, where the budget begins again.
            clock: Clock::standing_at(
                time::OffsetDateTime::now_utc().replace_time(time::macros::time!(6:00)),
            ),
            sink: SmtpSink::start(Mood::Kind).await,
            rules: change(settings().runtime.otp),
            _folder: folder,
        }
    }

    /// Starts one.
    fn start(&self) -> (App, CancellationToken) {
        let usual = settings();
        let mailer = Mailer::smtp(&SmtpSettings {
            host: "127.0.0.1".to_owned(),
            port: self.sink.port,
            encryption: Encryption::None,
            credentials: None,
            from: "esh3ar@example.org".to_owned(),
            to: vec!["admin@example.org".to_owned()],
        });
        let settings = Settings {
            node: None,
            keys: Some(self.keys.clone()),
            clock: self.clock.clone(),
            runtime: RuntimeSettings {
                mailer: mailer.unwrap(),
                otp: self.rules.clone(),
                ..usual.runtime
            },
            ..usual
        };
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let store = Store::new(self.database.config(), 10).unwrap();
        (App::start(settings, store, &tracker, &stop), stop)
    }

    async fn count(&self, column: &str) -> i64 {
        let client = crate::support::connect(&self.database.config()).await;
        let sql = format!(
            "SELECT coalesce(sum({column}), 0) AS sum FROM registration_counts WHERE scope = 0"
        );
        client.query_one(&sql, &[]).await.unwrap().get("sum")
    }

    async fn tries(&self) -> i64 {
        let client = crate::support::connect(&self.database.config()).await;
        let sql = "SELECT sum(tries) AS sum FROM registration_codes";
        client.query_one(sql, &[]).await.unwrap().get("sum")
    }

    /// The code that was mailed last.
    async fn mailed(&self, app: &App) -> String {
        while let TakenJobs::Jobs(taken) = app.jobs.take(JobKind::Otp, 10).await.unwrap() {
            for job in taken {
                app.jobs.perform(JobKind::Otp, &job).await.unwrap();
            }
        }
        mailed_code(self.sink.mails.lock().unwrap().last().unwrap())
    }
}

/// A number to which codes are mailed.
async fn with_address(app: &App, number: &str) {
    let (by, phone) = (operator(), Phone::from_stored(number));
    let phones = [phone.clone()];
    app.identity.put_mobiles(&by, &phones, MobileStatus::Pending).await.unwrap();
    app.identity.set_mobile_email(&by, &phone, Some("user@example.org")).await.unwrap();
}

async fn ask(
    app: &App,
    phone: &str,
    address: u32,
) -> Result<RegistrationReceipt, RegistrationError> {
    let peer = Some(IpAddr::from((0x0a00_0000 + address).to_be_bytes()));
    let route = Some(CodeRoute::Email);
    let asked = RegistrationRequest { phone, platform: None, route, locale: None, peer };
    app.registration.request(asked).await
}

fn is_limited(result: &Result<RegistrationReceipt, RegistrationError>) -> bool {
    matches!(result, Err(RegistrationError::Limited { .. }))
}

#[tokio::test]
async fn a_thousand_guesses_over_two_processes_are_judged_five_times() {
    let processes = Processes::new(|rules| rules).await;
    let (one, two) = (processes.start(), processes.start());
    with_address(&one.0, PHONE).await;
    let id = ask(&one.0, PHONE, 1).await.unwrap().id;
    let code = processes.mailed(&two.0).await;
    let guesses: Vec<_> = (0..1000u32)
        .map(|n| {
            let app = if n % 2 == 0 { one.0.clone() } else { two.0.clone() };
            let guess = format!("{:06}", (code.parse::<u32>().unwrap() + 1 + n) % 1_000_000);
            tokio::spawn(async move {
                loop {
                    match app.registration.verify(id, &guess, None).await {
                        // All connections are in use: nothing was judged.
                        Err(RegistrationError::Failed(Error::Overloaded { .. })) => {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        judged => break judged.map(|_| ()),
                    }
                }
            })
        })
        .collect();
    for guess in guesses {
        let judged = guess.await.unwrap();
        assert!(matches!(judged, Err(RegistrationError::InvalidCode)), "{judged:?}");
    }
    assert_eq!((processes.tries().await, processes.count("failures").await), (5, 5));
    one.1.cancel();
    two.1.cancel();
    let (again, stop) = processes.start();
    let right = again.registration.verify(id, &code, None).await.map(|_| ());
    assert!(matches!(right, Err(RegistrationError::InvalidCode)), "a restart gives no try back");
    assert_eq!(processes.tries().await, 5);
    stop.cancel();
}

#[tokio::test]
async fn of_concurrent_right_guesses_one_gets_a_token() {
    let processes = Processes::new(|rules| rules).await;
    let (one, two) = (processes.start(), processes.start());
    with_address(&one.0, PHONE).await;
    let id = ask(&one.0, PHONE, 1).await.unwrap().id;
    let code = processes.mailed(&one.0).await;
    let guesses: Vec<_> = (0..8)
        .map(|n| {
            let app = if n % 2 == 0 { one.0.clone() } else { two.0.clone() };
            let code = code.clone();
            tokio::spawn(async move { app.registration.verify(id, &code, None).await.is_ok() })
        })
        .collect();
    let mut right = 0;
    for guess in guesses {
        right += usize::from(guess.await.unwrap());
    }
    assert_eq!(right, 1);
    one.1.cancel();
    two.1.cancel();
}

#[tokio::test]
async fn twenty_codes_give_ten_guesses_a_day() {
    let processes = Processes::new(|rules| OtpRules {
        per_phone_hour: 100,
        per_phone_day: 100,
        per_prefix_hour: 100,
        per_address_hour: 100,
        ..rules
    })
    .await;
    let (app, stop) = processes.start();
    with_address(&app, PHONE).await;
    let mut guesses = 0;
    let mut last = None;
    for n in 0..20 {
        let Ok(asked) = ask(&app, PHONE, 1).await else {
            assert!(guesses >= 10, "{n}: refused after {guesses} guesses");
            continue;
        };
        let code = processes.mailed(&app).await;
        for _ in 0..2 {
            let judged = app.registration.verify(asked.id, &wrong(&code), None).await;
            assert!(matches!(judged, Err(RegistrationError::InvalidCode)));
            guesses += 1;
        }
        last = Some((asked.id, code));
        processes.clock.advance(Duration::from_secs(300));
    }
    assert_eq!((guesses, processes.count("failures").await), (10, 10));
    assert!(is_limited(&ask(&app, PHONE, 1).await));
    // The next day it is free again.
    processes.clock.advance(Duration::from_secs(25 * 3600));
    let (id, code) = last.unwrap();
    let late = app.registration.verify(id, &code, None).await.map(|_| ());
    assert!(matches!(late, Err(RegistrationError::InvalidCode)), "it expired long ago");
    let asked = ask(&app, PHONE, 1).await.unwrap();
    let code = processes.mailed(&app).await;
    assert!(app.registration.verify(asked.id, &code, None).await.is_ok());
    stop.cancel();
}

#[tokio::test]
async fn a_code_is_repeated_while_it_has_life_and_resends_wait() {
    let processes = Processes::new(|rules| rules).await;
    let (app, stop) = processes.start();
    with_address(&app, PHONE).await;
    let first = ask(&app, PHONE, 1).await.unwrap();
    let code = processes.mailed(&app).await;
    let early = app.registration.resend(first.id).await;
    let wait = Duration::from_secs(60);
    assert!(
        matches!(early, Err(RegistrationError::ResendTooEarly { retry_after }) if retry_after == wait)
    );
    processes.clock.advance(wait);
    let again = app.registration.resend(first.id).await.unwrap();
    assert_eq!((again.id, again.resend_after), (first.id, Duration::from_secs(120)));
    assert_eq!(again.expires_at, first.expires_at);
    assert_eq!(processes.mailed(&app).await, code, "the first message stays right");
    let second = ask(&app, PHONE, 1).await.unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(processes.mailed(&app).await, code);
    // Less than a minute is left: a new code ends the old one.
    processes.clock.advance(Duration::from_secs(185));
    let third = ask(&app, PHONE, 1).await.unwrap();
    let newer = processes.mailed(&app).await;
    assert!(third.expires_at > first.expires_at && newer != code);
    let old = app.registration.verify(first.id, &code, None).await.map(|_| ());
    assert!(matches!(old, Err(RegistrationError::InvalidCode)));
    processes.clock.advance(Duration::from_secs(301));
    let late = app.registration.verify(third.id, &newer, None).await.map(|_| ());
    assert!(matches!(late, Err(RegistrationError::InvalidCode)), "it expired");
    // What expired is deleted a day later, and counts two hours after that.
    processes.clock.advance(Duration::from_secs(27 * 3600));
    while app.registration.expire().await.unwrap() {}
    let client = crate::support::connect(&processes.database.config()).await;
    for table in ["registrations", "registration_codes", "registration_counts"] {
        let sql = format!("SELECT count(*) AS count FROM {table}");
        let left: i64 = client.query_one(&sql, &[]).await.unwrap().get("count");
        assert_eq!(left, 0, "{table}");
    }
    stop.cancel();
}

#[tokio::test]
async fn sends_are_limited_by_phone_prefix_address_country_and_day() {
    let processes =
        Processes::new(|rules| OtpRules { per_country_hour: 45, daily_budget: 60, ..rules }).await;
    let (app, stop) = processes.start();
    let mut address = 100;
    let mut until_limited = async |phone: &dyn Fn(usize) -> String, moves: bool| {
        let mut count = 0;
        loop {
            address += u32::from(moves);
            match ask(&app, &phone(count), address).await {
                Ok(_) => count += 1,
                refused => {
                    assert!(is_limited(&refused), "{refused:?}");
                    return count;
                }
            }
        }
    };
    assert_eq!(until_limited(&|_| PHONE.to_owned(), true).await, 5, "a phone");
    let alike = |n: usize| format!("+96770000{n:04}");
    assert_eq!(until_limited(&alike, true).await, 20, "a prefix");
    assert_eq!(until_limited(&|n| number(100 + n), false).await, 10, "an address");
    assert_eq!(until_limited(&|n| number(200 + n), true).await, 10, "a country");
    let other = |n: usize| format!("+9665{n:04}0000");
    assert_eq!(until_limited(&other, true).await, 15, "a day");
    // Past the hour of the country and before the end of the day.
    processes.clock.advance(Duration::from_secs(2 * 3600));
    let Err(RegistrationError::Limited { retry_after }) = ask(&app, &number(900), 9000).await
    else {
        panic!("the budget is of a day")
    };
    assert_eq!(retry_after, Duration::from_secs(16 * 3600), "until midnight");
    stop.cancel();
}

#[tokio::test]
async fn a_verified_code_gives_its_address_back() {
    let processes = Processes::new(|rules| rules).await;
    let (app, stop) = processes.start();
    for n in 0..15 {
        let phone = number(n);
        with_address(&app, &phone).await;
        let asked = ask(&app, &phone, 1).await.unwrap();
        let code = processes.mailed(&app).await;
        app.registration.verify(asked.id, &code, None).await.map(|_| ()).unwrap();
    }
    for n in 20..30 {
        ask(&app, &number(n), 1).await.unwrap();
    }
    assert!(is_limited(&ask(&app, &number(30), 1).await), "ten that are not verified");
    assert!(ask(&app, &number(31), 2).await.is_ok(), "others are not concerned");
    stop.cancel();
}

#[tokio::test]
async fn a_country_whose_codes_nobody_verifies_is_paused_and_reported() {
    let processes = Processes::new(|rules| rules).await;
    let (app, stop) = processes.start();
    for n in 0..50 {
        ask(&app, &number(n), u32::try_from(n).unwrap()).await.unwrap();
    }
    let Err(RegistrationError::Limited { retry_after }) = ask(&app, &number(50), 50).await else {
        panic!("it is not paused")
    };
    assert_eq!(retry_after, Duration::from_secs(3600));
    assert!(ask(&app, "+966501234567", 51).await.is_ok(), "another country");
    assert_eq!(app.jobs.count(JobKind::Mail).await.unwrap(), 1, "the administrators are told once");
    processes.clock.advance(Duration::from_secs(3600));
    assert!(ask(&app, &number(52), 52).await.is_ok());
    stop.cancel();
}

/// By the documented calls alone, against a gateway: from nothing to the first message.
#[tokio::test]
async fn a_new_phone_gets_its_code_by_sms_and_then_its_first_message() {
    let gateway = GatewayStub::start().await;
    let url = format!("{}/?to={{to}}&text={{text}}", gateway.base);
    let server = Server::start_with(&[
        ("ESH3AR__OTP__COUNTRIES", "YE"),
        ("ESH3AR__SMS__GATEWAYS__0__NAME", "main"),
        ("ESH3AR__SMS__GATEWAYS__0__URL", &url),
    ])
    .await;
    let shop = server.user("shop", "SendMessages");
    // The first answer is no success: it is sent again.
    gateway.answers(500, "busy");
    gateway.answers(200, "ok");
    let id = register(&server, json!({ "phone": PHONE })).await;
    let mut calls = Vec::new();
    let code = wait_for("the code at the gateway", || {
        calls.extend(gateway.calls());
        let call = calls.get(1)?;
        let text = call.line.split("text=").nth(1)?.to_owned();
        Some(text.chars().take_while(char::is_ascii_digit).collect::<String>())
    })
    .await;
    assert!(is_code(&code), "{code}");
    let (status, session) = verify(&server, &id, &code).await;
    assert_eq!(status, 200, "{session}");
    let token = session["accessToken"].as_str().unwrap();
    let sent = server.send(&shop, PHONE, "welcome").await;
    let mut hub = server.hub(token).await;
    let (_, came) = crate::support::next_messages(&mut hub).await;
    assert_eq!((&came[0]["id"], &came[0]["content"]), (&json!(sent), &json!("welcome")));
    assert!(!server.log().contains(&code), "a code in the log");
    let (status, answer) =
        post(&server, "/api/v1/registrations", json!({ "phone": "+201001234567" })).await;
    assert_eq!((status, &answer["code"]), (400, &json!("country_not_allowed")));
}

/// A death before the commit of a request or of a verification leaves nothing half done.
#[tokio::test]
async fn a_registration_survives_a_death_at_any_step() {
    for name in REGISTRATION_NAMES {
        let mut server = Server::start_with(&[LOGGED, ("ESH3AR_FAILPOINT", name)]).await;
        let mut pending = None;
        if *name == "registration_before_verified" {
            let id = register(&server, json!({ "phone": PHONE })).await;
            pending = Some((id.clone(), logged_code(&server, &id).await));
        }
        let path = match &pending {
            Some((id, _)) => format!("{}/api/v1/registrations/{id}/verify", server.base),
            None => format!("{}/api/v1/registrations", server.base),
        };
        let body = match &pending {
            Some((_, code)) => json!({ "code": code }),
            None => json!({ "phone": PHONE }),
        };
        let answer = crate::support::http().post(path).json(&body).send().await;
        assert!(answer.is_err(), "{name}: it lives");
        wait_for("its death", || server.has_died().then_some(())).await;
        server.set("ESH3AR_FAILPOINT", None);
        server.launch().await;
        let (id, code) = match pending {
            Some(pending) => pending,
            None => {
                let id = register(&server, json!({ "phone": PHONE })).await;
                let code = logged_code(&server, &id).await;
                (id, code)
            }
        };
        assert_eq!(verify(&server, &id, &code).await.0, 200, "{name}");
        assert_eq!(verify(&server, &id, &code).await.0, 400, "{name}: used up");
    }
}
