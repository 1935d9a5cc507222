//! The other services: RabbitMQ, Redis and the mail server.

use super::check::{Check, fail, ok};
use crate::{
    cli::{
        process::{backends, database},
        setup::Setup,
    },
    queue::rabbit,
    redis,
};

pub(super) async fn check(setup: &Setup, checks: &mut Vec<Check>) {
    broker(setup, checks).await;
    cache(setup, checks).await;
    mail(setup, checks).await;
}

async fn broker(setup: &Setup, checks: &mut Vec<Check>) {
    let settings = match backends::broker(&setup.loaded.config) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            return checks.push(ok("rabbitmq", "queue.url is not set: single process"));
        }
        Err(failure) => {
            return checks.push(fail("rabbitmq", failure.what, "fix queue.url"));
        }
    };
    for (node, found) in rabbit::check_login(&settings).await {
        checks.push(match found {
            Ok(version) => ok("rabbitmq", format!("{node}: RabbitMQ {version}, login succeeded")),
            Err(error) => {
                let remedy = "check queue.url, that RabbitMQ is running, and that esh3ar may log in; until \
                              then messages are delayed, not lost";
                fail("rabbitmq", format!("{node}: {error}"), remedy)
            }
        });
    }
}

async fn cache(setup: &Setup, checks: &mut Vec<Check>) {
    let target = match backends::redis_target(&setup.loaded.config) {
        Ok(Some(target)) => target,
        Ok(None) => return checks.push(ok("redis", "cache.url is not set: single process")),
        Err(failure) => return checks.push(fail("redis", failure.what, "fix cache.url")),
    };
    let remedy = "check cache.url, that Redis is running, and that esh3ar may log in; until then \
                  messages are delayed, not lost";
    checks.push(match redis::check_login(&target).await {
        Ok(found) if found.is_old() => {
            let text = format!("Redis {} answers", found.version);
            fail("redis", text, "install Redis 7 or newer")
        }
        Ok(found) => {
            let took = found.latency.as_secs_f64() * 1000.0;
            ok("redis", format!("Redis {} answers in {took:.1} ms", found.version))
        }
        Err(error) => fail("redis", error.to_string(), remedy),
    });
}

async fn mail(setup: &Setup, checks: &mut Vec<Check>) {
    let mailer = match database::mailer(&setup.loaded.config) {
        Ok(mailer) => mailer,
        Err(failure) => return checks.push(fail("mail", failure.what, "fix smtp.*")),
    };
    checks.push(match mailer.check().await {
        None => ok("mail", "smtp.host is not set: alerts go to the log"),
        Some(Ok(())) => ok("mail", "the mail server answers"),
        Some(Err(error)) => {
            let remedy = "check smtp.*, and that esh3ar may log in to the mail server";
            fail("mail", error.to_string(), remedy)
        }
    });
}
