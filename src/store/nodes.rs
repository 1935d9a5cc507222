//! The processes of an installation.

use std::time::Duration;

use time::OffsetDateTime;

use super::{Client, Error, Statements, process_stats, statement::statements};
use crate::domain::{NodeId, process_stats::ProcessStats};

/// A process without a heartbeat for this long counts as dead.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// Dead processes are deleted after this.
const NODE_RETENTION: Duration = Duration::from_secs(3600);

statements! {
    NOTE = "
        INSERT INTO nodes (id, role, host, pid, version, address, partitions, draining, figures,
                           started_at, seen_at, reads_sealed)
        VALUES ($1, $2, left($3, 255), $4, $5, $6, $7, $8, $9::text::jsonb, $10, now(), true)
        ON CONFLICT (id) DO UPDATE SET address = excluded.address,
            partitions = excluded.partitions, draining = excluded.draining,
            figures = excluded.figures, seen_at = excluded.seen_at
        RETURNING drain_asked";
    ASK_DRAIN = "
        UPDATE nodes SET drain_asked = $2
        WHERE id = $1 AND seen_at > now() - make_interval(secs => $3)";
    TOOK_UP = "UPDATE nodes SET drain_asked = NULL WHERE id = $1 AND drain_asked = $2";
    LIVING = "
        SELECT id, role, host, pid, version, address, partitions, draining,
               figures::text AS figures, started_at, drain_asked
        FROM nodes WHERE seen_at > now() - make_interval(secs => $1)
        ORDER BY started_at, id";
    FORGET = "DELETE FROM nodes WHERE id = $1 OR seen_at < now() - make_interval(secs => $2)";
}

/// Role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    Serve,
    /// Accepts requests and holds connections.
    Gateway,
    Worker,
}

impl Role {
    /// The name, as stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Role::Serve => "serve",
            Role::Gateway => "gateway",
            Role::Worker => "worker",
        }
    }

    fn parse(name: &str) -> Option<Role> {
        [Role::Serve, Role::Gateway, Role::Worker].into_iter().find(|role| role.name() == name)
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub id: NodeId,
    pub role: Role,
    pub host: String,
    pub pid: i32,
    /// Of esh3ar.
    pub version: String,
    /// Address at which other gateways reach it.
    pub address: Option<String>,
    /// Partitions assigned to it.
    pub partitions: Vec<i16>,
    pub draining: bool,
    /// Requested and not applied yet: drain, or stop draining. Set by others.
    pub drain_asked: Option<bool>,
    /// Its statistics.
    pub figures: ProcessStats,
    pub started_at: OffsetDateTime,
}

/// Records a heartbeat. Returns a pending request to drain or to stop draining.
pub async fn record_heartbeat(client: &Client, node: &Node) -> Result<Option<bool>, Error> {
    let row = client
        .query_one(
            &NOTE,
            &[
                &&node.id.as_bytes()[..],
                &node.role.name(),
                &node.host,
                &node.pid,
                &node.version,
                &node.address,
                &node.partitions,
                &node.draining,
                &process_stats::to_json(&node.figures),
                &node.started_at,
            ],
        )
        .await?;
    Ok(row.try_get("drain_asked")?)
}

/// Requests a live process to drain, or to accept connections again. Returns whether it exists.
pub async fn request_drain(
    client: &impl Statements,
    id: NodeId,
    draining: bool,
) -> Result<bool, Error> {
    let asked = client
        .execute(&ASK_DRAIN, &[&&id.as_bytes()[..], &draining, &HEARTBEAT_TIMEOUT.as_secs_f64()])
        .await?;
    Ok(asked == 1)
}

/// Records that a process has applied the request, unless it was changed meanwhile.
pub async fn drain_applied(client: &Client, id: NodeId, draining: bool) -> Result<(), Error> {
    client.execute(&TOOK_UP, &[&&id.as_bytes()[..], &draining]).await?;
    Ok(())
}

/// Live processes, oldest first; those with a role unknown to this version are omitted.
pub async fn live(client: &Client) -> Result<Vec<Node>, Error> {
    let found = client.query(&LIVING, &[&HEARTBEAT_TIMEOUT.as_secs_f64()]).await?;
    found
        .iter()
        .filter_map(|row| Some((row, Role::parse(row.try_get("role").ok()?)?)))
        .map(|(row, role)| {
            let corrupt = || Error::Corrupt("a node".to_owned());
            Ok(Node {
                id: <[u8; 8]>::try_from(row.try_get::<_, &[u8]>("id")?)
                    .map_err(|_| corrupt())?
                    .into(),
                role,
                host: row.try_get("host")?,
                pid: row.try_get("pid")?,
                version: row.try_get("version")?,
                address: row.try_get("address")?,
                partitions: row.try_get("partitions")?,
                draining: row.try_get("draining")?,
                drain_asked: row.try_get("drain_asked")?,
                figures: process_stats::from_json(row.try_get("figures")?),
                started_at: row.try_get("started_at")?,
            })
        })
        .collect()
}

/// Deletes a process that stopped, and those that died long ago.
pub async fn deregister(client: &Client, id: NodeId) -> Result<(), Error> {
    client.execute(&FORGET, &[&&id.as_bytes()[..], &NODE_RETENTION.as_secs_f64()]).await?;
    Ok(())
}
