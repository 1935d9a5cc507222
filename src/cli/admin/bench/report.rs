//! What a run measured, printed.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    bench::load::results::{LoadResults, MeasuredLatencies},
    cli::{
        io::exit::{ExitStatus, Failure},
        setup::Setup,
    },
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LatencyView {
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CpuView {
    /// In microseconds per message.
    esh3ar: f64,
    postgres: f64,
    total: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    seconds: f64,
    sent: u64,
    accepted: u64,
    received: u64,
    acknowledged: u64,
    refused: BTreeMap<String, u64>,
    messages_per_second: f64,
    delivery_ms: Option<LatencyView>,
    answer_ms: Option<LatencyView>,
    cpu_micros_per_message: Option<CpuView>,
    server_memory_mi_b: Option<f64>,
    /// Unread counts that were checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_counts: Option<u64>,
    history: BTreeMap<&'static str, u64>,
    clean: bool,
    interrupted: bool,
}

pub(super) fn report(setup: &Setup, figures: &LoadResults) -> Result<(), Failure> {
    let seconds = figures.took.as_secs_f64().max(1e-6);
    let per_message =
        |cpu: Duration| round(cpu.as_secs_f64() * 1e6 / figures.accepted.max(1) as f64, 1);
    let refused = figures.refused.iter().map(|(status, count)| {
        let name = if *status == 0 { "noAnswer".to_owned() } else { status.to_string() };
        (name, *count)
    });
    let view = View {
        seconds: round(seconds, 2),
        sent: figures.sent,
        accepted: figures.accepted,
        received: figures.received,
        acknowledged: figures.acknowledged,
        refused: refused.collect(),
        messages_per_second: round(figures.accepted as f64 / seconds, 0),
        delivery_ms: latencies(&figures.delivery),
        answer_ms: latencies(&figures.answer),
        cpu_micros_per_message: figures.cpu.map(|(own, rest)| CpuView {
            esh3ar: per_message(own),
            postgres: per_message(rest),
            total: per_message(own + rest),
        }),
        server_memory_mi_b: figures.memory_kib.map(|kib| round(kib as f64 / 1024.0, 1)),
        unread_counts: (figures.unread_counts > 0).then_some(figures.unread_counts),
        history: figures.report.counts().collect(),
        clean: figures.report.is_clean(),
        interrupted: figures.interrupted,
    };
    if setup.output.is_table() {
        setup.output.text(&table(&view));
    } else {
        setup.output.record(&view);
    }
    if !figures.report.is_clean() {
        return Err(Failure::new(
            ExitStatus::Failed,
            format!("guarantees were violated:\n{}", figures.report),
        )
        .hint("see the messages above with: esh3ar message explain ID"));
    }
    if let Some((0, count)) = figures.refused.first() {
        let what = format!("{count} messages got no response");
        return Err(Failure::new(ExitStatus::Unavailable, what).hint("run: esh3ar doctor"));
    }
    if figures.accepted == 0 && !figures.interrupted {
        let status = figures.refused.first().map_or(0, |(status, _)| *status);
        let what = format!("no message was accepted; the server answered {status}");
        return Err(
            Failure::new(ExitStatus::Refused, what).hint("see the server's limits and its log")
        );
    }
    Ok(())
}

pub(super) fn latencies(latencies: &MeasuredLatencies) -> Option<LatencyView> {
    let at = |share| round(latencies.quantile_ms(share), 2);
    (!latencies.is_empty()).then(|| LatencyView {
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max: round(latencies.max_ms(), 2),
    })
}

fn table(view: &View) -> String {
    let mut lines = vec![
        format!(
            "messages     {} accepted in {} s, {} received, {} acknowledged",
            view.accepted, view.seconds, view.received, view.acknowledged
        ),
        format!("throughput   {:.0} messages/s", view.messages_per_second),
    ];
    let named = [("delivery", &view.delivery_ms), ("answer", &view.answer_ms)];
    for (name, latency) in named {
        if let Some(l) = latency {
            lines.push(format!(
                "{name:12} p50 {} ms, p90 {}, p95 {}, p99 {}, p99.9 {}, max {}",
                l.p50, l.p90, l.p95, l.p99, l.p999, l.max
            ));
        }
    }
    match &view.cpu_micros_per_message {
        Some(cpu) => lines.push(format!(
            "server CPU   {} µs per message: {} esh3ar, {} Postgres",
            cpu.total, cpu.esh3ar, cpu.postgres
        )),
        None => lines.push("server CPU   not available".to_owned()),
    }
    if let Some(memory) = view.server_memory_mi_b {
        lines.push(format!("memory       {memory} MiB, without Postgres"));
    }
    for (status, count) in &view.refused {
        lines.push(format!("refused      {count} with {status}"));
    }
    lines.push(format!(
        "history      {}",
        if view.clean { "all guarantees held" } else { "guarantees were violated" }
    ));
    lines.push(String::new());
    lines.join("\n")
}

pub(super) fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}
