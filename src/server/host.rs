//! The host that a request names. Two parties that read a request differently, such as a balancer and this server,
//! must not see two hosts.

use ::http::{Request, StatusCode, Version, header, uri::Authority};

use super::reply::Problem;
use crate::domain::web_origin::is_host_and_port;

/// The host and port that a request is for.
pub fn of<B>(request: &Request<B>) -> Option<&str> {
    let named = request.uri().authority().map(Authority::as_str);
    named.or_else(|| request.headers().get(header::HOST)?.to_str().ok())
}

/// Refuses a request that names no host, two, or none that can be one.
///
/// # Errors
/// 400 `invalid_host`.
pub fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(invalid("the request has more than one Host"));
    }
    // A value that is no text is no host.
    let host = first.map(|host| host.to_str().unwrap_or_default());
    let named = request.uri().authority().map(Authority::as_str);
    if [host, named].into_iter().flatten().any(|text| !is_host_and_port(text)) {
        return Err(invalid("the Host is not a host and port"));
    }
    match (host, named) {
        (Some(host), Some(named)) if !host.eq_ignore_ascii_case(named) => {
            Err(invalid("the Host differs from the host of the address"))
        }
        (Some(_), _) => Ok(()),
        // `:authority` stands for it.
        (None, Some(_)) if request.version() > Version::HTTP_11 => Ok(()),
        // Health checks of balancers still use such a version.
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        (None, _) => Err(invalid("the request has no Host")),
    }
}

fn invalid(text: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_host", text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(uri: &str, version: Version, hosts: &[&str]) -> bool {
        let mut request = Request::builder().uri(uri).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn a_request_names_one_host() {
        use Version as V;
        assert!(judged("/", V::HTTP_11, &["a.example"]));
        assert!(judged("/", V::HTTP_11, &["[::1]:5000"]));
        assert!(judged("/", V::HTTP_10, &[]));
        assert!(judged("https://a.example/", V::HTTP_2, &[]));
        assert!(judged("https://a.example/", V::HTTP_2, &["A.example"]));
        assert!(judged("http://a.example/", V::HTTP_11, &["a.example"]));
        assert!(!judged("/", V::HTTP_11, &[]));
        assert!(!judged("/", V::HTTP_2, &[]));
        // An address in the request line does not stand for it in HTTP/1.1 (RFC 9112, 3.2).
        assert!(!judged("http://a.example/", V::HTTP_11, &[]));
        assert!(judged("http://a.example/", V::HTTP_10, &[]));
        assert!(!judged("http://user@a.example/", V::HTTP_10, &[]));
        assert!(!judged("https://user@a.example/", V::HTTP_2, &[]));
        assert!(!judged("/", V::HTTP_11, &["a.example", "a.example"]));
        assert!(!judged("/", V::HTTP_10, &["a.example", "b.example"]));
        assert!(!judged("/", V::HTTP_11, &[""]));
        assert!(!judged("/", V::HTTP_11, &["a.example/x"]));
        assert!(!judged("/", V::HTTP_11, &["user@a.example"]));
        assert!(!judged("/", V::HTTP_11, &["a.example, b.example"]));
        assert!(!judged("/", V::HTTP_11, &["a.example,b.example"]));
        assert!(!judged("/", V::HTTP_11, &["a.example:x"]));
        assert!(!judged("/", V::HTTP_10, &[":5000"]));
        assert!(!judged("https://a.example/", V::HTTP_2, &["b.example"]));
    }
}
