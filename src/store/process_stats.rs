//! Process statistics as JSON, as stored with the node. Another version may have written them: missing or
//! unknown values are skipped.

use serde_json::{Value, json};

use crate::domain::process_stats::{
    DependencyHealth, LatencyHistogram, MessageCounts, ProcessStats,
};

/// The stored form.
pub(super) fn to_json(figures: &ProcessStats) -> String {
    let parts: Vec<Value> = figures
        .parts
        .iter()
        .map(|part| {
            json!({
                "name": part.name, "up": part.up, "latencyMs": part.latency_ms,
                "version": part.version, "fault": part.fault, "past": part.past,
            })
        })
        .collect();
    let [low, normal, high] = figures.wake_ups;
    json!({
        "total": counts(&figures.total),
        "latencies": latencies(&figures.latencies),
        "recent": figures.recent.iter().map(counts).collect::<Vec<_>>(),
        "recentLatencies": latencies(&figures.recent_latencies),
        "connections": figures.connections,
        "wakeUps": [low, normal, high],
        "backpressure": figures.backpressure,
        "memoryBytes": figures.memory,
        "parts": parts,
    })
    .to_string()
}

/// Accepted, delivered, failed, retries: an array, because there are many samples.
fn counts(counts: &MessageCounts) -> Value {
    json!([counts.accepted, counts.delivered, counts.failed, counts.retries])
}

/// Pairs of bucket and count.
fn latencies(latencies: &LatencyHistogram) -> Value {
    latencies.filled().map(|(bucket, count)| json!([bucket, count])).collect()
}

/// Reads the stored form.
pub(super) fn from_json(text: &str) -> ProcessStats {
    let stored: Value = serde_json::from_str(text).unwrap_or_default();
    let list = |name: &str| stored[name].as_array().into_iter().flatten();
    let mut wake_ups = [0; 3];
    for (lane, count) in wake_ups.iter_mut().zip(list("wakeUps")) {
        *lane = number(count);
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    ProcessStats {
        total: read_counts(&stored["total"]),
        latencies: read_latencies(&stored["latencies"]),
        recent: list("recent").map(read_counts).collect(),
        recent_latencies: read_latencies(&stored["recentLatencies"]),
        connections: number(&stored["connections"]),
        wake_ups,
        backpressure: text(&stored["backpressure"]),
        memory: stored["memoryBytes"].as_u64(),
        parts: list("parts")
            .map(|part| DependencyHealth {
                name: text(&part["name"]).unwrap_or_default(),
                up: part["up"].as_bool().unwrap_or_default(),
                latency_ms: part["latencyMs"].as_f64(),
                version: text(&part["version"]),
                fault: text(&part["fault"]),
                past: part["past"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|took| i32::try_from(took.as_i64()?).ok())
                    .collect(),
            })
            .collect(),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn read_counts(value: &Value) -> MessageCounts {
    MessageCounts {
        accepted: number(&value[0]),
        delivered: number(&value[1]),
        failed: number(&value[2]),
        retries: number(&value[3]),
    }
}

fn read_latencies(value: &Value) -> LatencyHistogram {
    let mut latencies = LatencyHistogram::default();
    for pair in value.as_array().into_iter().flatten() {
        let bucket = pair[0].as_u64().and_then(|bucket| usize::try_from(bucket).ok());
        // An invalid bucket is ignored.
        latencies.add(bucket.unwrap_or(usize::MAX), number(&pair[1]));
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_reads_as_it_was() {
        let mut latencies = LatencyHistogram::default();
        latencies.add(17, 3);
        let counts = MessageCounts { accepted: 4, delivered: 3, failed: 2, retries: 1 };
        let figures = ProcessStats {
            total: counts,
            latencies: latencies.clone(),
            recent: vec![MessageCounts::default(), counts],
            recent_latencies: latencies,
            connections: 7,
            wake_ups: [1, 2, 3],
            backpressure: Some("open".to_owned()),
            memory: Some(1 << 25),
            parts: vec![DependencyHealth {
                name: "redis".to_owned(),
                up: false,
                latency_ms: Some(0.5),
                version: None,
                fault: Some("refused".to_owned()),
                past: vec![3, 0, -1],
            }],
        };
        assert_eq!(from_json(&to_json(&figures)), figures);
    }

    #[test]
    fn what_another_version_wrote_is_no_fault() {
        for text in ["{}", "[]", "", r#"{"total":7,"recent":{},"latencies":[[1e9,1],[],3]}"#] {
            assert_eq!(from_json(text), ProcessStats::default(), "{text}");
        }
    }
}
