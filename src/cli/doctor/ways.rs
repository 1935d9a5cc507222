//! The ways to others: RabbitMQ, Redis, the mail server.

use super::{Check, bad, good};
use crate::{
    cli::{Setup, cluster, opened},
    queue::rabbit,
    redis,
};

pub(super) async fn look(setup: &Setup, checks: &mut Vec<Check>) {
    broker(setup, checks).await;
    cache(setup, checks).await;
    mail(setup, checks).await;
}

async fn broker(setup: &Setup, checks: &mut Vec<Check>) {
    let settings = match cluster::broker(&setup.loaded.config) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            return checks.push(good("rabbitmq", "queue.url is not set: one process alone"));
        }
        Err(failure) => {
            return checks.push(bad("rabbitmq", failure.what, "correct queue.url"));
        }
    };
    for (node, found) in rabbit::check_login(&settings).await {
        checks.push(match found {
            Ok(version) => good("rabbitmq", format!("{node}: RabbitMQ {version} lets esh3ar in")),
            Err(error) => {
                let remedy = "check queue.url, and that RabbitMQ runs and lets esh3ar in; meanwhile \
                              messages come later, and none is lost";
                bad("rabbitmq", format!("{node}: {error}"), remedy)
            }
        });
    }
}

async fn cache(setup: &Setup, checks: &mut Vec<Check>) {
    let target = match cluster::target(&setup.loaded.config) {
        Ok(Some(target)) => target,
        Ok(None) => return checks.push(good("redis", "cache.url is not set: one process alone")),
        Err(failure) => return checks.push(bad("redis", failure.what, "correct cache.url")),
    };
    let remedy = "check cache.url, and that Redis runs and lets esh3ar in; meanwhile messages come \
                  later, and none is lost";
    checks.push(match redis::check_login(&target).await {
        Ok(found) if found.is_old() => {
            let text = format!("Redis {} answers", found.version);
            bad("redis", text, "install Redis 7 or newer")
        }
        Ok(found) => {
            let took = found.latency.as_secs_f64() * 1000.0;
            good("redis", format!("Redis {} answers in {took:.1} ms", found.version))
        }
        Err(error) => bad("redis", error.to_string(), remedy),
    });
}

async fn mail(setup: &Setup, checks: &mut Vec<Check>) {
    let mailer = match opened::mailer(&setup.loaded.config) {
        Ok(mailer) => mailer,
        Err(failure) => return checks.push(bad("mail", failure.what, "correct smtp.*")),
    };
    checks.push(match mailer.check().await {
        None => good("mail", "smtp.host is not set: alerts go to the log"),
        Some(Ok(())) => good("mail", "the mail server answers"),
        Some(Err(error)) => {
            let remedy = "check smtp.*, and that the mail server lets esh3ar in";
            bad("mail", error.to_string(), remedy)
        }
    });
}
