//! A WebSocket that ends here in two: what comes in at one side goes out at the other, as it is.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Guest;

/// What is under way in each direction at most. A side that does not take it stops the other.
const BUFFER: usize = 4 * 1024;
/// How long a side may take no bytes before it counts as stuck: as long as the owner would give it.
const STUCK: Duration = Duration::from_secs(10);
/// How long the owner may take for its last words once the client has ended its side.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Carries bytes both ways until a side ends, is stuck, or the process has to go.
pub(super) async fn join(client: OnUpgrade, owner: OnUpgrade, guest: &Guest) {
    let (client, owner) = match tokio::try_join!(client, owner) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a tunnel was not completed");
            return;
        }
    };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_owner, mut to_owner) = tokio::io::split(TokioIo::new(owner));
    let up = async {
        pump(&mut from_client, &mut to_owner, STUCK).await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = up => {}
        () = pump(&mut from_owner, &mut to_client, STUCK) => {}
        () = guest.asked_to_go() => {
            let _ = tokio::time::timeout(STUCK, to_client.shutdown()).await;
        }
    }
}

/// To the end of one side, which it tells the other, or until that has taken nothing for as long as `stuck`.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    stuck: Duration,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let Some(bytes) = buffer.get(..read) else { break };
        let write = async {
            to.write_all(bytes).await?;
            to.flush().await
        };
        if !matches!(tokio::time::timeout(stuck, write).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = tokio::time::timeout(stuck, to.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_go_through_whole_and_a_side_that_takes_none_ends_it() {
        let (mut far, mut near) = tokio::io::duplex(64);
        let (mut out, mut end) = tokio::io::duplex(64);
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let sent = bytes.clone();
        let writing = tokio::spawn(async move {
            far.write_all(&sent).await.unwrap();
            far
        });
        let stuck = Duration::from_millis(500);
        let pumping = tokio::spawn(async move { pump(&mut near, &mut out, stuck).await });
        let mut got = vec![0; bytes.len()];
        end.read_exact(&mut got).await.unwrap();
        assert!(got == bytes);
        let mut far = writing.await.unwrap();
        // From here on nobody reads.
        let _ = far.write_all(&bytes).await;
        pumping.await.unwrap();
        drop(end);
    }
}
