//! Which partitions this worker consumes, and when it steps back from one.
//!
//! Queues have a single active consumer: the one that registered first. The others are on standby, and the broker
//! activates the next when it goes. So each worker registers at once for the partitions assigned to it, and a
//! little later for all others. A worker that is active for a partition not assigned to it steps back: it closes
//! its channel and registers again behind the others. The broker does not tell which consumer is active; a delivery
//! does.

use std::time::{Duration, Instant};

/// How much later workers register for partitions that are not assigned to them.
pub(super) const STANDBY_DELAY: Duration = Duration::from_secs(3);
/// How long stepping back waits for unacknowledged deliveries. No more are taken meanwhile; what is not acknowledged
/// by then is redelivered to the next consumer.
const STEP_BACK_GRACE: Duration = Duration::from_secs(2);
/// Stepping back happens at most this often: without a leader every worker does it, and newer brokers dead-letter a
/// frame that was requeued twenty times.
const MIN_STEP_BACK_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Join(u16),
    Leave(u16),
}

#[derive(Debug)]
pub(super) struct AssignmentPlan {
    started: Instant,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    assigned: bool,
    /// Since when this worker has been registered.
    registered: Option<Instant>,
    /// The latest time to close the channel. Deliveries are ignored until then, and no other consumer gets those
    /// before the channel closes: so stepping back cannot be undone.
    leaving: Option<Instant>,
}

impl AssignmentPlan {
    pub(super) fn new(partitions: u16, now: Instant) -> AssignmentPlan {
        AssignmentPlan { started: now, slots: vec![Slot::default(); usize::from(partitions)] }
    }

    /// Sets the partitions that this worker should lead. Unknown ones are ignored.
    pub(super) fn assign(&mut self, assigned: &[u16], now: Instant) {
        for (partition, slot) in (0..).zip(&mut self.slots) {
            let was = std::mem::replace(&mut slot.assigned, assigned.contains(&partition));
            if was && !slot.assigned && slot.registered.is_some() {
                slot.leaving.get_or_insert(now + STEP_BACK_GRACE);
            }
        }
    }

    /// Notes a delivery: this worker is the active consumer of the partition.
    pub(super) fn delivered(&mut self, partition: u16, now: Instant) {
        if let Some(slot) = self.slots.get_mut(usize::from(partition))
            && !slot.assigned
            && slot.registered.is_some_and(|since| now >= since + MIN_STEP_BACK_INTERVAL)
        {
            slot.leaving.get_or_insert(now + STEP_BACK_GRACE);
        }
    }

    /// Whether deliveries of a partition are ignored.
    pub(super) fn is_leaving(&self, partition: u16) -> bool {
        self.slots.get(usize::from(partition)).is_some_and(|slot| slot.leaving.is_some())
    }

    pub(super) fn is_leaving_any(&self) -> bool {
        self.slots.iter().any(|slot| slot.leaving.is_some())
    }

    /// What to do now. `in_flight` gives the unsettled deliveries of a partition.
    pub(super) fn steps(&mut self, now: Instant, in_flight: impl Fn(u16) -> usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let standby = now >= self.started + STANDBY_DELAY;
        for (partition, slot) in (0..).zip(&mut self.slots) {
            let quiet = in_flight(partition) == 0;
            if slot.leaving.is_some_and(|latest| quiet || now >= latest) {
                *slot = Slot { assigned: slot.assigned, ..Slot::default() };
                steps.push(Step::Leave(partition));
            }
            // Registers again only when all earlier deliveries are settled, which also bounds how much one queue
            // can deliver to this worker.
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
        // Deliveries right after that are ignored; later ones show that this worker is active again.
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
        // Deliveries that were ignored would be overtaken by those taken after them.
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
