//! How a writer that shares its statements takes what waits for it.
//!
//! A statement costs Postgres some 200 to 400 µs whatever it carries, and 10 to 20 µs a row. At an
//! idle moment nobody waits; in a crowd a moment's wait makes one statement of several.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A batch of this many callers says that more are on their way.
const CROWD: usize = 12;
/// The wait, which is within the 2 ms that delivery.md, How 3 allows.
const MOMENT: Duration = Duration::from_millis(1);

/// What waits for a writer.
pub(super) struct Gather<T> {
    receiver: mpsc::Receiver<T>,
    /// How many callers shared the last batch. One who brings many rows is no crowd: waiting would only
    /// hold that one up.
    last: usize,
}

impl<T> Gather<T> {
    pub(super) fn new(receiver: mpsc::Receiver<T>) -> Gather<T> {
        Gather { receiver, last: 0 }
    }

    /// What waits, first come first: as many as weigh `most`, and one that weighs more by itself. After
    /// `stop` nothing new comes in, what waits already is still given, and `None` is the end.
    pub(super) async fn batch(
        &mut self,
        most: usize,
        weight: impl Fn(&T) -> usize,
        stop: &CancellationToken,
    ) -> Option<Vec<T>> {
        let first = tokio::select! {
            biased;
            first = self.receiver.recv() => first,
            () = stop.cancelled() => {
                self.receiver.close();
                self.receiver.recv().await
            }
        }?;
        if self.last >= CROWD {
            tokio::time::sleep(MOMENT).await;
        }
        let mut weighs = weight(&first);
        let mut batch = vec![first];
        while weighs < most {
            let Ok(next) = self.receiver.try_recv() else { break };
            weighs += weight(&next);
            batch.push(next);
        }
        self.last = batch.len();
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_taken_together_and_to_the_end() {
        let (sender, receiver) = mpsc::channel(8);
        let mut gather = Gather::new(receiver);
        let stop = CancellationToken::new();
        for weight in [9, 1, 2, 3] {
            sender.send(weight).await.expect("there is room");
        }
        let mut next = async |stop: &CancellationToken| gather.batch(3, |n| *n, stop).await;
        assert_eq!(next(&stop).await, Some(vec![9]), "too heavy, and alone");
        assert_eq!(next(&stop).await, Some(vec![1, 2]));
        stop.cancel();
        assert_eq!(next(&stop).await, Some(vec![3]), "what waited is given after the stop");
        assert_eq!(next(&stop).await, None);
        assert!(sender.send(1).await.is_err(), "nothing new comes in");
    }
}
