//! Checks of the database server, for the doctor command.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Error, Statements, Store, rows, statement::statements};

/// The newest id of a table in a range of the future. Only our ids are of version 7.
macro_rules! newest_of {
    ($table:literal) => {
        concat!(
            "(SELECT id FROM ",
            $table,
            " WHERE id >= $1 AND id < $2 AND substr(id::text, 15, 1) = '7' ORDER BY id DESC LIMIT 1)"
        )
    };
}

statements! {
    SERVER: once = "
        SELECT current_setting('server_version') AS version,
               current_setting('server_version_num')::int / 10000 AS major,
               pg_is_in_recovery() AS in_recovery,
               coalesce(inet_server_addr() <<= '127.0.0.0/8' OR inet_server_addr() = '::1', true)
                   OR coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
                   AS private_way,
               (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database) AS connections,
               current_setting('max_connections')::bigint AS most_connections";
    CLOCK: once = "SELECT clock_timestamp() AS at";
    // All tables with a list ordered by id.
    NEWEST_ID: once = concat!(
        newest_of!("messages"),
        " UNION ALL ",
        newest_of!("conversations"),
        " UNION ALL ",
        newest_of!("dead_letters"),
        " UNION ALL ",
        newest_of!("tokens"),
        " UNION ALL ",
        newest_of!("audit_log"),
        " ORDER BY 1 DESC LIMIT 1"
    );
}

/// The server and the connection to it.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// Such as `15.18`.
    pub version: String,
    /// Such as 15.
    pub major: i32,
    pub in_recovery: bool,
    /// Whether the connection is private: a unix socket, loopback, or TLS.
    pub private_way: bool,
    /// Open connections, of all programs.
    pub connections: i64,
    /// `max_connections`.
    pub most_connections: i64,
}

pub async fn server(store: &Store) -> Result<ServerInfo, Error> {
    let row = store.client().await?.query_one(&SERVER, &[]).await?;
    Ok(ServerInfo {
        version: row.try_get("version")?,
        major: row.try_get("major")?,
        in_recovery: row.try_get("in_recovery")?,
        private_way: row.try_get("private_way")?,
        connections: row.try_get("connections")?,
        most_connections: row.try_get("most_connections")?,
    })
}

/// The server's clock.
pub async fn clock(store: &Store) -> Result<OffsetDateTime, Error> {
    // Connect first: that takes longer than the query.
    let client = store.client().await?;
    Ok(client.query_one(&CLOCK, &[]).await?.try_get("at")?)
}

/// Writes and discards a mebibyte: reads alone would not notice a full disk.
///
/// # Errors
/// [`Error::DiskFull`]; any other failure of the database.
pub async fn check_writable(store: &Store) -> Result<(), Error> {
    let mut client = store.client().await?;
    let transaction = client.transaction().await?;
    // A sort that does not fit into its memory: the application's role may not create tables.
    transaction
        .batch_execute(
            "SET LOCAL work_mem = '64kB';
             SELECT count(*) FROM (
                 SELECT repeat(md5(n::text), 50) AS text FROM generate_series(1, 700) n
                 ORDER BY 1 OFFSET 0) sorted",
        )
        .await?;
    transaction.rollback().await
}

/// No clock is this far ahead. Imported ids may lie anywhere in time, and few of them in this range.
const MAX_CLOCK_SKEW: time::Duration = time::Duration::days(100 * 365);

/// The newest of our ids that is ahead of a time, if there is one.
pub async fn newest_id_ahead(store: &Store, now: OffsetDateTime) -> Result<Option<Uuid>, Error> {
    let (from, to) = (rows::first_id_of(now), rows::first_id_of(now + MAX_CLOCK_SKEW));
    let row = store.client().await?.query_opt(&NEWEST_ID, &[&from, &to]).await?;
    Ok(row.map(|row| row.try_get("id")).transpose()?)
}

/// When one of our ids was made.
pub fn time_of_id(id: Uuid) -> Option<OffsetDateTime> {
    let millis = i128::try_from(id.as_u128() >> 80).ok()?;
    OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000).ok()
}
