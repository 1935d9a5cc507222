//! `/health`, for people and probes.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use http::StatusCode;
use serde_json::json;
use warp::reply::Response;

use crate::{
    app::{
        App,
        process::health::{Dependency, Replica, Stops},
        process::health_probes::ProbeResult,
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
    if app.process.is_draining() {
        let body = json!({ "status": "draining" });
        return reply::json(StatusCode::SERVICE_UNAVAILABLE, &body);
    }
    // If no gateway can store anything, sending clients to another one does not help.
    page(app, details, false, |dependency| dependency.stops == Stops::Everything).await
}

/// `GET /health`: the health of all dependencies. Details are for administrators; with `history`, also the
/// last results.
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

/// `GET /health-status` of the legacy API.
pub async fn status(context: SharedContext) -> Response {
    everything(&context.app, false, false).await
}

async fn everything(app: &App, details: bool, history: bool) -> Response {
    page(app, details, history, |dependency| dependency.stops != Stops::Nothing).await
}

/// Whether the caller is an administrator. Only checked where the response depends on it: health must answer
/// while the database is down.
async fn is_administrator(context: &RequestContext) -> bool {
    let Some(token) = bearer(&context.headers) else { return false };
    let Some(from) = context.peer.map(peer::block) else { return false };
    let caller = context.app.identity.authenticate(token, from).await;
    caller.is_ok_and(|caller| caller.administrator().is_ok())
}

/// A health page on the metrics listener: with details, because only the operator's machines reach it.
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

/// Whether the query asks for the history.
fn asks_history(query: &str) -> Result<bool, Problem> {
    if let Some(problem) = unknown_parameter(query, &["history"]) {
        return Err(problem);
    }
    match query.split('&').rfind(|pair| !pair.is_empty()) {
        None | Some("history=false") => Ok(false),
        Some("history=true") => Ok(true),
        Some(_) => Err(Problem::field("history", "unknown", "history must be true or false")),
    }
}

async fn page(
    app: &App,
    details: bool,
    history: bool,
    needed: impl Fn(&Dependency) -> bool,
) -> Response {
    let dependencies = app.process.health(details).await;
    let healthy = dependencies.iter().all(|dependency| dependency.up || !needed(dependency));
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if healthy { "healthy" } else { "unhealthy" };
    if !details {
        return reply::json(status, &json!({ "status": word }));
    }
    let list: BTreeMap<&str, serde_json::Value> =
        dependencies.iter().map(|dependency| (dependency.name, state(dependency))).collect();
    let (level, in_hand) = app.limits.backpressure();
    let mut body = json!({
        "status": word,
        "dependencies": list,
        "backpressure": { "level": level.name(), "deliveriesInHand": in_hand },
    });
    let replicas = app.process.replicas();
    if !replicas.is_empty() {
        body["replicas"] = replicas.iter().map(replica).collect();
    }
    if history {
        let past = app.process.health_history().into_iter();
        body["history"] = past
            .map(|(name, found)| (name.to_owned(), found.iter().map(earlier).collect()))
            .collect::<serde_json::Map<String, serde_json::Value>>()
            .into();
    }
    reply::json(status, &body)
}

fn earlier(found: &ProbeResult) -> serde_json::Value {
    let ProbeResult { at, up, latency, fault } = found;
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
