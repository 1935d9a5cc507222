//! Two runs without a stream of messages: connections that only wait, and messages that wait for one.

use std::{
    collections::HashSet,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;

use super::{
    connect::Place,
    plan::{Error, Progress, Target},
    processes,
    receive::Receiver,
    run::{CONNECTING, QUIET},
    send::{Draft, MARK, Sender, first_tag},
};
use crate::history::Told;

/// Opens connections and leaves them idle. Gives the server's memory before and after, in KiB.
///
/// # Errors
/// When a connection is refused.
pub async fn idle(
    target: &Target,
    connections: usize,
    progress: &Progress,
) -> Result<Option<(u64, u64)>, Error> {
    /// Buffers of the handshake are given back a little later.
    const SETTLED: Duration = Duration::from_secs(3);
    let place = Place::parse(&target.url)?;
    let memory = || target.pid.and_then(processes::cost).map(|cost| cost.memory_kib);
    // The first connections pay for what is made once.
    let warm = Receiver::connect(&place, &target.recipients[0].1).await?;
    tokio::time::sleep(SETTLED).await;
    let before = memory();
    let connecting = (0..connections).map(|n| {
        let (_, token) = &target.recipients[n % target.recipients.len()];
        let place = &place;
        async move {
            let receiver = Receiver::connect(place, token).await;
            progress.connected.fetch_add(1, Ordering::Relaxed);
            receiver
        }
    });
    let mut connected = futures_util::stream::iter(connecting).buffer_unordered(CONNECTING);
    let mut open = Vec::with_capacity(connections);
    while let Some(receiver) = connected.next().await {
        open.push(receiver?);
    }
    tokio::time::sleep(SETTLED).await;
    let after = memory();
    drop((open, warm));
    Ok(before.zip(after))
}

/// Sends to one recipient who is away, then connects as that one. Gives the time from the beginning
/// of the connect to the arrival of the last message.
///
/// # Errors
/// When the messages are not accepted, or do not arrive.
pub async fn pending(
    target: &Target,
    count: usize,
    payload: usize,
    progress: &Progress,
) -> Result<Duration, Error> {
    const AT_ONCE: usize = 500;
    let place = Place::parse(&target.url)?;
    let (to, token) = &target.recipients[0];
    let mut sender = Sender::new(place.clone(), &target.sender);
    let padding = "x".repeat(payload.saturating_sub(MARK));
    let first = first_tag();
    let tags: Vec<u64> = (first..first + count as u64).collect();
    for chunk in tags.chunks(AT_ONCE) {
        let drafts: Vec<Draft<'_>> =
            chunk.iter().map(|tag| Draft { to, due_micros: 0, tag: *tag }).collect();
        let (status, told) = sender.post(&drafts, "normal", &padding).await;
        if told.iter().any(|told| !matches!(told, Told::Accepted(_))) {
            return Err(Error::Refused(status));
        }
        progress.accepted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    let begun = Instant::now();
    let mut receiver = Receiver::connect(&place, token).await?;
    let mut missing: HashSet<u64> = tags.into_iter().collect();
    while !missing.is_empty() {
        let next = tokio::time::timeout(QUIET, receiver.next()).await;
        let heard = next.map_err(|_| Error::Connect("messages did not arrive".to_owned()))??;
        let arrived = heard.arrivals;
        for arrival in &arrived {
            if missing.remove(&arrival.tag) {
                progress.received.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !arrived.is_empty() && !missing.is_empty() {
            receiver.acknowledge(&arrived).await?;
        }
    }
    let took = begun.elapsed();
    receiver.close().await;
    Ok(took)
}
