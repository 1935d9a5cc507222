//! Rates that are counted together, against the same rule in one process.

use std::time::{Duration, Instant};

use esh3ar::{
    domain::rate::{Rate, SlidingWindow},
    redis::RateAdmission,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::Node;
use crate::support;

const HOUR: Duration = Duration::from_secs(3600);

/// Two processes on one Redis.
async fn two() -> Option<(support::redis::Redis, Node, Node)> {
    let server = support::redis::Redis::start().await?;
    let (a, b) = (Node::start(0xA, &server.url()).await, Node::start(0xB, &server.url()).await);
    Some((server, a, b))
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[derive(Clone, Debug)]
enum Step {
    Admit { wanted: u32, all_or_none: bool },
    GiveBack(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u32..12, any::<bool>())
            .prop_map(|(wanted, all_or_none)| Step::Admit { wanted, all_or_none }),
        1 => (1u32..15).prop_map(Step::GiveBack),
    ]
}

/// What happens within a part of the window is exactly what happens in one process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counting_together_is_counting() {
    let Some((_server, a, b)) = two().await else { return };
    let limits = (0u32..30, 1u32..30);
    let histories = (limits, prop::collection::vec((any::<bool>(), step()), 1..20));
    let tested = tokio::task::block_in_place(|| {
        runner(128).run(&histories, |(limits, steps)| {
            let name = Uuid::new_v4().to_string();
            Handle::current().block_on(exactly([&a, &b], &name, limits, &steps))
        })
    });
    tested.unwrap();
}

async fn exactly(
    nodes: [&Node; 2],
    name: &str,
    limits: (u32, u32),
    steps: &[(bool, Step)],
) -> Result<(), TestCaseError> {
    // The second is the longer one: if both are exhausted it is the one to wait for.
    let rates = [Rate { most: limits.0, window: HOUR }, Rate { most: limits.1, window: HOUR * 2 }];
    let mut model = [SlidingWindow::default(), SlidingWindow::default()];
    let now = HOUR * 1000;
    for (which, step) in steps {
        let redis = &nodes[usize::from(*which)].redis;
        match step {
            Step::GiveBack(count) => {
                redis.give_back(name, *count, &rates).await.unwrap();
                // Nothing is noted in one without a limit.
                model.iter_mut().for_each(|window| window.give_back(*count));
            }
            Step::Admit { wanted, all_or_none } => {
                let rooms = [model[0].room(rates[0], now), model[1].room(rates[1], now)];
                let room = rooms[0].min(rooms[1]).min(*wanted);
                let passes = if *all_or_none && room < *wanted { 0 } else { room };
                let needed = if *all_or_none { *wanted } else { 1 };
                let found = redis.admit(name, *wanted, *all_or_none, &rates).await.unwrap();
                match found {
                    RateAdmission::Passed(passed) => prop_assert_eq!(passed, passes),
                    RateAdmission::Wait { rate, retry_after } => {
                        prop_assert_eq!(passes, 0);
                        prop_assert_eq!(rate, usize::from(rooms[1] < needed));
                        let window = rates[rate].window;
                        prop_assert!(retry_after <= window + window / 60, "{:?}", retry_after);
                        prop_assert!(retry_after > window - window / 10, "{:?}", retry_after);
                    }
                }
                for (window, rate) in model.iter_mut().zip(rates) {
                    window.pass(rate, now, passes);
                }
            }
        }
    }
    Ok(())
}

/// The time of Redis cannot be set; windows of a moment are watched instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_holds_more_and_after_the_wait_it_passes() {
    let Some((_server, a, b)) = two().await else { return };
    let steps = prop::collection::vec((0u64..12, 1u32..6, any::<bool>(), any::<bool>()), 1..12);
    let tested = tokio::task::block_in_place(|| {
        runner(100).run(&(1u32..10, steps), |(most, steps)| {
            let name = Uuid::new_v4().to_string();
            Handle::current().block_on(strictly([&a, &b], &name, most, &steps))
        })
    });
    tested.unwrap();
}

