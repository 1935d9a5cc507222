use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::*;
use crate::{
    app::admin::stats::{
        Counted, DatabaseInfo, DeadLetterCount, LaneStats, Node, Role, SlowRecipient, StatsSnapshot,
    },
    domain::{
        DeadLetterClass, Party, Priority,
        process_stats::{DependencyHealth, LatencyHistogram, MessageCounts, ProcessStats},
    },
    server::view::{StepView, timeline::VerdictView},
};

pub(in super::super) fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)
}

pub(in super::super) fn letter(n: u128, to: &str, reason: &str) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId(Uuid::from_u128(n)),
        message: Some(MessageId(Uuid::from_u128(1000 + n))),
        generation: 0,
        kind: "delivery".to_owned(),
        class: if n.is_multiple_of(2) {
            DeadLetterClass::Recipient
        } else {
            DeadLetterClass::System
        },
        reason: reason.to_owned(),
        attempts: 7,
        first_error_at: now() - Duration::hours(1),
        last_error_at: now() - Duration::minutes(i64::try_from(n).unwrap()),
        from: "Shop".to_owned(),
        to: Some(Phone::from_stored(to)),
        subject: None,
    }
}

fn node(n: u8, role: Role, connections: u64) -> Node {
    let mut latencies = LatencyHistogram::default();
    for millis in 1..=100 {
        latencies.add(LatencyHistogram::bucket(millis), 1);
    }
    let sample = |n| MessageCounts { accepted: n, delivered: n / 2, failed: 0, retries: 0 };
    let total = MessageCounts { accepted: 12_345, delivered: 12_000, failed: 3, retries: 9 };
    Node {
        id: [n; 8].into(),
        role,
        host: format!("host{n}"),
        pid: 100 + i32::from(n),
        version: "0.1.0".to_owned(),
        address: Some(format!("http://10.0.0.{n}:5000")),
        partitions: vec![],
        draining: false,
        drain_asked: None,
        figures: ProcessStats {
            total,
            latencies: latencies.clone(),
            recent: (0..60).map(sample).collect(),
            recent_latencies: latencies,
            connections,
            wake_ups: [0, 4, 0],
            backpressure: Some("open".to_owned()),
            memory: Some(70 << 20),
            parts: vec![
                DependencyHealth {
                    name: "database".to_owned(),
                    up: true,
                    ..DependencyHealth::default()
                },
                DependencyHealth {
                    name: "rabbitmq".to_owned(),
                    up: true,
                    version: Some("3.10.8".to_owned()),
                    ..DependencyHealth::default()
                },
            ],
        },
        started_at: now() - Duration::hours(5),
    }
}

/// Two processes, two dead letters, one slow recipient.
pub(in super::super) fn data() -> DashboardData {
    let nodes = vec![node(1, Role::Gateway, 1200), node(2, Role::Worker, 0)];
    let mut all = ProcessStats::default();
    nodes.iter().for_each(|node| all.merge(&node.figures));
    let lane = |lane, waiting, in_flight| LaneStats {
        lane,
        waiting,
        oldest_waiting_at: (waiting > 0).then(|| now() - Duration::minutes(3)),
        in_flight,
        oldest_in_flight_at: (in_flight > 0).then(|| now() - Duration::seconds(7)),
        wake_ups: 0,
    };
    let snapshot = StatsSnapshot {
        at: now() - Duration::seconds(1),
        lanes: vec![
            lane(Priority::High, 0, 0),
            lane(Priority::Normal, 19_990, 12),
            lane(Priority::Low, 10, 0),
        ],
        waiting: Counted { count: 20_000, at_least: true },
        in_flight: Counted { count: 12, at_least: false },
        dead: Counted { count: 2, at_least: false },
        dead_by_class: vec![DeadLetterCount {
            class: DeadLetterClass::Recipient,
            count: 2,
            newest_at: now(),
        }],
        slowest: vec![SlowRecipient {
            recipient: Party::Mobile(Phone::from_stored("+967771234567")),
            name: String::new(),
            in_flight: 12,
            oldest: MessageId(Uuid::from_u128(77)),
            oldest_at: now() - Duration::seconds(42),
            retries: 2,
            connected: Some(true),
        }],
        database: DatabaseInfo {
            version: "15.18".to_owned(),
            size: 38 << 20,
            connections: 12,
            most_connections: 64,
        },
        database_ms: 0.4,
        nodes,
        all,
    };
    let letters = vec![
        letter(1, "+967771234567", "the device was connected and did not acknowledge"),
        letter(2, "+967779999999", "the mail server refused it"),
    ];
    DashboardData { stats: StatsView::new(&snapshot, true), letters }
}

