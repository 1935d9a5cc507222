//! Asks a broker for its version before login, on a connection of its own, because the library does not expose
//! it. With a timeout, so this also finds out whether there is a broker at all.

use std::{io, time::Duration};

use futures_util::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use lapin::{
    protocol::{AMQPClass, connection::AMQPMethod, parse_class},
    tcp::{AMQPUriTcpExt as _, OwnedTLSConfig},
    types::{AMQPValue, FieldTable},
    uri::AMQPUri,
};

use super::{Error, topology::BrokerVersion};

/// Covers connecting, TLS and the first frame.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// AMQP 0-9-1.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// The first frame has under two thousand bytes.
const MAX_FRAME_LEN: u32 = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broker {
    /// Such as `3.10.8`.
    pub(super) version: String,
    /// Shared by the nodes of a cluster.
    pub(super) cluster_name: String,
}

/// # Errors
/// [`Error::Unreachable`]; [`Error::Foreign`] and [`Error::Old`] for unsupported brokers.
pub(super) async fn probe(uri: &AMQPUri, tls: &OwnedTLSConfig) -> Result<Broker, Error> {
    let asked = async {
        let runtime = lapin::runtime::default_runtime()?;
        let mut stream = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
        let read_first_frame = read_first_frame(&mut stream).await?;
        // The broker sees a close instead of a reset.
        let _ = stream.close().await;
        broker(&read_first_frame)
    };
    tokio::time::timeout(PROBE_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(Error::silent(PROBE_TIMEOUT)))
}

async fn read_first_frame(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<Vec<u8>, Error> {
    stream.write_all(PROTOCOL_HEADER).await?;
    stream.flush().await?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let [kind, _, _, length @ ..] = head;
    let length = u32::from_be_bytes(length);
    // A method on channel 0. A broker of another protocol answers with its own header.
    if kind != 1 || length > MAX_FRAME_LEN {
        return Err(Error::Foreign);
    }
    let mut body = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

fn broker(read_first_frame: &[u8]) -> Result<Broker, Error> {
    let Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) = parse_class(read_first_frame)
    else {
        return Err(Error::Foreign);
    };
    let property = |name: &str| text(&start.server_properties, name);
    if property("product") != "RabbitMQ" {
        return Err(Error::Foreign);
    }
    let version = property("version");
    if BrokerVersion::parse(&version).is_none_or(|version| version < BrokerVersion::MIN_SUPPORTED) {
        return Err(Error::Old(version));
    }
    Ok(Broker { version, cluster_name: property("cluster_name") })
}

fn text(properties: &FieldTable, name: &str) -> String {
    match properties.inner().get(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        Some(AMQPValue::ShortString(text)) => text.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `connection.start` with these properties.
    fn start(properties: &[(&str, &str)]) -> Vec<u8> {
        let mut table = Vec::new();
        for (name, value) in properties {
            table.push(u8::try_from(name.len()).unwrap());
            table.extend(name.as_bytes());
            table.push(b'S');
            table.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            table.extend(value.as_bytes());
        }
        let mut body = vec![0, 10, 0, 10, 0, 9];
        body.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
        body.extend(table);
        for text in ["PLAIN", "en_US"] {
            body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            body.extend(text.as_bytes());
        }
        body
    }

    fn of_version(version: &str) -> Result<Broker, Error> {
        broker(&start(&[("product", "RabbitMQ"), ("version", version), ("cluster_name", "c@h")]))
    }

    #[test]
    fn old_and_foreign_brokers_are_refused_in_plain_words() {
        let good = of_version("3.10.8").unwrap();
        assert_eq!(good, Broker { version: "3.10.8".to_owned(), cluster_name: "c@h".to_owned() });
        assert!(of_version("4.2.0").is_ok());
        let old = of_version("3.9.13").unwrap_err().to_string();
        assert_eq!(old, "the broker is RabbitMQ 3.9.13; 3.10 or newer is needed");
        assert!(matches!(of_version("?"), Err(Error::Old(_))));
        let other = broker(&start(&[("product", "LavinMQ"), ("version", "2.0.0")]));
        assert!(matches!(other, Err(Error::Foreign)));
        assert!(matches!(broker(b"HTTP/1.1 400"), Err(Error::Foreign)));
        assert!(matches!(broker(b""), Err(Error::Foreign)));
    }
}
