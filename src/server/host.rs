//! The host that a request names. Two parties that read a request differently, such as a balancer and this server,
//! must not see two hosts.

use ::http::{Request, StatusCode, Version, header, uri::Authority};

use super::reply::Problem;

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
    let host = first.map(|host| Authority::try_from(host.as_bytes()));
    match (host, request.uri().authority()) {
        (Some(Err(_)), _) => Err(invalid("the Host is not a host and port")),
        (Some(Ok(host)), _) if host.as_str().contains('@') => {
            Err(invalid("the Host is not a host and port"))
        }
        (Some(Ok(host)), Some(named)) if !host.as_str().eq_ignore_ascii_case(named.as_str()) => {
            Err(invalid("the Host differs from the host of the address"))
        }
        (Some(Ok(_)), _) | (None, Some(_)) => Ok(()),
        // Health checks of balancers still use such a version.
        (None, None) if request.version() < Version::HTTP_11 => Ok(()),
        (None, None) => Err(invalid("the request has no Host")),
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
        assert!(!judged("/", V::HTTP_11, &["a.example", "a.example"]));
        assert!(!judged("/", V::HTTP_10, &["a.example", "b.example"]));
        assert!(!judged("/", V::HTTP_11, &[""]));
        assert!(!judged("/", V::HTTP_11, &["a.example/x"]));
        assert!(!judged("/", V::HTTP_11, &["user@a.example"]));
        assert!(!judged("/", V::HTTP_11, &["a.example, b.example"]));
        assert!(!judged("https://a.example/", V::HTTP_2, &["b.example"]));
    }
}
