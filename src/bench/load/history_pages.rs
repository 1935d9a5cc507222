//! Reads pages of a long conversation.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Error, plan::LoadTarget, results::MeasuredLatencies, send::Sender,
    server_address::ServerAddress,
};

const PAGE_SIZE: usize = 50;

#[derive(Debug, Default)]
pub struct PageResults {
    /// Pages of the newest messages.
    pub latest: MeasuredLatencies,
    pub anywhere: MeasuredLatencies,
    pub count: u64,
}

/// Reads pages of 50 messages for `duration` on this many connections: the newest page and a random one in
/// turn. The reader is the first recipient of the target.
///
/// # Errors
/// A page cannot be read, or does not have the expected messages.
pub async fn read_history(
    target: &LoadTarget,
    conversation: Uuid,
    messages: u64,
    connections: usize,
    duration: Duration,
    stop: &CancellationToken,
) -> Result<PageResults, Error> {
    let place = ServerAddress::parse(&target.url)?;
    let token = target.recipients.first().map(|(_, token)| token.clone()).unwrap_or_default();
    let reading: Vec<_> = (0..connections.max(1) as u64)
        .map(|n| {
            let (place, token, stop) = (place.clone(), token.clone(), stop.clone());
            tokio::spawn(async move {
                let mut sender = Sender::new(place, &token);
                let bearer = format!("Bearer {token}");
                let mut read = PageResults::default();
                let (begun, mut turn) = (Instant::now(), n * 7919);
                while begun.elapsed() < duration && !stop.is_cancelled() {
                    turn = turn.wrapping_add(1);
                    let latest = turn % 2 == 0;
                    let before = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % messages.max(1) + 1;
                    let mut path =
                        format!("/api/v1/conversations/{conversation}/messages?limit={PAGE_SIZE}");
                    if !latest {
                        path.push_str(&format!("&before={before}"));
                    }
                    let asked = Instant::now();
                    let answer = sender.answer("GET", &path, &bearer, String::new()).await;
                    let took = asked.elapsed();
                    let (status, body) = answer
                        .ok_or_else(|| Error::Connect("a page was not answered".to_owned()))?;
                    let wanted = if latest { messages } else { before - 1 }.min(PAGE_SIZE as u64);
                    let found = body.windows(6).filter(|part| *part == b"\"seq\":").count() as u64;
                    if status != 200 || found != wanted {
                        return Err(Error::Refused(status));
                    }
                    if latest { &mut read.latest } else { &mut read.anywhere }.record(took);
                    read.count += 1;
                }
                Ok(read)
            })
        })
        .collect();
    let mut sum = PageResults::default();
    for task in reading {
        let read = task.await.map_err(|error| Error::Connect(error.to_string()))??;
        sum.latest.add(&read.latest);
        sum.anywhere.add(&read.anywhere);
        sum.count += read.count;
    }
    Ok(sum)
}
