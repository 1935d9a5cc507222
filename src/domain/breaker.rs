//! A circuit breaker: after several failures in a row it rejects calls for a while, then lets one probe
//! through.

use std::time::Duration;

use time::OffsetDateTime;

/// Whether a breaker lets a call through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerPermit {
    /// The call may proceed.
    Allow,
    /// The call may proceed as the only probe.
    Probe,
    /// The call is rejected until this time.
    DenyUntil(OffsetDateTime),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BreakerState {
    /// With this many failures in a row.
    Closed(u32),
    /// Rejects calls until this time.
    Open(OffsetDateTime),
    /// A probe is running; until this time, because a probe that never reports must not block forever.
    HalfOpen(OffsetDateTime),
}

/// The circuit breaker of one provider.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    threshold: u32,
    pause: Duration,
    state: BreakerState,
}

impl Breaker {
    /// A breaker that opens after `threshold` failures in a row, for `pause`.
    pub fn new(threshold: u32, pause: Duration) -> Breaker {
        Breaker { threshold: threshold.max(1), pause, state: BreakerState::Closed(0) }
    }

    /// Whether the breaker is open or half-open.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, BreakerState::Closed(_))
    }

    /// What [`Breaker::acquire`] would return, without acquiring.
    pub fn peek(&self, now: OffsetDateTime) -> BreakerPermit {
        match self.state {
            BreakerState::Closed(_) => BreakerPermit::Allow,
            BreakerState::Open(until) | BreakerState::HalfOpen(until) if now < until => {
                BreakerPermit::DenyUntil(until)
            }
            BreakerState::Open(_) | BreakerState::HalfOpen(_) => BreakerPermit::Probe,
        }
    }

    /// Requests a permit. A caller that gets one must report the outcome.
    pub fn acquire(&mut self, now: OffsetDateTime) -> BreakerPermit {
        let permit = self.peek(now);
        if permit == BreakerPermit::Probe {
            self.state = BreakerState::HalfOpen(now + self.pause);
        }
        permit
    }

    /// Reports success.
    pub fn succeeded(&mut self) {
        self.state = BreakerState::Closed(0);
    }

    /// Reports a failure of the provider.
    pub fn failed(&mut self, now: OffsetDateTime) {
        self.state = match self.state {
            BreakerState::Closed(failures) if failures + 1 < self.threshold => {
                BreakerState::Closed(failures + 1)
            }
            // A call from before it opened does not extend the pause.
            BreakerState::Open(until) => BreakerState::Open(until),
            BreakerState::Closed(_) | BreakerState::HalfOpen(_) => {
                BreakerState::Open(now + self.pause)
            }
        };
    }
}

/// How many jobs to claim with free capacity `room`, when each may need any of these providers; an error is
/// the time until which none can run. The provider of a job is only known after claiming it.
///
/// # Errors
/// The earliest time at which a breaker allows a call.
pub fn takeable(permits: &[BreakerPermit], room: usize) -> Result<usize, OffsetDateTime> {
    let mut probes = 0;
    let mut first = None;
    for permit in permits {
        match *permit {
            BreakerPermit::Allow => return Ok(room),
            BreakerPermit::Probe => probes += 1,
            BreakerPermit::DenyUntil(until) => {
                first = Some(first.map_or(until, |f: OffsetDateTime| f.min(until)))
            }
        }
    }
    match first {
        Some(until) if probes == 0 => Err(until),
        // Without known providers, each job is checked after claiming.
        _ if permits.is_empty() => Ok(room),
        _ => Ok(room.min(probes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(n: u64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(n)
    }

    #[test]
    fn it_opens_after_five_failures_and_lets_one_probe_through() {
        let mut breaker = Breaker::new(5, Duration::from_secs(60));
        for _ in 0..4 {
            breaker.failed(second(0));
        }
        assert_eq!(breaker.acquire(second(0)), BreakerPermit::Allow);
        breaker.failed(second(10));
        assert_eq!(breaker.acquire(second(11)), BreakerPermit::DenyUntil(second(70)));
        assert_eq!(breaker.acquire(second(70)), BreakerPermit::Probe);
        assert_eq!(breaker.acquire(second(70)), BreakerPermit::DenyUntil(second(130)), "one only");
        breaker.failed(second(71));
        assert_eq!(breaker.acquire(second(72)), BreakerPermit::DenyUntil(second(131)));
        assert_eq!(breaker.acquire(second(131)), BreakerPermit::Probe);
        breaker.succeeded();
        assert_eq!(breaker.acquire(second(132)), BreakerPermit::Allow);
    }

    #[test]
    fn a_probe_that_never_comes_back_does_not_shut_it_for_good() {
        let mut breaker = Breaker::new(1, Duration::from_secs(60));
        breaker.failed(second(0));
        assert_eq!(breaker.acquire(second(60)), BreakerPermit::Probe);
        assert_eq!(breaker.acquire(second(120)), BreakerPermit::Probe);
    }

    #[test]
    fn looking_is_not_passing() {
        let mut breaker = Breaker::new(1, Duration::from_secs(60));
        breaker.failed(second(0));
        assert_eq!(breaker.peek(second(59)), BreakerPermit::DenyUntil(second(60)));
        assert_eq!(breaker.peek(second(60)), BreakerPermit::Probe);
        assert_eq!(breaker.acquire(second(60)), BreakerPermit::Probe, "nobody has passed yet");
        assert_eq!(breaker.peek(second(60)), BreakerPermit::DenyUntil(second(120)));
    }

    #[test]
    fn jobs_are_taken_while_any_of_their_providers_may_be_tried() {
        let closed = |n| BreakerPermit::DenyUntil(second(n));
        assert_eq!(takeable(&[], 7), Ok(7));
        assert_eq!(takeable(&[closed(9), BreakerPermit::Allow], 7), Ok(7));
        assert_eq!(takeable(&[closed(9), BreakerPermit::Probe], 7), Ok(1));
        assert_eq!(takeable(&[BreakerPermit::Probe, BreakerPermit::Probe], 1), Ok(1));
        assert_eq!(takeable(&[closed(9), closed(4)], 7), Err(second(4)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn while_it_is_open_nobody_passes_but_one_probe_a_pause(
            steps in prop::collection::vec((0u64..30, any::<bool>()), 1..200)
        ) {
            let mut breaker = Breaker::new(3, Duration::from_secs(60));
            let (mut now, mut in_a_row) = (0, 0);
            let mut last_probe: Option<u64> = None;
            for (wait, works) in steps {
                now += wait;
                match breaker.acquire(second(now)) {
                    BreakerPermit::Allow => prop_assert!(in_a_row < 3),
                    BreakerPermit::Probe => {
                        prop_assert!(in_a_row >= 3);
                        prop_assert!(last_probe.is_none_or(|last| now >= last + 60));
                        last_probe = Some(now);
                    }
                    BreakerPermit::DenyUntil(until) => {
                        prop_assert!(in_a_row >= 3 && until > second(now));
                        continue;
                    }
                }
                if works {
                    breaker.succeeded();
                    in_a_row = 0;
                } else {
                    breaker.failed(second(now));
                    in_a_row += 1;
                }
            }
        }
    }
}
