//! Which services on other machines are reached without TLS.

use super::check::{Check, warn};
use crate::{
    cli::{process::database, setup::Setup},
    config::Config,
    domain::network,
    store::pool,
};

pub(super) fn check(setup: &Setup, checks: &mut Vec<Check>) {
    checks.extend(warnings(&setup.loaded.config));
}

fn warnings(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    for url in &config.database.replica_urls {
        if database::parse("database.replica_urls", url).is_ok_and(|t| pool::may_be_unencrypted(&t))
        {
            checks.push(warn(
                "encryption",
                "a replica in database.replica_urls may be reached over the network without TLS",
                "use sslmode=require in database.replica_urls: an attacker on the network can read every message",
            ));
        }
    }
    let queue = config.queue.url.as_ref().map(|url| url.expose());
    if queue.is_some_and(|urls| urls.split(',').any(|url| is_unencrypted("amqp", url.trim()))) {
        checks.push(warn(
            "encryption",
            "RabbitMQ is reached over the network without TLS",
            "use amqps:// in queue.url: an attacker on the network can read the password, and then stop \
             wake-ups",
        ));
    }
    let cache = config.cache.url.as_ref().map(|url| url.expose());
    if cache.is_some_and(|url| is_unencrypted("redis", url)) {
        checks.push(warn(
            "encryption",
            "Redis is reached over the network without TLS",
            "use rediss:// in cache.url: an attacker on the network can read the password and who is connected, \
             and then delay messages",
        ));
    }
    checks
}

/// Whether a URL of a scheme without TLS, or of a kind of it such as `redis+sentinel`, names another machine.
fn is_unencrypted(plain: &str, url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    scheme == plain && kind != "unix" && hosts.split(',').any(|host| is_elsewhere(host.trim()))
}

/// Whether `host`, `host:port` or `[address]:port` is another machine.
fn is_elsewhere(place: &str) -> bool {
    let host = match place.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => place,
    };
    !host.is_empty() && !network::is_this_machine(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, ConfigSources};

    #[test]
    fn a_url_without_tls_is_noticed_beyond_this_machine() {
        for url in [
            "redis://cache.example.com",
            "redis://:pw@cache.example.com:6379/2",
            "redis://10.0.0.1:6379",
            "redis://[2001:db8::1]:6379",
            "redis+sentinel://:pw@localhost:26379,b:26379/main",
            "redis+cluster://127.0.0.1:7000,10.0.0.2:7000",
        ] {
            assert!(is_unencrypted("redis", url), "{url}");
        }
        for url in [
            "rediss://cache.example.com",
            "rediss+cluster://a:7000,b:7000",
            "redis://localhost:6379",
            "redis://:p@127.0.0.1",
            "redis://[::1]:6379/1",
            "redis+unix:///run/redis.sock",
            "redis+cluster://127.0.0.1:7000,localhost:7001",
        ] {
            assert!(!is_unencrypted("redis", url), "{url}");
        }
        assert!(is_unencrypted("amqp", "amqp://u:p@mq.example.com:5672/esh3ar"));
        assert!(!is_unencrypted("amqp", "amqps://u:p@mq.example.com:5671/esh3ar"));
        assert!(!is_unencrypted("amqp", "amqp://u:p@localhost/esh3ar"));
    }

    #[test]
    fn each_service_has_its_warning_and_what_to_do() {
        let found = |database: &str, queue: &str, cache: &str| {
            let text = format!(
                "[database]\nurl = 'postgres://localhost/x'\nreplica_urls = ['{database}']\n\
                 [queue]\nurl = '{queue}'\n[cache]\nurl = '{cache}'\n"
            );
            let file = Some(("x.toml".to_owned(), text));
            let loaded = config::load(ConfigSources { file, ..ConfigSources::default() }).unwrap();
            warnings(&loaded.config).into_iter().map(|check| check.remedy).collect::<Vec<_>>()
        };
        let remedies = found(
            "postgres://u:secret@b/x?sslmode=prefer",
            "amqp://u:secret@a,amqp://u:secret@b",
            "redis://:secret@c",
        );
        let wanted = ["sslmode=require", "amqps://", "rediss://"];
        assert_eq!(remedies.len(), wanted.len(), "{remedies:?}");
        for (remedy, wanted) in remedies.iter().zip(wanted) {
            assert!(remedy.contains(wanted) && !remedy.contains("secret"), "{remedy}");
        }
        let none = found("postgres://b/x", "amqps://a,amqps://b", "rediss://c");
        assert_eq!(none, Vec::<String>::new());
    }
}
