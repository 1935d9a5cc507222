//! Jobs, and the mail about dead letters that is their first use.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use esh3ar::{
    app::{App, RuntimeSettings, Settings, jobs::TakenJobs},
    domain::job::{JobKind, JobPayload},
    mail::{Encryption, Mailer, SmtpSettings},
    store::{
        Store,
        jobs::{self, NewJob},
    },
};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    DEADLINE, Server, run_json, settings,
    smtp::{Mood, SmtpSink},
    wait_for,
};

const PHONE: &str = "+967771234567";

fn store(server: &Server) -> Store {
    let config = server.database_config();
    Store::new(config, 20).unwrap()
}

fn app(server: &Server, mailer: Mailer) -> (App, CancellationToken) {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let usual = settings();
    let runtime = RuntimeSettings { mailer, ..usual.runtime };
    let settings = Settings { node: None, runtime, ..usual };
    (App::start(settings, store(server), &tracker, &stop), stop)
}

fn mailer(sink: &SmtpSink) -> Mailer {
    Mailer::smtp(&SmtpSettings {
        host: "127.0.0.1".to_owned(),
        port: sink.port,
        encryption: Encryption::None,
        credentials: None,
        from: "esh3ar@example.org".to_owned(),
        to: vec!["admin@example.org".to_owned()],
    })
    .unwrap()
}

/// The environment of a server whose administrators are at a sink.
fn smtp(sink: &SmtpSink) -> Vec<(&'static str, String)> {
    vec![
        ("ESH3AR__SMTP__HOST", "127.0.0.1".to_owned()),
        ("ESH3AR__SMTP__PORT", sink.port.to_string()),
        ("ESH3AR__SMTP__TLS", "none".to_owned()),
        ("ESH3AR__SMTP__FROM", "esh3ar@example.org".to_owned()),
        ("ESH3AR__SMTP__TO", "admin@example.org, other@example.org".to_owned()),
    ]
}

async fn serve(environment: &[(&str, String)]) -> Server {
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Server::start_with(&environment).await
}

fn mail_job(n: usize, run_at: time::OffsetDateTime) -> NewJob {
    NewJob {
        id: Uuid::now_v7(),
        work: JobPayload::Mail { subject: format!("number {n}"), body: "text".to_owned() },
        message: None,
        unique_key: Some(format!("test/{n}")),
        run_at,
    }
}

