//! `/health`, for people and probes.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use http::StatusCode;
use serde_json::json;
use warp::reply::Response;

use crate::{
    app::{
        App,
        health::{Dependency, Replica, Stops},
    },
    server::{Readiness, reply},
};

/// `GET /health/live`: the process answers.
pub fn live() -> Response {
    reply::json(StatusCode::OK, &json!({ "status": "healthy" }))
}

/// `GET /health/ready`: it can take requests now.
pub async fn ready(app: &App, readiness: &Readiness, details: bool) -> Response {
    if !readiness.load(Ordering::Acquire) {
        let body = json!({ "status": "stopping" });
        return reply::json(StatusCode::SERVICE_UNAVAILABLE, &body);
    }
    if app.is_draining() {
        let body = json!({ "status": "draining" });
        return reply::json(StatusCode::SERVICE_UNAVAILABLE, &body);
    }
    // What no gateway can store is no reason to send everybody away from this one.
    page(app, details, |dependency| dependency.stops == Stops::Everything).await
}

/// `GET /health`: everything it needs answers. What that is in detail is for administrators.
pub async fn whole(app: &App, details: bool) -> Response {
    page(app, details, |dependency| dependency.stops != Stops::Nothing).await
}

async fn page(app: &App, details: bool, needed: impl Fn(&Dependency) -> bool) -> Response {
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
    reply::json(status, &body)
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
    let mut state = json!({
        "status": if dependency.up { "up" } else { "down" },
        "latencyMs": (dependency.latency.as_secs_f64() * 1e5).round() / 100.0,
    });
    if let Some(fault) = &dependency.fault {
        state["fault"] = json!(fault);
    }
    state
}
