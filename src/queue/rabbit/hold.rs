//! What has been taken from the broker and is still its own: kept until it is said to be done.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

use super::frame::WakeUp;

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done.
    Done,
    /// Somebody shall have it again.
    Again,
}

/// Where a delivery is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Which line.
    pub(super) line: usize,
    /// Which of the times that we stood there.
    pub(super) life: u32,
    /// Which one on the channel.
    pub(super) tag: u64,
}

/// A delivery's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    /// Where it is from.
    pub(super) origin: Origin,
    /// What becomes of it.
    pub(super) verdict: Verdict,
}

/// A delivery in our hands. It settles itself when nobody has a part of it any more.
#[derive(Debug)]
pub(super) struct Hold {
    origin: Origin,
    /// Parts that are not done.
    undone: AtomicUsize,
    /// Has room for all that the broker sends unanswered. Ends with the connection: what is told later
    /// concerns nobody.
    settled: mpsc::Sender<Settled>,
}

impl Hold {
    pub(super) fn new(origin: Origin, parts: usize, settled: &mpsc::Sender<Settled>) -> Arc<Hold> {
        Arc::new(Hold { origin, undone: AtomicUsize::new(parts), settled: settled.clone() })
    }

    fn one_done(&self) {
        self.undone.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let verdict = match self.undone.load(Ordering::Acquire) {
            0 => Verdict::Done,
            _ => Verdict::Again,
        };
        let _ = self.settled.try_send(Settled { origin: self.origin, verdict });
    }
}

/// One wake-up of a delivery.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) wake_up: WakeUp,
    pub(super) hold: Arc<Hold>,
}

/// Wake-ups to be acted upon. Dropped without [`Taken::done`] they come again, to whichever worker
/// has their partition then.
#[derive(Debug)]
#[must_use = "dropped, it comes again"]
pub struct Taken {
    /// At most a hundred, those of the higher lanes first.
    pub wake_ups: Vec<WakeUp>,
    holds: Vec<Arc<Hold>>,
}

impl Taken {
    pub(super) fn new(parts: Vec<Part>) -> Taken {
        let (wake_ups, holds) = parts.into_iter().map(|part| (part.wake_up, part.hold)).unzip();
        Taken { wake_ups, holds }
    }

    /// They have been acted upon: the broker may forget them.
    pub fn done(self) {
        self.holds.iter().for_each(|hold| hold.one_done());
    }
}

/// A frame that nobody can read. Dropped without [`DeadFrame::done`] it comes again.
#[derive(Debug)]
#[must_use = "dropped, it comes again"]
pub struct DeadFrame {
    /// As it was.
    pub body: Vec<u8>,
    /// Why it cannot be read.
    pub reason: String,
    /// The queue that it was in, or else its routing key.
    pub queue: String,
    pub(super) hold: Arc<Hold>,
}

impl DeadFrame {
    /// It has been stored: the broker may forget it.
    pub fn done(self) {
        self.hold.one_done();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::MessageId;

    const ORIGIN: Origin = Origin { line: 2, life: 3, tag: 7 };

    fn parts(hold: &Arc<Hold>, count: usize) -> Vec<Part> {
        let wake_up = WakeUp { id: MessageId(Uuid::nil()), generation: 1 };
        (0..count).map(|_| Part { wake_up, hold: Arc::clone(hold) }).collect()
    }

    #[test]
    fn a_delivery_is_done_when_all_its_parts_are() {
        let (sender, mut settled) = mpsc::channel(2);
        let hold = Hold::new(ORIGIN, 5, &sender);
        let (first, second) = (Taken::new(parts(&hold, 3)), Taken::new(parts(&hold, 2)));
        drop(hold);
        first.done();
        assert!(settled.try_recv().is_err());
        second.done();
        let end = settled.try_recv().unwrap();
        assert_eq!((end.origin, end.verdict), (ORIGIN, Verdict::Done));
    }

    #[test]
    fn a_delivery_comes_again_when_one_part_was_dropped() {
        let (sender, mut settled) = mpsc::channel(2);
        let hold = Hold::new(ORIGIN, 5, &sender);
        let (first, second) = (Taken::new(parts(&hold, 3)), Taken::new(parts(&hold, 2)));
        drop(hold);
        drop(first);
        second.done();
        assert_eq!(settled.try_recv().unwrap().verdict, Verdict::Again);
        assert!(settled.try_recv().is_err());
    }
}
