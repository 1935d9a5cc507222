//! Liveness of a loop: it answers a probe only between two iterations.

use std::time::Duration;

use tokio::sync::watch;

/// Probes one loop. Clones probe the same loop.
#[derive(Clone, Debug)]
pub struct LivenessProbe {
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

/// The loop's side.
pub(super) struct LivenessResponder {
    asked: watch::Receiver<u64>,
    answered: watch::Sender<u64>,
}

impl Default for LivenessProbe {
    fn default() -> Self {
        LivenessProbe { asked: watch::channel(0).0, answered: watch::channel(0).0 }
    }
}

impl LivenessProbe {
    /// Whether the loop answers a new probe within `timeout`.
    pub async fn responds_within(&self, timeout: Duration) -> bool {
        let mut question = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            question = *asked;
        });
        let mut answered = self.answered.subscribe();
        let answer = answered.wait_for(|answered| *answered >= question);
        matches!(tokio::time::timeout(timeout, answer).await, Ok(Ok(_)))
    }

    pub(super) fn responder(&self) -> LivenessResponder {
        LivenessResponder { asked: self.asked.subscribe(), answered: self.answered.clone() }
    }
}

impl LivenessResponder {
    /// Waits for a probe and answers it. Cancel-safe.
    pub(super) async fn next(&mut self) {
        if self.asked.changed().await.is_err() {
            // All probes are gone.
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
        let pulse = LivenessProbe::default();
        let (soon, long) = (Duration::from_millis(50), Duration::from_secs(20));
        let mut responder = pulse.responder();
        assert!(!pulse.responds_within(soon).await, "nobody turns yet");
        let turning = tokio::spawn(async move {
            loop {
                responder.next().await;
            }
        });
        assert!(pulse.responds_within(long).await);
        assert!(pulse.clone().responds_within(long).await);
        turning.abort();
        let _ = turning.await;
        assert!(!pulse.responds_within(soon).await, "an old answer is no pulse");
    }
}