pub(in super::super) fn model(theme: Theme) -> Model {
    let mut model = Model::new(theme, false, false, now());
    assert_eq!(model.update(Msg::Refreshed(Ok(Box::new(data())))), None);
    model
}

pub(in super::super) fn press(model: &mut Model, code: KeyCode) -> Option<Effect> {
    model.update(Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn type_text(model: &mut Model, text: &str) {
    for c in text.chars() {
        assert_eq!(press(model, KeyCode::Char(c)), None);
    }
}

pub(in super::super) fn story() -> ExplanationView {
    ExplanationView {
        id: Uuid::nil(),
        from: "Shop".to_owned(),
        to: "+967771234567".to_owned(),
        status: "failed".to_owned(),
        priority: "normal".to_owned(),
        steps: vec![
            StepView {
                at: now() - Duration::minutes(2),
                step: "pending".to_owned(),
                detail: "accepted and durable".to_owned(),
                count: None,
                last_at: None,
            },
            StepView {
                at: now() - Duration::minutes(1),
                step: "failed".to_owned(),
                detail: "the recipient's device was connected and did not acknowledge".to_owned(),
                count: None,
                last_at: None,
            },
        ],
        verdict: VerdictView {
            code: "given_up".to_owned(),
            sentence: "It was given up after seven attempts.".to_owned(),
            next: Some("esh3ar dlq requeue 1".to_owned()),
        },
    }
}

#[test]
fn tab_goes_round_and_quits_are_heard() {
    let mut model = model(Theme::default());
    assert_eq!(model.focus, Panel::Letters);
    press(&mut model, KeyCode::Tab);
    assert_eq!(model.focus, Panel::Recipients);
    press(&mut model, KeyCode::Right);
    assert_eq!(model.focus, Panel::Flow);
    press(&mut model, KeyCode::BackTab);
    assert_eq!(model.focus, Panel::Recipients);
    assert_eq!(press(&mut model, KeyCode::Char('q')), Some(Effect::Quit));
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut model, KeyCode::Char('/'));
    assert_eq!(model.update(Msg::Key(control)), Some(Effect::Quit));
}

#[test]
fn a_filter_narrows_every_list() {
    let mut model = model(Theme::default());
    press(&mut model, KeyCode::Char('/'));
    // What quits elsewhere is a letter here.
    type_text(&mut model, "q");
    press(&mut model, KeyCode::Backspace);
    type_text(&mut model, "71234567");
    assert_eq!((model.letters().len(), model.recipients().len(), model.nodes().len()), (1, 1, 0));
    press(&mut model, KeyCode::Enter);
    assert_eq!((model.mode.clone(), model.filter.as_str()), (Mode::Browse, "71234567"));
    press(&mut model, KeyCode::Esc);
    assert_eq!((model.letters().len(), model.filter.as_str()), (2, ""));
    press(&mut model, KeyCode::Char('/'));
    type_text(&mut model, "MAIL SERVER");
    assert_eq!(model.letters()[0].id, DeadLetterId(Uuid::from_u128(2)));
    press(&mut model, KeyCode::Esc);
    assert_eq!((model.letters().len(), model.mode.clone()), (2, Mode::Browse));
}

#[test]
fn a_list_is_sorted_by_its_own_keys_and_back() {
    let mut model = model(Theme::default());
    let first = |model: &Model| model.letters()[0].id.0.as_u128();
    assert_eq!(first(&model), 1, "newest first");
    press(&mut model, KeyCode::Char('A'));
    assert_eq!(first(&model), 2, "oldest first");
    press(&mut model, KeyCode::Char('A'));
    assert_eq!(first(&model), 1, "the other way round");
    press(&mut model, KeyCode::Char('A'));
    assert_eq!(model.sorts[Panel::Letters as usize], Sort::default());
    press(&mut model, KeyCode::Char('M'));
    assert_eq!(model.sorts, [Sort::default(); 6], "a key of another list");
    model.focus = Panel::Nodes;
    press(&mut model, KeyCode::Char('C'));
    assert_eq!(model.nodes()[0].connections, 1200);
    press(&mut model, KeyCode::Char('C'));
    assert_eq!(model.nodes()[0].connections, 0);
}

#[test]
fn the_cursor_stays_on_its_row_when_others_come() {
    let mut model = model(Theme::default());
    press(&mut model, KeyCode::Down);
    assert_eq!(model.chosen_letter().unwrap().id.0.as_u128(), 2);
    let mut more = data();
    more.letters.insert(0, letter(9, "+967770000000", "new"));
    model.update(Msg::Refreshed(Ok(Box::new(more))));
    assert_eq!(model.chosen_letter().unwrap().id.0.as_u128(), 2);
    assert_eq!(model.selection(Panel::Letters).index, 2);
    // Gone: the nearest there is.
    let mut fewer = data();
    fewer.letters.truncate(1);
    model.update(Msg::Refreshed(Ok(Box::new(fewer))));
    assert_eq!(model.chosen_letter().unwrap().id.0.as_u128(), 1);
    for _ in 0..3 {
        press(&mut model, KeyCode::Up);
    }
    assert_eq!(model.selection(Panel::Letters).index, 0);
}

#[test]
fn a_requeue_is_asked_for_and_confirmed_by_y_alone() {
    let mut model = model(Theme::default());
    let id = DeadLetterId(Uuid::from_u128(1));
    press(&mut model, KeyCode::Char('r'));
    assert_eq!(model.mode, Mode::Confirm(id));
    assert_eq!(press(&mut model, KeyCode::Enter), None);
    assert_eq!(model.mode, Mode::Browse);
    press(&mut model, KeyCode::Char('r'));
    assert_eq!(press(&mut model, KeyCode::Char('y')), Some(Effect::Requeue(id)));
    assert_eq!(model.update(Msg::Requeued(id, Ok(true))), Some(Effect::Refresh));
    assert!(model.notice.as_ref().unwrap().0.starts_with("requeued"));
    // It goes by itself.
    model.update(Msg::Tick(now() + Duration::seconds(9)));
    assert!(model.notice.is_none());
    model.update(Msg::Requeued(id, Err("the database is away".to_owned())));
    assert!(model.notice.as_ref().unwrap().0.ends_with("the database is away"));
}

#[test]
fn readonly_changes_nothing() {
    let mut model = model(Theme::default());
    model.readonly = true;
    press(&mut model, KeyCode::Char('r'));
    assert_eq!(model.mode, Mode::Browse);
    assert!(model.notice.as_ref().unwrap().0.contains("--readonly"));
    assert_eq!(press(&mut model, KeyCode::Char('y')), None);
}

#[test]
fn enter_opens_and_escape_comes_back() {
    let mut model = model(Theme::default());
    let message = MessageId(Uuid::from_u128(1001));
    assert_eq!(press(&mut model, KeyCode::Enter), Some(Effect::Explain(message)));
    // A story that was asked for before, of something that is closed, is not shown.
    let other = MessageId(Uuid::from_u128(5));
    model.update(Msg::Explained(other, Box::new(Ok(story()))));
    assert!(matches!(&model.open, Some(OpenDetail::Letter(_, None))));
    model.update(Msg::Explained(message, Box::new(Ok(story()))));
    assert!(matches!(&model.open, Some(OpenDetail::Letter(_, Some(Ok(_))))));
    press(&mut model, KeyCode::Down);
    assert_eq!((model.scroll, model.selection(Panel::Letters).index), (1, 0));
    press(&mut model, KeyCode::Tab);
    assert_eq!(model.focus, Panel::Letters, "the panels are not there");
    press(&mut model, KeyCode::Esc);
    assert!(model.open.is_none());
    model.focus = Panel::Recipients;
    let oldest = MessageId(Uuid::from_u128(77));
    assert_eq!(press(&mut model, KeyCode::Enter), Some(Effect::Explain(oldest)));
    assert_eq!(model.scroll, 0);
    press(&mut model, KeyCode::Char('r'));
    assert_eq!(model.mode, Mode::Browse, "a message is no dead letter");
    press(&mut model, KeyCode::Esc);
    model.focus = Panel::Nodes;
    assert_eq!(press(&mut model, KeyCode::Enter), None);
    assert!(matches!(&model.open, Some(OpenDetail::Node(id)) if id == "0101010101010101"));
}

#[test]
fn an_empty_list_takes_every_key() {
    let mut model = Model::new(Theme::default(), false, false, now());
    for panel in Panel::ALL {
        model.focus = panel;
        for code in [KeyCode::Enter, KeyCode::Esc, KeyCode::Char('r'), KeyCode::End, KeyCode::Up] {
            assert_eq!(press(&mut model, code), None);
            model.open = None;
        }
    }
}

#[test]
fn a_failed_look_keeps_what_was_known() {
    let mut model = model(Theme::default());
    model.update(Msg::Refreshed(Err("the database cannot be reached".to_owned())));
    model.update(Msg::Tick(now() + Duration::seconds(30)));
    assert_eq!((model.letters().len(), model.data_age()), (2, Some(31)));
    assert!(model.error.is_some());
    model.update(Msg::Refreshed(Ok(Box::new(data()))));
    assert!(model.error.is_none());
}
