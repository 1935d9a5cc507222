//! The write-ahead log of the private cluster: kept by a replication slot until a backup has copied it.

use std::fmt;

use time::OffsetDateTime;

use crate::store::{Error, Statements as _, Store, pool::Target, statement::statements};

statements! {
    CLUSTER: once = "
        SELECT system_identifier::text AS system, pg_walfile_name(pg_current_wal_lsn()) AS segment,
            (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') AS segment_len
        FROM pg_control_system()";
    SLOT: once = "
        SELECT coalesce(restart_lsn::text, '') AS begins, coalesce(wal_status, 'lost') AS status
        FROM pg_replication_slots WHERE slot_name = 'esh3ar_backup'";
    CREATE_SLOT: once = "SELECT pg_create_physical_replication_slot('esh3ar_backup', true)";
    DROP_SLOT: once = "SELECT pg_drop_replication_slot('esh3ar_backup')";
    ADVANCE: once = "SELECT pg_replication_slot_advance('esh3ar_backup', $1::text::pg_lsn)";
    NOW: once = "SELECT clock_timestamp() AS now";
    // Commits with an id of its own, so that a replay to an earlier time finds where to stop.
    MARK: once = "SELECT pg_logical_emit_message(true, 'esh3ar', 'backup')";
    SWITCH: once = "SELECT pg_switch_wal()::text AS ends";
}

/// A position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// Reads `16/B374D848`.
    pub fn parse(text: &str) -> Option<LogPosition> {
        let (high, low) = text.split_once('/')?;
        let (high, low) = (u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?);
        Some(LogPosition(u64::from(high) << 32 | u64::from(low)))
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// What names the segments of a cluster's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSeries {
    /// The cluster's own identifier.
    pub system: String,
    /// Raised by each restore.
    pub timeline: u32,
    /// Length of a segment, in bytes.
    pub segment_len: u64,
}

impl LogSeries {
    /// The number of the segment that contains a position.
    pub fn segment_of(&self, position: LogPosition) -> u64 {
        position.0.checked_div(self.segment_len).unwrap_or_default()
    }

    /// Where a segment begins.
    pub fn beginning(&self, segment: u64) -> LogPosition {
        LogPosition(segment.saturating_mul(self.segment_len))
    }

    /// The file name of a segment.
    pub fn name(&self, segment: u64) -> String {
        let per_file = (1_u64 << 32).checked_div(self.segment_len).unwrap_or(1).max(1);
        format!("{:08X}{:08X}{:08X}", self.timeline, segment / per_file, segment % per_file)
    }
}

/// The log of a running cluster.
pub struct LogSource {
    store: Store,
}

/// How much of the log is kept for backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSlot {
    /// From where; `None` if the server has removed what was to be kept.
    pub begins: Option<LogPosition>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub status: String,
}

fn unreadable(what: &str) -> Error {
    Error::Other(format!("Postgres gave an unreadable {what}"))
}

impl LogSource {
    /// # Errors
    /// Only when no pool can be built.
    pub fn new(target: Target) -> Result<LogSource, Error> {
        Ok(LogSource { store: Store::new(target, 1)? })
    }

    pub async fn series(&self) -> Result<LogSeries, Error> {
        let row = self.store.client().await?.query_one(&CLUSTER, &[]).await?;
        let (segment, length): (String, i64) =
            (row.try_get("segment")?, row.try_get("segment_len")?);
        let timeline = segment.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        Ok(LogSeries {
            system: row.try_get("system")?,
            timeline: timeline.ok_or_else(|| unreadable("timeline"))?,
            segment_len: u64::try_from(length).map_err(|_| unreadable("segment size"))?,
        })
    }

    pub async fn slot(&self) -> Result<Option<LogSlot>, Error> {
        slot(&self.store).await
    }

    /// Keeps the log from now on.
    pub async fn create_slot(&self) -> Result<(), Error> {
        self.store.client().await?.query_one(&CREATE_SLOT, &[]).await.map(drop)
    }

    pub async fn drop_slot(&self) -> Result<(), Error> {
        self.store.client().await?.query_one(&DROP_SLOT, &[]).await.map(drop)
    }

    /// Lets the server remove the log before a position.
    pub async fn advance(&self, to: LogPosition) -> Result<(), Error> {
        let to = to.to_string();
        self.store.client().await?.query_one(&ADVANCE, &[&to]).await.map(drop)
    }

    /// The server's clock.
    pub async fn now(&self) -> Result<OffsetDateTime, Error> {
        Ok(self.store.client().await?.query_one(&NOW, &[]).await?.try_get("now")?)
    }

    /// Ends the current segment. The results are a time, such that everything committed before it is in the ended
    /// segments, and the first position that is not in them.
    pub async fn switch(&self) -> Result<(OffsetDateTime, LogPosition), Error> {
        let mut client = self.store.client().await?;
        client.without_timeout();
        let at = client.query_one(&NOW, &[]).await?.try_get("now")?;
        client.query_one(&MARK, &[]).await?;
        let ends: String = client.query_one(&SWITCH, &[]).await?.try_get("ends")?;
        let ends = LogPosition::parse(&ends).ok_or_else(|| unreadable("position"))?;
        Ok((at, ends))
    }

    pub fn close(&self) {
        self.store.close();
    }
}

/// The slot of backups, if there is one.
pub async fn slot(store: &Store) -> Result<Option<LogSlot>, Error> {
    let found = store.client().await?.query_opt(&SLOT, &[]).await?;
    let Some(row) = found else { return Ok(None) };
    let (begins, status): (String, String) = (row.try_get("begins")?, row.try_get("status")?);
    let begins = LogPosition::parse(&begins).filter(|_| status != "lost");
    Ok(Some(LogSlot { begins, status }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_segments_are_named_as_postgres_names_them() {
        let position = LogPosition::parse("1/A2000128").unwrap();
        assert_eq!(position.to_string(), "1/A2000128");
        assert_eq!(LogPosition::parse("0/4000000").unwrap(), LogPosition(4 << 24));
        assert_eq!(LogPosition::parse(""), None);
        let series = LogSeries { system: String::new(), timeline: 2, segment_len: 16 << 20 };
        let segment = series.segment_of(position);
        assert_eq!(series.name(segment), "0000000200000001000000A2");
        assert_eq!(series.beginning(segment).to_string(), "1/A2000000");
    }
}
