//! Which partitions this worker reads, and when it steps back from one.
//!
//! A queue has one active consumer, the one that has been registered longest; the others stand by, and
//! the broker itself goes on with the next when one is gone. So each worker registers at once where
//! the plan wants it to lead, and everywhere else a little later. Who is active without being meant to
//! steps back to the end of the line. The broker does not say who is active: it shows when something is
//! delivered.

use std::time::{Duration, Instant};

/// How much later than the leader the others stand in line.
pub(super) const STANDBY_DELAY: Duration = Duration::from_secs(3);
/// How long stepping back waits for what is in hand. It takes nothing more meanwhile; what is not finished
/// by then the next in line does again.
const STEP_BACK_GRACE: Duration = Duration::from_secs(2);
/// Stepping back happens at most this often, because without a leader everybody does it, and newer brokers
/// give up on a frame that was given back twenty times.
const MIN_STEP_BACK_INTERVAL: Duration = Duration::from_secs(2);

/// What to do about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Stand in line.
    Join(u16),
    /// Leave the line.
    Leave(u16),
}

/// Our place in each partition's line.
#[derive(Debug)]
pub(super) struct AssignmentPlan {
    started: Instant,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Whether the plan wants us to lead.
    assigned: bool,
    /// Since when we have stood in line.
    registered: Option<Instant>,
    /// Until when what is in hand is waited for. From then on nothing more is taken, and what was passed over
    /// comes to nobody before we have left: so there is no way back.
    leaving: Option<Instant>,
}

impl AssignmentPlan {
    pub(super) fn new(partitions: u16, now: Instant) -> AssignmentPlan {
        AssignmentPlan { started: now, slots: vec![Slot::default(); usize::from(partitions)] }
    }

    /// The partitions that the plan wants us to lead; others are passed over.
    pub(super) fn assign(&mut self, assigned: &[u16], now: Instant) {
        for (partition, slot) in (0..).zip(&mut self.slots) {
            let was = std::mem::replace(&mut slot.assigned, assigned.contains(&partition));
            if was && !slot.assigned && slot.registered.is_some() {
                slot.leaving.get_or_insert(now + STEP_BACK_GRACE);
            }
        }
    }

    /// Something of a partition was delivered to us: so we are active there.
    pub(super) fn delivered(&mut self, partition: u16, now: Instant) {
        if let Some(slot) = self.slots.get_mut(usize::from(partition))
            && !slot.assigned
            && slot.registered.is_some_and(|since| now >= since + MIN_STEP_BACK_INTERVAL)
        {
            slot.leaving.get_or_insert(now + STEP_BACK_GRACE);
        }
    }

    /// Whether nothing more of a partition is to be taken.
    pub(super) fn is_leaving(&self, partition: u16) -> bool {
        self.slots.get(usize::from(partition)).is_some_and(|slot| slot.leaving.is_some())
    }

    /// Whether that is so of any.
    pub(super) fn is_leaving_any(&self) -> bool {
        self.slots.iter().any(|slot| slot.leaving.is_some())
    }

    /// What to do now. `in_flight` tells how much of a partition is neither done nor given back.
    pub(super) fn steps(&mut self, now: Instant, in_flight: impl Fn(u16) -> usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let standby = now >= self.started + STANDBY_DELAY;
        for (partition, slot) in (0..).zip(&mut self.slots) {
            let quiet = in_flight(partition) == 0;
            if slot.leaving.is_some_and(|latest| quiet || now >= latest) {
                *slot = Slot { assigned: slot.assigned, ..Slot::default() };
                steps.push(Step::Leave(partition));
            }
            // At the end of the line again only when nothing is left from before, which also bounds
            // what one queue can send us.
            if slot.registered.is_none() && quiet && (slot.assigned || standby) {
                slot.registered = Some(now);
                steps.push(Step::Join(partition));
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

    fn after(started: Instant, milliseconds: u64) -> Instant {
        started + Duration::from_millis(milliseconds)
    }

    #[test]
    fn leads_at_once_and_stands_by_later() {
        let started = Instant::now();
        let mut plan = AssignmentPlan::new(3, started);
        plan.assign(&[1, 9], started);
        assert_eq!(plan.steps(started, NONE), [Step::Join(1)]);
        assert_eq!(plan.steps(after(started, 2900), NONE), []);
        let later = plan.steps(after(started, 3000), NONE);
        assert_eq!(later, [Step::Join(0), Step::Join(2)]);
        assert_eq!(plan.steps(after(started, 9000), NONE), []);
    }

    #[test]
    fn steps_back_at_a_quiet_moment_and_stands_in_line_again() {
        let started = Instant::now();
        let mut plan = AssignmentPlan::new(1, started);
        plan.assign(&[0], started);
        plan.steps(started, NONE);
        let now = after(started, 5000);
        plan.assign(&[], now);
        assert_eq!(plan.steps(now, SOME), []);
        assert_eq!(plan.steps(after(started, 5100), NONE), [Step::Leave(0), Step::Join(0)]);
        // Deliveries right after that are of no concern, later ones show that we are active again.
        plan.delivered(0, after(started, 5200));
        assert_eq!(plan.steps(after(started, 5200), NONE), []);
        plan.delivered(0, after(started, 7100));
        assert_eq!(plan.steps(after(started, 7100), NONE), [Step::Leave(0), Step::Join(0)]);
    }

    #[test]
    fn a_partition_that_is_never_quiet_is_left_all_the_same() {
        let started = Instant::now();
        let mut plan = AssignmentPlan::new(1, started);
        plan.assign(&[0], started);
        plan.steps(started, NONE);
        let now = after(started, 5000);
        plan.assign(&[], now);
        assert_eq!(plan.steps(after(started, 6900), SOME), []);
        assert_eq!(plan.steps(after(started, 7000), SOME), [Step::Leave(0)]);
        assert_eq!(plan.steps(after(started, 8000), SOME), []);
        assert_eq!(plan.steps(after(started, 8100), NONE), [Step::Join(0)]);
    }

    #[test]
    fn a_change_of_mind_comes_too_late_to_stay() {
        let started = Instant::now();
        let mut plan = AssignmentPlan::new(1, started);
        plan.assign(&[0], started);
        plan.steps(started, NONE);
        assert!(!plan.is_leaving(0) && !plan.is_leaving_any());
        plan.assign(&[], after(started, 4000));
        assert!(plan.is_leaving(0) && plan.is_leaving_any());
        // What was passed over meanwhile would be overtaken by what is taken after it.
        plan.assign(&[0], after(started, 4100));
        assert!(plan.is_leaving(0));
        assert_eq!(plan.steps(after(started, 4200), NONE), [Step::Leave(0), Step::Join(0)]);
        plan.delivered(0, after(started, 9000));
        assert_eq!(plan.steps(after(started, 9000), NONE), []);
        assert!(!plan.is_leaving_any());
    }

    #[test]
    fn who_leads_comes_back_when_nothing_is_left_from_before() {
        let started = Instant::now();
        let mut plan = AssignmentPlan::new(1, started);
        plan.assign(&[0], started);
        plan.steps(started, NONE);
        plan.assign(&[], after(started, 1000));
        plan.assign(&[0], after(started, 1100));
        assert_eq!(plan.steps(after(started, 3000), SOME), [Step::Leave(0)]);
        assert_eq!(plan.steps(after(started, 3100), SOME), []);
        assert_eq!(plan.steps(after(started, 3200), NONE), [Step::Join(0)]);
    }
}
