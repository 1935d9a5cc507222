//! Whether a loop still turns: it is asked, and it answers only between two rounds.

use std::time::Duration;

use tokio::sync::watch;

/// One loop's pulse. Clones are of the same loop.
#[derive(Clone, Debug)]
pub struct Pulse {
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

/// The loop's own end of it.
pub(super) struct Answers {
    asked: watch::Receiver<u64>,
    answered: watch::Sender<u64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse { asked: watch::channel(0).0, answered: watch::channel(0).0 }
    }
}

impl Pulse {
    /// Whether the loop answers a question of now within `patience`.
    pub async fn beats(&self, patience: Duration) -> bool {
        let mut question = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            question = *asked;
        });
        let mut answered = self.answered.subscribe();
        let answer = answered.wait_for(|answered| *answered >= question);
        matches!(tokio::time::timeout(patience, answer).await, Ok(Ok(_)))
    }

    pub(super) fn answers(&self) -> Answers {
        Answers { asked: self.asked.subscribe(), answered: self.answered.clone() }
    }
}

impl Answers {
    /// Waits for a question and answers it. May be dropped and called again.
    pub(super) async fn next(&mut self) {
        if self.asked.changed().await.is_err() {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
        let question = *self.asked.borrow_and_update();
        self.answered.send_replace(question);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_loop_that_turns_has_a_pulse() {
        let pulse = Pulse::default();
        let (soon, long) = (Duration::from_millis(50), Duration::from_secs(20));
        let mut answers = pulse.answers();
        assert!(!pulse.beats(soon).await, "nobody turns yet");
        let turning = tokio::spawn(async move {
            loop {
                answers.next().await;
            }
        });
        assert!(pulse.beats(long).await);
        assert!(pulse.clone().beats(long).await);
        turning.abort();
        let _ = turning.await;
        assert!(!pulse.beats(soon).await, "an old answer is no pulse");
    }
}
