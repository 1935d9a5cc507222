//! Two loads without a stream of messages: idle connections, and pending messages for one recipient.

use std::{
    collections::HashSet,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;

use super::{
    plan::{Error, LoadProgress, LoadTarget},
    process_cost,
    receive::Receiver,
    run::{ARRIVAL_TIMEOUT, MAX_CONNECTING},
    send::{Draft, MARK_LEN, Sender, first_tag},
    server_address::ServerAddress,
};
use crate::bench::checker::SendOutcome;

/// Opens connections and leaves them idle. Returns the server's memory before and after, in KiB.
///
/// # Errors
/// When a connection is refused.
pub async fn idle(
    target: &LoadTarget,
    connections: usize,
    progress: &LoadProgress,
) -> Result<Option<(u64, u64)>, Error> {
    /// The server frees handshake buffers with a delay.
    const SETTLE_DELAY: Duration = Duration::from_secs(3);
    let place = ServerAddress::parse(&target.url)?;
    let memory = || target.pid.and_then(process_cost::cost).map(|cost| cost.memory_kib);
    // The first connection causes allocations that happen once.
    let warm = Receiver::connect(&place, &target.recipients[0].1).await?;
    tokio::time::sleep(SETTLE_DELAY).await;
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
    let mut connected = futures_util::stream::iter(connecting).buffer_unordered(MAX_CONNECTING);
    let mut open = Vec::with_capacity(connections);
    while let Some(receiver) = connected.next().await {
        open.push(receiver?);
    }
    tokio::time::sleep(SETTLE_DELAY).await;
    let after = memory();
    drop((open, warm));
    Ok(before.zip(after))
}

/// Sends to an offline recipient, then connects as the recipient. Returns the time from the connect to the
/// arrival of the last message.
///
/// # Errors
/// When the messages are not accepted, or do not arrive.
pub async fn pending(
    target: &LoadTarget,
    count: usize,
    payload: usize,
    progress: &LoadProgress,
) -> Result<Duration, Error> {
    const BATCH_SIZE: usize = 500;
    let place = ServerAddress::parse(&target.url)?;
    let (to, token) = &target.recipients[0];
    let mut sender = Sender::new(place.clone(), &target.sender);
    let padding = "x".repeat(payload.saturating_sub(MARK_LEN));
    let first = first_tag();
    let tags: Vec<u64> = (first..first + count as u64).collect();
    for chunk in tags.chunks(BATCH_SIZE) {
        let drafts: Vec<Draft<'_>> =
            chunk.iter().map(|tag| Draft { to, due_micros: 0, tag: *tag }).collect();
        let (status, told) = sender.post(&drafts, "normal", &padding).await;
        if told.iter().any(|told| !matches!(told, SendOutcome::Accepted(_))) {
            return Err(Error::Refused(status));
        }
        progress.accepted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
    let begun = Instant::now();
    let mut receiver = Receiver::connect(&place, token).await?;
    let mut missing: HashSet<u64> = tags.into_iter().collect();
    while !missing.is_empty() {
        let next = tokio::time::timeout(ARRIVAL_TIMEOUT, receiver.next()).await;
        let frame = next.map_err(|_| Error::Connect("messages did not arrive".to_owned()))??;
        let arrived = frame.arrivals;
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