async fn strictly(
    nodes: [&Node; 2],
    name: &str,
    most: u32,
    steps: &[(u64, u32, bool, bool)],
) -> Result<(), TestCaseError> {
    let rates = rates_of(most);
    // When it passed at the earliest and at the latest, and how many.
    let mut passed: Vec<(Instant, Instant, u32)> = Vec::new();
    for (pause, wanted, which, all_or_none) in steps {
        tokio::time::sleep(Duration::from_millis(*pause)).await;
        let redis = &nodes[usize::from(*which)].redis;
        let wanted = (*wanted).min(most);
        let mut wait = Duration::ZERO;
        // To be refused on the way changes nothing: what was said first is how long it takes.
        for part in [0, 2, 3, 6] {
            if part > 0 {
                tokio::time::sleep(wait / part).await;
            }
            let before = Instant::now();
            match redis.admit(name, wanted, *all_or_none, &rates).await.unwrap() {
                RateAdmission::Passed(count) => {
                    passed.push((before, Instant::now(), count));
                    break;
                }
                RateAdmission::Wait { retry_after, .. } if part == 0 => {
                    prop_assert!(retry_after <= WINDOW * 62 / 60, "{:?}", retry_after);
                    wait = retry_after;
                }
                RateAdmission::Wait { retry_after, .. } => {
                    prop_assert!(part < 6, "after {:?} another {:?}", wait, retry_after);
                }
            }
        }
    }
    for (first, (began, ..)) in passed.iter().enumerate() {
        let within = passed[first..]
            .iter()
            .take_while(|(_, ended, _)| ended.duration_since(*began) < WINDOW);
        let sum: u32 = within.map(|(.., count)| count).sum();
        prop_assert!(sum <= most, "{} in a window of {}", sum, most);
    }
    Ok(())
}

const WINDOW: Duration = Duration::from_millis(60);

/// The second stops nobody whom the first lets pass, and forgets at other times.
fn rates_of(most: u32) -> [Rate; 2] {
    [Rate { most, window: WINDOW }, Rate { most, window: WINDOW / 2 }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_have_one_limit() {
    let Some((_server, a, b)) = two().await else { return };
    let rates = [Rate { most: 100, window: HOUR / 60 }];
    let tries = (0..150).map(|n| {
        let redis = [&a, &b][n % 2].redis.clone();
        tokio::spawn(async move { redis.admit("crowd", 1, false, &rates).await.unwrap() })
    });
    let mut passed = 0;
    for tried in tries.collect::<Vec<_>>() {
        match tried.await.unwrap() {
            RateAdmission::Passed(count) => passed += count,
            RateAdmission::Wait { rate, .. } => assert_eq!(rate, 0),
        }
    }
    assert_eq!(passed, 100);
    let wait = b.redis.wait_of("crowd", &rates).await.unwrap();
    assert!(matches!(wait, Some((0, wait)) if wait <= HOUR / 60 * 61 / 60), "{wait:?}");
    b.redis.give_back("crowd", 7, &rates).await.unwrap();
    // To ask counts nothing.
    for name in ["crowd", "nobody"] {
        assert_eq!(b.redis.wait_of(name, &rates).await.unwrap(), None);
    }
    let all = a.redis.admit("crowd", 8, true, &rates).await.unwrap();
    assert!(matches!(all, RateAdmission::Wait { rate: 0, .. }), "{all:?}");
    assert_eq!(a.redis.admit("crowd", 8, false, &rates).await.unwrap(), RateAdmission::Passed(7));
}

/// A name that nobody counts under any more is not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_counted_is_forgotten_some_time() {
    let Some((server, a, _b)) = two().await else { return };
    let rates = [Rate { most: 5, window: HOUR / 60 }];
    a.redis.give_back("late", 3, &rates).await.unwrap();
    assert_eq!(server.ask("EXISTS esh3ar:v2:rate:late").as_deref(), Some(":0\r\n"));
    a.redis.admit("late", 3, false, &rates).await.unwrap();
    a.redis.give_back("late", 3, &rates).await.unwrap();
    let ends = server.ask("TTL esh3ar:v2:rate:late").unwrap();
    assert!(matches!(ends.trim().trim_start_matches(':').parse(), Ok(1..=63)), "{ends}");
}
