//! Joins a client's WebSocket with the owner's: bytes are copied both ways unchanged.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::ForwardedStream;

/// Per direction. A side that does not read blocks the other.
const BUFFER_LEN: usize = 4 * 1024;
/// How long a side may accept no bytes: the owner's own send timeout.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the owner may send after the client has closed its side.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Copies both ways until a side ends or blocks too long, or the stream is cancelled.
pub(super) async fn join(client: OnUpgrade, owner: OnUpgrade, stream: &ForwardedStream) {
    let (client, owner) = match tokio::try_join!(client, owner) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "tunnel upgrade failed");
            return;
        }
    };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_owner, mut to_owner) = tokio::io::split(TokioIo::new(owner));
    let up = async {
        pump(&mut from_client, &mut to_owner, WRITE_TIMEOUT).await;
        tokio::time::sleep(HALF_CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        () = up => {}
        () = pump(&mut from_owner, &mut to_client, WRITE_TIMEOUT) => {}
        () = stream.cancelled() => {
            let _ = tokio::time::timeout(WRITE_TIMEOUT, to_client.shutdown()).await;
        }
    }
}

/// Copies to the end of `from` and shuts `to` down, unless a write takes longer than `timeout`.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    timeout: Duration,
) {
    let mut buffer = vec![0; BUFFER_LEN];
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
        if !matches!(tokio::time::timeout(timeout, write).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = tokio::time::timeout(timeout, to.shutdown()).await;
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
        let timeout = Duration::from_millis(500);
        let pumping = tokio::spawn(async move { pump(&mut near, &mut out, timeout).await });
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