#[tokio::test]
async fn sixteen_workers_do_each_of_five_hundred_jobs_once() {
    const JOBS: usize = 500;
    let server = Server::start().await;
    let sink = SmtpSink::start(Mood::Kind).await;
    let (app, stop) = app(&server, mailer(&sink));
    let pool = store(&server);
    let client = pool.client().await.unwrap();
    // Far enough ahead that the server's own worker does not see them.
    let later = time::OffsetDateTime::now_utc() + time::Duration::days(1);
    for n in 0..JOBS {
        assert!(jobs::enqueue(&client, &mail_job(n, later), later).await.unwrap());
        assert!(!jobs::enqueue(&client, &mail_job(n, later), later).await.unwrap(), "one a key");
    }
    let done: Arc<Mutex<HashMap<Uuid, usize>>> = Arc::default();
    let workers: Vec<_> = (0..16)
        .map(|_| {
            let (pool, done, app) = (pool.clone(), Arc::clone(&done), app.clone());
            tokio::spawn(async move {
                let now = later + time::Duration::seconds(1);
                loop {
                    let client = pool.client().await.unwrap();
                    let until = now + time::Duration::seconds(60);
                    let taken = jobs::claim(&client, JobKind::Mail, now, 7, until).await.unwrap();
                    drop(client);
                    if taken.is_empty() {
                        return;
                    }
                    for job in taken {
                        *done.lock().unwrap().entry(job.id).or_default() += 1;
                        app.jobs.perform(JobKind::Mail, &job).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let done = done.lock().unwrap().clone();
    assert_eq!((done.len(), done.values().max()), (JOBS, Some(&1)));
    assert_eq!(sink.count(), JOBS);
    assert_eq!(app.jobs.count(JobKind::Mail).await.unwrap(), 0);
    stop.cancel();
}

#[tokio::test]
async fn who_comes_back_after_the_lease_changes_nothing() {
    let server = Server::start().await;
    let pool = store(&server);
    let client = pool.client().await.unwrap();
    let now = time::OffsetDateTime::now_utc() + time::Duration::days(1);
    jobs::enqueue(&client, &mail_job(1, now), now).await.unwrap();
    let lease = time::Duration::seconds(60);
    let take = |at| jobs::claim(&client, JobKind::Mail, at, 10, at + lease);
    let slow = take(now).await.unwrap().remove(0);
    assert!(take(now + lease / 2).await.unwrap().is_empty(), "it is leased");
    assert!(jobs::renew(&client, &slow, now + lease * 2).await.unwrap());
    assert!(take(now + lease).await.unwrap().is_empty(), "the lease was renewed");
    let quick = take(now + lease * 2).await.unwrap().remove(0);
    assert_eq!((quick.id, quick.fence), (slow.id, slow.fence + 1));
    // Whatever the slow one does now, the job is the quick one's.
    assert!(!jobs::renew(&client, &slow, now + lease * 9).await.unwrap());
    assert!(!jobs::finish(&client, &slow).await.unwrap());
    assert!(!jobs::retry(&client, &slow, 1, now, "late", now).await.unwrap());
    assert!(!jobs::release(&client, &slow, now).await.unwrap());
    let class = esh3ar::domain::DeadLetterClass::Provider;
    assert!(!jobs::bury(&client, &slow, class, "late", Uuid::now_v7(), now).await.unwrap());
    assert!(jobs::finish(&client, &quick).await.unwrap());
    assert!(!jobs::finish(&client, &quick).await.unwrap(), "once");
}

#[tokio::test]
async fn a_job_in_hand_when_the_process_is_killed_is_done_by_the_next() {
    let sink = SmtpSink::start(Mood::Kind).await;
    let mut server = serve(&smtp(&sink)).await;
    let database = server.database().await;
    server.kill();
    drop(database);
    server.launch().await;
    let database = server.database().await;
    // As a killed process leaves it: leased, not finished, the lease at its end.
    database
        .execute(
            "INSERT INTO jobs (id, kind, payload, run_at, fence, leased, created_at)
             VALUES (gen_random_uuid(), 'mail', '{\"subject\": \"left behind\", \"body\": \"x\"}',
                     now() + interval '1 second', 7, true, now())",
            &[],
        )
        .await
        .unwrap();
    wait_for("the mail", || (sink.count() == 1).then_some(())).await;
    assert!(sink.mails.lock().unwrap()[0].contains("Subject: left behind"));
}

/// Puts dead letters there as failed deliveries do.
async fn dead_letters(server: &Server, shop: &str, count: usize) {
    let phone = server.token(&["--mobile", PHONE]);
    let _hub = server.hub(&phone).await;
    let messages: Vec<_> =
        (0..count).map(|n| json!({ "to": PHONE, "content": format!("{n}") })).collect();
    let before = letters(server).await;
    let body = json!({ "messages": messages });
    server.api(shop).post("/api/v1/messages/batch", &body).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while letters(server).await < before + count as i64 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn letters(server: &Server) -> i64 {
    let database = server.database().await;
    database.query_one("SELECT count(*) FROM dead_letters", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn fifty_dead_letters_make_one_mail_and_the_next_waits_for_its_time() {
    let sink = SmtpSink::start(Mood::Kind).await;
    let mut environment = smtp(&sink);
    environment.extend([
        ("ESH3AR__SMTP__ALERT_INTERVAL", "6s".to_owned()),
        ("ESH3AR__RETRY__ACKNOWLEDGE_TIMEOUT", "100ms".to_owned()),
        ("ESH3AR__RETRY__ATTEMPTS", "0".to_owned()),
    ]);
    let server = serve(&environment).await;
    let shop = server.user("shop", "SendMessages");
    run_json(&server.data(), &["mobile", "add", PHONE, "--verified"]);
    dead_letters(&server, &shop, 50).await;
    wait_for("the first mail", || (sink.count() >= 1).then_some(())).await;
    let first = Instant::now();
    dead_letters(&server, &shop, 5).await;
    wait_for("the second mail", || (sink.count() >= 2).then_some(())).await;
    // Whatever the first round missed is in the second, which comes when it is due.
    let mails = sink.mails.lock().unwrap().clone();
    let count = |mail: &str| -> usize {
        let subject = mail.lines().find_map(|line| line.strip_prefix("Subject: esh3ar: ")).unwrap();
        subject.split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(count(&mails[0]) + count(&mails[1]), 55, "{mails:?}");
    assert!(first.elapsed() >= Duration::from_secs(4), "{:?}", first.elapsed());
    let mail = &mails[1];
    assert!(mail.contains("To: admin@example.org, other@example.org"), "{mail}");
    assert!(mail.contains("delivery, recipient") && mail.contains("esh3ar dlq list"), "{mail}");
    assert!(mail.contains("esh3ar message explain ") && mail.contains("@esh3ar>"), "{mail}");
    assert!(!mail.contains(PHONE), "phone numbers are masked: {mail}");
}

#[tokio::test]
async fn a_mail_server_that_is_away_burns_no_attempts_and_is_asked_rarely() {
    let port = {
        let sink = SmtpSink::start(Mood::Kind).await;
        sink.port
    };
    let server = Server::start().await;
    let sink_settings = |port| SmtpSettings {
        host: "127.0.0.1".to_owned(),
        port,
        encryption: Encryption::None,
        credentials: None,
        from: "esh3ar@example.org".to_owned(),
        to: vec!["admin@example.org".to_owned()],
    };
    let clock =
        esh3ar::app::Clock::standing_at(time::OffsetDateTime::now_utc() + time::Duration::days(30));
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let usual = settings();
    let settings = Settings {
        node: None,
        clock: clock.clone(),
        runtime: RuntimeSettings {
            mailer: Mailer::smtp(&sink_settings(port)).unwrap(),
            ..usual.runtime
        },
        ..usual
    };
    let app = App::start(settings, store(&server), &tracker, &stop);
    let client = store(&server).client().await.unwrap();
    for n in 0..3 {
        jobs::enqueue(&client, &mail_job(n, clock.now()), clock.now()).await.unwrap();
    }
    let tries = AtomicUsize::new(0);
    let round = async || {
        if let TakenJobs::Jobs(taken) = app.jobs.take(JobKind::Mail, 10).await.unwrap() {
            for job in taken {
                assert_eq!(job.attempts, 0, "an attempt was burnt");
                tries.fetch_add(1, Ordering::SeqCst);
                app.jobs.perform(JobKind::Mail, &job).await.unwrap();
            }
        }
    };
    for _ in 0..100 {
        round().await;
        clock.advance(Duration::from_secs(6));
    }
    // Ten minutes: five failures open the breaker, then one probe a minute.
    let tried = tries.load(Ordering::SeqCst);
    assert!((6..=18).contains(&tried), "{tried}");
    let sink = SmtpSink::start_on(port, Mood::Kind).await;
    clock.advance(Duration::from_secs(61));
    for _ in 0..20 {
        round().await;
        clock.advance(Duration::from_secs(6));
    }
    assert_eq!((sink.count(), app.jobs.count(JobKind::Mail).await.unwrap()), (3, 0));
    stop.cancel();
}

#[tokio::test]
async fn a_mail_that_is_refused_becomes_a_dead_letter_without_a_mail_about_it_and_can_be_put_back()
{
    let sink = SmtpSink::start(Mood::Refusing(550)).await;
    let mut environment = smtp(&sink);
    environment.push(("ESH3AR__SMTP__ALERT_INTERVAL", "1s".to_owned()));
    let server = serve(&environment).await;
    server.expect_error("a job is given up");
    let pool = store(&server);
    let client = pool.client().await.unwrap();
    let now = time::OffsetDateTime::now_utc();
    jobs::enqueue(&client, &mail_job(1, now), now).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while letters(&server).await == 0 {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let listed = run_json(&server.data(), &["dlq", "list", "--kind", "mail"]);
    assert_eq!((&listed[0]["class"], &listed[0]["attempts"]), (&json!("provider"), &json!(1)));
    assert!(listed[0]["reason"].as_str().unwrap().contains("550"), "{listed}");
    let connections = sink.connections.load(Ordering::SeqCst);
    sink.set(Mood::Kind);
    let id = listed[0]["id"].as_str().unwrap();
    let done = run_json(&server.data(), &["dlq", "requeue", id]);
    assert_eq!(done["requeued"], 1);
    wait_for("the mail", || (sink.count() == 1).then_some(())).await;
    assert!(sink.mails.lock().unwrap()[0].contains("Subject: number 1"));
    assert!(sink.connections.load(Ordering::SeqCst) <= connections + 1, "no mail about mail");
    assert_eq!(run_json(&server.data(), &["dlq", "list"]), json!([]));
}

#[tokio::test]
async fn a_broken_off_mail_is_sent_again() {
    let sink = SmtpSink::start(Mood::Breaking).await;
    let server = serve(&smtp(&sink)).await;
    let pool = store(&server);
    let client = pool.client().await.unwrap();
    let now = time::OffsetDateTime::now_utc();
    jobs::enqueue(&client, &mail_job(1, now), now).await.unwrap();
    let connections = Arc::clone(&sink.connections);
    wait_for("a first try", || (connections.load(Ordering::SeqCst) > 0).then_some(())).await;
    sink.set(Mood::Kind);
    wait_for("the mail", || (sink.count() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_and_health_say_whether_the_mail_server_answers() {
    let sink = SmtpSink::start(Mood::Kind).await;
    let environment = smtp(&sink);
    let server = serve(&environment).await;
    let health = async || -> serde_json::Value {
        crate::support::get(format!("{}/health", server.metrics))
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    };
    assert_eq!(health().await["dependencies"]["mail"]["status"], "up");
    let mut doctor = crate::support::command(&server.data());
    doctor.args(["doctor", "-o", "json"]).envs(environment.iter().map(|(k, v)| (k, v)));
    let output = doctor.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("the mail server answers"));
    drop(sink);
    let sick = health().await;
    assert_eq!(
        (&sick["status"], &sick["dependencies"]["mail"]["status"]),
        (&json!("healthy"), &json!("down"))
    );
    let output = doctor.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
