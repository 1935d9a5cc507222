//! `/health`, for people and probes.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use http::StatusCode;
use serde_json::json;
use warp::reply::Response;

use crate::{
    app::{
        App,
        health::{Dependency, Replica, Stops},
        probes::Found,
    },
    server::{
        Readiness,
        authorization::bearer,
        context::{RequestContext, SharedContext, unknown_parameter},
        peer,
        reply::{self, Problem, answer},
        route::NoRoute,
        timestamp,
    },
};

/// `GET /health/live`: the process answers.
pub async fn live(_: SharedContext) -> Response {
    alive()
}

fn alive() -> Response {
    reply::json(StatusCode::OK, &json!({ "status": "healthy" }))
}

/// `GET /health/ready`: it can take requests now.
pub async fn ready(context: SharedContext) -> Response {
    readiness(&context.app, &context.readiness, is_administrator(&context).await).await
}

async fn readiness(app: &App, readiness: &Readiness, details: bool) -> Response {
    if !readiness.load(Ordering::Acquire) {
        let body = json!({ "status": "stopping" });
        return reply::json(StatusCode::SERVICE_UNAVAILABLE, &body);
    }
    if app.is_draining() {
        let body = json!({ "status": "draining" });
        return reply::json(StatusCode::SERVICE_UNAVAILABLE, &body);
    }
    // What no gateway can store is no reason to send everybody away from this one.
    page(app, details, false, |dependency| dependency.stops == Stops::Everything).await
}

/// `GET /health`: everything it needs answers. What that is in detail is for administrators. With `history`,
/// how it was as well.
pub async fn whole(context: SharedContext) -> Response {
    answer(
        async {
            let details = is_administrator(&context).await;
            let history = asks_history(&context.query)?;
            Ok(everything(&context.app, details, details && history).await)
        }
        .await,
    )
}

/// `GET /health-status` of the existing system.
pub async fn status(context: SharedContext) -> Response {
    everything(&context.app, false, false).await
}

async fn everything(app: &App, details: bool, history: bool) -> Response {
    page(app, details, history, |dependency| dependency.stops != Stops::Nothing).await
}

/// Whether the request has the token of an administrator. Only asked where the answer depends on it: health is
/// answered also while the database is away.
async fn is_administrator(context: &RequestContext) -> bool {
    let Some(token) = bearer(&context.headers) else { return false };
    let Some(from) = context.peer.map(peer::block) else { return false };
    let caller = context.app.authenticate(token, from).await;
    caller.is_ok_and(|caller| caller.administrator().is_ok())
}

/// A health page for the listener of machines: in detail, because only machines of the operator reach it.
pub async fn machine_page(app: &App, ready: &Readiness, uri: &http::Uri) -> Response {
    match uri.path() {
        "/health" => match asks_history(uri.query().unwrap_or_default()) {
            Ok(history) => everything(app, true, history).await,
            Err(problem) => problem.into_response(),
        },
        "/health/live" => alive(),
        "/health/ready" => readiness(app, ready, true).await,
        _ => NoRoute::Nothing.into_response(),
    }
}

/// Whether the query asks for what was found earlier.
fn asks_history(query: &str) -> Result<bool, Problem> {
    if let Some(problem) = unknown_parameter(query, &["history"]) {
        return Err(problem);
    }
    match query.split('&').rfind(|pair| !pair.is_empty()) {
        None | Some("history=false") => Ok(false),
        Some("history=true") => Ok(true),
        Some(_) => Err(Problem::field("history", "unknown", "history is true or false")),
    }
}

async fn page(
    app: &App,
    details: bool,
    history: bool,
    needed: impl Fn(&Dependency) -> bool,
) -> Response {
    let dependencies = app.health(details).await;
    let healthy = dependencies.iter().all(|dependency| dependency.up || !needed(dependency));
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if healthy { "healthy" } else { "unhealthy" };
    if !details {
        return reply::json(status, &json!({ "status": word }));
    }
    let list: BTreeMap<&str, serde_json::Value> =
        dependencies.iter().map(|dependency| (dependency.name, state(dependency))).collect();
    let (level, in_hand) = app.backpressure();
    let mut body = json!({
        "status": word,
        "dependencies": list,
        "backpressure": { "level": level.name(), "deliveriesInHand": in_hand },
    });
    let replicas = app.replicas();
    if !replicas.is_empty() {
        body["replicas"] = replicas.iter().map(replica).collect();
    }
    if history {
        let past = app.health_history().into_iter();
        body["history"] = past
            .map(|(name, found)| (name.to_owned(), found.iter().map(earlier).collect()))
            .collect::<serde_json::Map<String, serde_json::Value>>()
            .into();
    }
    reply::json(status, &body)
}

fn earlier(found: &Found) -> serde_json::Value {
    let Found { at, up, latency, fault } = found;
    let mut state = state_of(*up, *latency, fault.as_ref());
    state["at"] = timestamp::text(*at).into();
    state
}

fn replica(replica: &Replica) -> serde_json::Value {
    let mut state = json!({ "name": &*replica.name, "status": replica.standing.name() });
    if let Some(lag) = replica.lag {
        state["lagSeconds"] = json!((lag.as_secs_f64() * 1e3).round() / 1e3);
    }
    if let Some(fault) = &replica.fault {
        state["fault"] = json!(fault);
    }
    state
}

fn state(dependency: &Dependency) -> serde_json::Value {
    state_of(dependency.up, dependency.latency, dependency.fault.as_ref())
}

fn state_of(up: bool, latency: Duration, fault: Option<&String>) -> serde_json::Value {
    let mut state = json!({
        "status": if up { "up" } else { "down" },
        "latencyMs": (latency.as_secs_f64() * 1e5).round() / 100.0,
    });
    if let Some(fault) = fault {
        state["fault"] = json!(fault);
    }
    state
}
