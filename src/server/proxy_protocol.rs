//! The PROXY protocol, version 2: the header with which a load balancer names the client of a TCP connection.
//! Read from connections of `http.trusted_proxies` that start with its signature.

use std::{io, net::IpAddr, time::Duration};

use ppp::v2::{Addresses, Command, Header};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::TcpStream,
};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, address family and the length of the rest.
const FIXED_LEN: usize = 16;
/// Addresses and extensions.
const MAX_REST_LEN: usize = 2048;

/// Peeks at the first bytes of a connection. Returns whether they are `wanted` as soon as that is known.
///
/// # Errors
/// The connection ended before that.
pub async fn begins_with(tcp: &TcpStream, wanted: &[u8]) -> io::Result<bool> {
    const POLL_INTERVAL: Duration = Duration::from_millis(20);
    let mut first = [0; 32];
    let first = first.get_mut(..wanted.len()).ok_or(io::ErrorKind::InvalidInput)?;
    loop {
        // Read before peeking: if closed, nothing more arrives.
        let is_over = tcp.ready(Interest::READABLE).await?.is_read_closed();
        let seen = tcp.peek(first).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first.get(..seen) != wanted.get(..seen) {
            return Ok(false);
        }
        if seen == wanted.len() {
            return Ok(true);
        }
        if is_over {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // `peek` waits for the first byte only.
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Reads the header, if there is one, and nothing behind it. Returns the client's address.
///
/// # Errors
/// The connection ended; the header is damaged or too long.
pub async fn read(tcp: &mut TcpStream, proxy: IpAddr) -> io::Result<IpAddr> {
    if !begins_with(tcp, SIGNATURE).await? {
        return Ok(proxy);
    }
    let mut bytes = vec![0; FIXED_LEN];
    tcp.read_exact(&mut bytes).await?;
    let rest = match bytes.last_chunk::<2>() {
        Some(length) => usize::from(u16::from_be_bytes(*length)),
        None => 0,
    };
    if rest > MAX_REST_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the PROXY header is too long"));
    }
    bytes.resize(FIXED_LEN + rest, 0);
    tcp.read_exact(bytes.get_mut(FIXED_LEN..).unwrap_or_default()).await?;
    let header = Header::try_from(bytes.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(of)) => IpAddr::V4(of.source_address),
        (Command::Proxy, Addresses::IPv6(of)) => IpAddr::V6(of.source_address).to_canonical(),
        // A health check of the load balancer, or a client without an address.
        _ => proxy,
    })
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    /// A header of this command and family, with an extension of `more` bytes.
    fn header(command: u8, family: u8, addresses: &[u8], more: u16) -> Vec<u8> {
        let field = match more {
            0 => Vec::new(),
            // "No operation", and its length.
            more => [&[0x04][..], &more.to_be_bytes(), &vec![0; usize::from(more)]].concat(),
        };
        let length = u16::try_from(addresses.len() + field.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, addresses, &field].concat()
    }

    /// The client's address for these bytes, and the bytes that are left.
    async fn of(bytes: &[u8]) -> io::Result<(IpAddr, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        let (mut server, _) = listener.accept().await?;
        // In two writes, so that the header arrives in parts.
        let (first, second) = bytes.split_at(bytes.len().min(5));
        client.write_all(first).await?;
        let sending = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            client.write_all(second).await?;
            client.shutdown().await
        };
        let (sent, found) = tokio::join!(sending, read(&mut server, IpAddr::from([127, 0, 0, 1])));
        sent?;
        let found = found?;
        let mut left = Vec::new();
        server.read_to_end(&mut left).await?;
        Ok((found, left))
    }

    #[tokio::test]
    async fn the_header_names_the_client_and_is_taken_away() {
        let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 1, 2, 3, 4];
        let mut v6 = vec![0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 7;
        let get = b"GET / HTTP/1.1\r\n\r\n";
        for (header, expected) in [
            (header(1, 0x11, &v4, 0), "203.0.113.9"),
            (header(1, 0x11, &v4, 100), "203.0.113.9"),
            (header(1, 0x21, &v6, 0), "2001:db8::7"),
            (header(0, 0x11, &v4, 0), "127.0.0.1"),
            (header(0, 0x00, &[], 0), "127.0.0.1"),
            (Vec::new(), "127.0.0.1"),
        ] {
            let (peer, left) = of(&[&header, &get[..]].concat()).await.unwrap();
            assert_eq!((peer, left.as_slice()), (expected.parse().unwrap(), &get[..]));
        }
    }

    #[tokio::test]
    async fn a_damaged_or_endless_header_ends_the_connection() {
        let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 1, 2, 3, 4];
        assert!(of(&header(9, 0x11, &v4, 0)).await.is_err(), "an unknown command");
        assert!(of(&header(1, 0x11, &v4[..5], 0)).await.is_err(), "half an address");
        assert!(of(&header(1, 0x11, &v4, 4000)).await.is_err(), "too long");
        assert!(of(&header(1, 0x11, &v4, 0)[..20]).await.is_err(), "broken off");
        assert!(of(&SIGNATURE[..8]).await.is_err(), "broken off in the signature");
        let mut old = header(1, 0x11, &v4, 0);
        old[12] = 0x11;
        assert!(of(&old).await.is_err(), "another version");
    }
}
