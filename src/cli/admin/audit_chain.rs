//! `audit verify` and `audit head`: the hash chain of the audit log.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    cli::{
        io::exit::{ExitStatus, Failure},
        process::database,
        setup::Setup,
    },
    config,
    domain::audit_chain::{ChainHead, ChainReport, HeadState},
};

/// In bytes.
const MAX_HEAD_LEN: u64 = 4096;

/// What `audit head` prints.
#[derive(Serialize, Deserialize)]
struct HeadView {
    seq: i64,
    hash: String,
    at: String,
}

pub(super) async fn head(setup: &Setup) -> Result<(), Failure> {
    let opened = database::open(setup).await?;
    let head = opened.app.admin.audit_head().await.map_err(Failure::from);
    let head = opened.close(head).await?;
    let hash = head.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    setup.output.record(&HeadView { seq: head.seq, hash, at: moment(head.at) });
    Ok(())
}

/// `known` is what `audit head` printed as JSON, or a file with it.
pub(super) async fn verify(setup: &Setup, known: Option<&str>) -> Result<(), Failure> {
    let known = known.map(read_head).transpose()?;
    let opened = database::open(setup).await?;
    let report = opened.app.admin.verify_audit_log(known.as_ref()).await.map_err(Failure::from);
    let report = opened.close(report).await?;
    show(setup, &report);
    match report.faults.first() {
        None => Ok(()),
        Some(first) => {
            let what = format!("the audit log is not intact: {}", first.sentence());
            Err(Failure::new(ExitStatus::Failed, what)
                .hint("compare it with a backup of before; -o json lists the faults"))
        }
    }
}

fn show(setup: &Setup, report: &ChainReport) {
    let place = |at: Option<(i64, OffsetDateTime)>| {
        at.map(|(seq, at)| json!({ "seq": seq, "at": moment(at) }))
    };
    let faults = report.faults.iter();
    let head = report.known_head.map(|state| match state {
        HeadState::Contained => "contained",
        HeadState::Expired => "expired",
        HeadState::Absent => "absent",
    });
    if !setup.output.is_table() {
        setup.output.record(&json!({
            "valid": report.fault_count == 0,
            "first": place(report.first),
            "last": place(report.last),
            "entries": report.entries,
            "masked": report.masked,
            "faultCount": report.fault_count,
            "faults": faults
                .map(|fault| json!({ "kind": fault.name(), "what": fault.sentence() }))
                .collect::<Vec<_>>(),
            "head": head,
        }));
        return;
    }
    match (report.first, report.last) {
        (Some((first, from)), Some((last, to))) => setup.output.text(&format!(
            "{} entries, from {first} ({}) to {last} ({}); {} with values that an erasure masked\n",
            report.entries,
            moment(from),
            moment(to),
            report.masked
        )),
        _ => setup.output.text("no entries\n"),
    }
    if let Some(head) = head {
        setup.output.text(&format!("the given head: {head}\n"));
    }
    for fault in faults {
        setup.output.text(&format!("{}\n", fault.sentence()));
    }
}

fn moment(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

fn read_head(given: &str) -> Result<ChainHead, Failure> {
    let wrong = |what: String| {
        Failure::new(ExitStatus::Usage, what)
            .hint("give what esh3ar audit head -o json printed, or a file with it")
    };
    let text = if given.trim_start().starts_with('{') {
        given.to_owned()
    } else {
        config::read_bounded(Path::new(given), MAX_HEAD_LEN)
            .map_err(|error| wrong(format!("{given} cannot be read: {error}")))?
    };
    let unreadable = || wrong("--head is not a head of the audit log".to_owned());
    let head: HeadView = serde_json::from_str(&text).map_err(|_| unreadable())?;
    let at = OffsetDateTime::parse(&head.at, &Rfc3339).map_err(|_| unreadable())?;
    let hash = from_hex(&head.hash).ok_or_else(unreadable)?;
    Ok(ChainHead { seq: head.seq, hash, at })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_printed() {
        let text = r#"{"seq": 3, "hash": "00ff", "at": "2026-01-31T12:00:00.000001Z"}"#;
        let head = read_head(text).unwrap();
        assert_eq!((head.seq, head.hash), (3, vec![0, 255]));
        assert_eq!(moment(head.at), "2026-01-31T12:00:00.000001Z");
        for wrong in ["{}", "{\"seq\": 3, \"hash\": \"0\", \"at\": \"x\"}", "/nowhere"] {
            assert!(read_head(wrong).is_err(), "{wrong}");
        }
    }
}
