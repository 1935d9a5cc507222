//! A circuit breaker: after so many failures in a row nobody tries for a while, and then one does.

use std::time::Duration;

use time::OffsetDateTime;

/// What a breaker lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Anybody may try.
    Free,
    /// One may try, and nobody else until that one is back.
    Probe,
    /// Nobody, until then.
    Closed(OffsetDateTime),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Failures in a row so far.
    Counting(u32),
    /// Nobody tries until then.
    Open(OffsetDateTime),
    /// One has been let through, to be back by then: a probe that never reports back must not shut
    /// the breaker for good.
    Probing(OffsetDateTime),
}

/// A breaker of one provider.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    threshold: u32,
    pause: Duration,
    state: State,
}

impl Breaker {
    /// One that opens after `threshold` failures in a row, for `pause`.
    pub fn new(threshold: u32, pause: Duration) -> Breaker {
        Breaker { threshold: threshold.max(1), pause, state: State::Counting(0) }
    }

    /// Whether it lets nobody or only a probe through.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Counting(_))
    }

    /// What [`Breaker::pass`] would say, without passing.
    pub fn look(&self, now: OffsetDateTime) -> Passage {
        match self.state {
            State::Counting(_) => Passage::Free,
            State::Open(until) | State::Probing(until) if now < until => Passage::Closed(until),
            State::Open(_) | State::Probing(_) => Passage::Probe,
        }
    }

    /// Asks for passage. Whoever is let through reports back.
    pub fn pass(&mut self, now: OffsetDateTime) -> Passage {
        let passage = self.look(now);
        if passage == Passage::Probe {
            self.state = State::Probing(now + self.pause);
        }
        passage
    }

    /// Somebody who was let through came back well.
    pub fn succeeded(&mut self) {
        self.state = State::Counting(0);
    }

    /// Somebody who was let through came back with a failure of the provider's.
    pub fn failed(&mut self, now: OffsetDateTime) {
        self.state = match self.state {
            State::Counting(failures) if failures + 1 < self.threshold => {
                State::Counting(failures + 1)
            }
            // One that set out before it opened does not keep it open for longer.
            State::Open(until) => State::Open(until),
            State::Counting(_) | State::Probing(_) => State::Open(now + self.pause),
        };
    }
}

/// Of jobs that may need any of some providers, how many are worth taking when there is room for `room`;
/// an error tells until when there are none. Nobody knows which provider a job needs before it is taken.
///
/// # Errors
/// When the first of the breakers lets one pass.
pub fn worth_taking(passages: &[Passage], room: usize) -> Result<usize, OffsetDateTime> {
    let mut probes = 0;
    let mut first = None;
    for passage in passages {
        match *passage {
            Passage::Free => return Ok(room),
            Passage::Probe => probes += 1,
            Passage::Closed(until) => {
                first = Some(first.map_or(until, |f: OffsetDateTime| f.min(until)))
            }
        }
    }
    match first {
        Some(until) if probes == 0 => Err(until),
        // Providers that are not named beforehand are found out one job at a time.
        _ if passages.is_empty() => Ok(room),
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
        assert_eq!(breaker.pass(second(0)), Passage::Free);
        breaker.failed(second(10));
        assert_eq!(breaker.pass(second(11)), Passage::Closed(second(70)));
        assert_eq!(breaker.pass(second(70)), Passage::Probe);
        assert_eq!(breaker.pass(second(70)), Passage::Closed(second(130)), "one only");
        breaker.failed(second(71));
        assert_eq!(breaker.pass(second(72)), Passage::Closed(second(131)));
        assert_eq!(breaker.pass(second(131)), Passage::Probe);
        breaker.succeeded();
        assert_eq!(breaker.pass(second(132)), Passage::Free);
    }

    #[test]
    fn a_probe_that_never_comes_back_does_not_shut_it_for_good() {
        let mut breaker = Breaker::new(1, Duration::from_secs(60));
        breaker.failed(second(0));
        assert_eq!(breaker.pass(second(60)), Passage::Probe);
        assert_eq!(breaker.pass(second(120)), Passage::Probe);
    }

    #[test]
    fn looking_is_not_passing() {
        let mut breaker = Breaker::new(1, Duration::from_secs(60));
        breaker.failed(second(0));
        assert_eq!(breaker.look(second(59)), Passage::Closed(second(60)));
        assert_eq!(breaker.look(second(60)), Passage::Probe);
        assert_eq!(breaker.pass(second(60)), Passage::Probe, "nobody has passed yet");
        assert_eq!(breaker.look(second(60)), Passage::Closed(second(120)));
    }

    #[test]
    fn jobs_are_taken_while_any_of_their_providers_may_be_tried() {
        let closed = |n| Passage::Closed(second(n));
        assert_eq!(worth_taking(&[], 7), Ok(7));
        assert_eq!(worth_taking(&[closed(9), Passage::Free], 7), Ok(7));
        assert_eq!(worth_taking(&[closed(9), Passage::Probe], 7), Ok(1));
        assert_eq!(worth_taking(&[Passage::Probe, Passage::Probe], 1), Ok(1));
        assert_eq!(worth_taking(&[closed(9), closed(4)], 7), Err(second(4)));
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
                match breaker.pass(second(now)) {
                    Passage::Free => prop_assert!(in_a_row < 3),
                    Passage::Probe => {
                        prop_assert!(in_a_row >= 3);
                        prop_assert!(last_probe.is_none_or(|last| now >= last + 60));
                        last_probe = Some(now);
                    }
                    Passage::Closed(until) => {
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
