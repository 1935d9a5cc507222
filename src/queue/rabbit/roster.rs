//! Which partitions this worker reads, and when it steps back from one.
//!
//! A queue has one active consumer, the one that has been registered longest; the others stand by, and
//! the broker itself goes on with the next when one is gone. So each worker registers at once where
//! the plan wants it to lead, and everywhere else a little later. Who is active without being meant to
//! steps back to the end of the line. The broker does not say who is active: it shows when something is
//! delivered.

use std::time::{Duration, Instant};

/// How much later than the leader the others stand in line.
pub(super) const STAND_BY: Duration = Duration::from_secs(3);
/// How long stepping back waits for what is in hand. It takes nothing more meanwhile; what is not finished
/// by then the next in line does again.
const QUIET: Duration = Duration::from_secs(2);
/// Stepping back happens at most this often, because without a leader everybody does it, and newer brokers
/// give up on a frame that was given back twenty times.
const AT_MOST: Duration = Duration::from_secs(2);

/// What to do about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Stand in line.
    Register(u16),
    /// Leave the line.
    Leave(u16),
}

/// Our place in each partition's line.
#[derive(Debug)]
pub(super) struct Roster {
    begun: Instant,
    seats: Vec<Seat>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    /// Whether the plan wants us to lead.
    ours: bool,
    /// Since when we have stood in line.
    registered: Option<Instant>,
    /// Until when what is in hand is waited for. From then on nothing more is taken, and what was passed over
    /// comes to nobody before we have left: so there is no way back.
    leaving: Option<Instant>,
}

impl Roster {
    pub(super) fn new(partitions: u16, now: Instant) -> Roster {
        Roster { begun: now, seats: vec![Seat::default(); usize::from(partitions)] }
    }

    /// The partitions that the plan wants us to lead; others are passed over.
    pub(super) fn plan(&mut self, ours: &[u16], now: Instant) {
        for (partition, seat) in (0..).zip(&mut self.seats) {
            let was = std::mem::replace(&mut seat.ours, ours.contains(&partition));
            if was && !seat.ours && seat.registered.is_some() {
                seat.leaving.get_or_insert(now + QUIET);
            }
        }
    }

    /// Something of a partition was delivered to us: so we are active there.
    pub(super) fn delivered(&mut self, partition: u16, now: Instant) {
        if let Some(seat) = self.seats.get_mut(usize::from(partition))
            && !seat.ours
            && seat.registered.is_some_and(|since| now >= since + AT_MOST)
        {
            seat.leaving.get_or_insert(now + QUIET);
        }
    }

    /// Whether nothing more of a partition is to be taken.
    pub(super) fn is_leaving(&self, partition: u16) -> bool {
        self.seats.get(usize::from(partition)).is_some_and(|seat| seat.leaving.is_some())
    }

    /// Whether that is so of any.
    pub(super) fn has_leaving(&self) -> bool {
        self.seats.iter().any(|seat| seat.leaving.is_some())
    }

    /// What to do now. `in_hand` tells how much of a partition is neither done nor given back.
    pub(super) fn steps(&mut self, now: Instant, in_hand: impl Fn(u16) -> usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let stand_by = now >= self.begun + STAND_BY;
        for (partition, seat) in (0..).zip(&mut self.seats) {
            let quiet = in_hand(partition) == 0;
            if seat.leaving.is_some_and(|latest| quiet || now >= latest) {
                *seat = Seat { ours: seat.ours, ..Seat::default() };
                steps.push(Step::Leave(partition));
            }
            // At the end of the line again only when nothing is left from before, which also bounds
            // what one queue can send us.
            if seat.registered.is_none() && quiet && (seat.ours || stand_by) {
                seat.registered = Some(now);
                steps.push(Step::Register(partition));
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: fn(u16) -> usize = |_| 0;
    const SOME: fn(u16) -> usize = |_| 1;

    fn after(begun: Instant, milliseconds: u64) -> Instant {
        begun + Duration::from_millis(milliseconds)
    }

    #[test]
    fn leads_at_once_and_stands_by_later() {
        let begun = Instant::now();
        let mut roster = Roster::new(3, begun);
        roster.plan(&[1, 9], begun);
        assert_eq!(roster.steps(begun, NONE), [Step::Register(1)]);
        assert_eq!(roster.steps(after(begun, 2900), NONE), []);
        let later = roster.steps(after(begun, 3000), NONE);
        assert_eq!(later, [Step::Register(0), Step::Register(2)]);
        assert_eq!(roster.steps(after(begun, 9000), NONE), []);
    }

    #[test]
    fn steps_back_at_a_quiet_moment_and_stands_in_line_again() {
        let begun = Instant::now();
        let mut roster = Roster::new(1, begun);
        roster.plan(&[0], begun);
        roster.steps(begun, NONE);
        let now = after(begun, 5000);
        roster.plan(&[], now);
        assert_eq!(roster.steps(now, SOME), []);
        assert_eq!(roster.steps(after(begun, 5100), NONE), [Step::Leave(0), Step::Register(0)]);
        // Deliveries right after that are of no concern, later ones show that we are active again.
        roster.delivered(0, after(begun, 5200));
        assert_eq!(roster.steps(after(begun, 5200), NONE), []);
        roster.delivered(0, after(begun, 7100));
        assert_eq!(roster.steps(after(begun, 7100), NONE), [Step::Leave(0), Step::Register(0)]);
    }

    #[test]
    fn a_partition_that_is_never_quiet_is_left_all_the_same() {
        let begun = Instant::now();
        let mut roster = Roster::new(1, begun);
        roster.plan(&[0], begun);
        roster.steps(begun, NONE);
        let now = after(begun, 5000);
        roster.plan(&[], now);
        assert_eq!(roster.steps(after(begun, 6900), SOME), []);
        assert_eq!(roster.steps(after(begun, 7000), SOME), [Step::Leave(0)]);
        assert_eq!(roster.steps(after(begun, 8000), SOME), []);
        assert_eq!(roster.steps(after(begun, 8100), NONE), [Step::Register(0)]);
    }

    #[test]
    fn a_change_of_mind_comes_too_late_to_stay() {
        let begun = Instant::now();
        let mut roster = Roster::new(1, begun);
        roster.plan(&[0], begun);
        roster.steps(begun, NONE);
        assert!(!roster.is_leaving(0) && !roster.has_leaving());
        roster.plan(&[], after(begun, 4000));
        assert!(roster.is_leaving(0) && roster.has_leaving());
        // What was passed over meanwhile would be overtaken by what is taken after it.
        roster.plan(&[0], after(begun, 4100));
        assert!(roster.is_leaving(0));
        assert_eq!(roster.steps(after(begun, 4200), NONE), [Step::Leave(0), Step::Register(0)]);
        roster.delivered(0, after(begun, 9000));
        assert_eq!(roster.steps(after(begun, 9000), NONE), []);
        assert!(!roster.has_leaving());
    }

    #[test]
    fn who_leads_comes_back_when_nothing_is_left_from_before() {
        let begun = Instant::now();
        let mut roster = Roster::new(1, begun);
        roster.plan(&[0], begun);
        roster.steps(begun, NONE);
        roster.plan(&[], after(begun, 1000));
        roster.plan(&[0], after(begun, 1100));
        assert_eq!(roster.steps(after(begun, 3000), SOME), [Step::Leave(0)]);
        assert_eq!(roster.steps(after(begun, 3100), SOME), []);
        assert_eq!(roster.steps(after(begun, 3200), NONE), [Step::Register(0)]);
    }
}
