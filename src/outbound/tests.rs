use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// Answers every connection with these bytes and ends it. Gives its address.
async fn server(response: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            let _ = tcp.read(&mut asked).await;
            let _ = tcp.write_all(&response).await;
        }
    });
    format!("localhost:{}", address.port())
}

fn client(policy: AddressPolicy) -> OutboundClient {
    let timeout = Duration::from_millis(500);
    OutboundClient::new(OutboundLimits {
        policy,
        timeout,
        max_response_len: 1000,
        ..OutboundLimits::default()
    })
    .unwrap()
}

async fn get(client: &OutboundClient, url: &str) -> Result<OutboundResponse, Error> {
    client.send(Request::get(url).body(Bytes::new()).unwrap()).await
}

#[tokio::test]
async fn an_answer_is_given_whatever_its_status() {
    let host = server(b"HTTP/1.1 410 Gone\r\nx-id: 7\r\ncontent-length: 2\r\n\r\nno".into()).await;
    let response =
        get(&client(AddressPolicy::Anywhere), &format!("http://{host}/a")).await.unwrap();
    assert_eq!((response.status.as_u16(), &response.body[..]), (410, &b"no"[..]));
    assert_eq!(response.headers["x-id"], "7");
}

#[tokio::test]
async fn nothing_inside_the_own_network_is_asked() {
    let host = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()).await;
    let port = host.split_once(':').unwrap().1;
    let public = client(AddressPolicy::Public);
    for url in [
        format!("http://{host}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let refused = get(&public, &url).await;
        assert!(matches!(refused, Err(Error::Forbidden)), "{url}: {refused:?}");
    }
    for url in ["ftp://example.org/", "http://user:word@example.org/", "http://user@example.org/"] {
        let refused = public.check(url);
        assert!(matches!(refused, Err(Error::Unusable(_))), "{url}: {refused:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let head = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let host = server(head.into()).await;
    let response = get(&client(AddressPolicy::Anywhere), &format!("http://{host}/")).await.unwrap();
    assert_eq!(response.status.as_u16(), 302);
}

#[tokio::test]
async fn long_late_and_broken_answers_are_told_apart() {
    let any = client(AddressPolicy::Anywhere);
    let announced = server(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n".into()).await;
    let endless = [&b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..], &[b'x'; 1001]].concat();
    let endless = server(endless).await;
    let limits = OutboundLimits {
        policy: AddressPolicy::Anywhere,
        max_response_len: 1000,
        truncate: true,
        ..OutboundLimits::default()
    };
    let cutting = OutboundClient::new(limits).unwrap();
    for host in [&announced, &endless] {
        let response = get(&any, &format!("http://{host}/")).await;
        assert!(matches!(response, Err(Error::TooLarge { limit: 1000 })), "{response:?}");
    }
    let response = get(&cutting, &format!("http://{endless}/")).await.unwrap();
    assert_eq!((response.status.as_u16(), response.body.len()), (200, 1000));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let late = get(&any, &format!("http://{}/", silent.local_addr().unwrap())).await.unwrap_err();
    assert!(matches!(late, Error::TimedOut) && !late.is_unsent(), "{late:?}");
    let broken = server(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".into()).await;
    let broken = get(&any, &format!("http://{broken}/")).await.unwrap_err();
    assert!(matches!(broken, Error::Broken(_)) && !broken.is_unsent(), "{broken:?}");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = get(&any, &format!("http://{free}/secret")).await.unwrap_err();
    assert!(matches!(nobody, Error::Unreachable(_)) && nobody.is_unsent(), "{nobody:?}");
    assert!(!nobody.to_string().contains("secret"), "{nobody}");
}
