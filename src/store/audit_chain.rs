//! Reads the hash chain of the audit log in order, to verify it.

use ring::digest::{SHA256, digest};
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::{Client, Error, Statements, Store, statement::statements};
use crate::domain::audit_chain::{
    ChainBounds, ChainEntry, ChainHead, ChainReport, ChainVerifier, Hash, MASKABLE_VALUES,
    MaskableValue, outside_after,
};

statements! {
    HEAD: once = "SELECT seq, hash, at, began_at FROM audit_chain_head WHERE one";
    OUTSIDE: once = "
        SELECT greatest(
            (SELECT count(*) FROM audit_log WHERE chain_seq IS NULL AND at > $1),
            (SELECT count(*) FROM audit_log WHERE chain_seq IS NULL) - older) AS count
        FROM audit_chain_head WHERE one";
    PAGE: once = "
        SELECT a.chain_seq, a.chain_prev, a.chain_hash, a.chain_salts, a.chain_commitments, a.id, a.at,
               a.actor_kind, a.actor_name, a.token_id, a.action, a.subject_kind, a.request_id, a.outcome,
               host(a.peer) AS peer, a.actor, a.subject_id, a.subject_phone, a.reason,
               a.details::text AS details, a.phones_digest,
               (SELECT sha256(coalesce(string_agg(h.hash, ''::bytea ORDER BY h.hash), ''::bytea))
                FROM (SELECT sha256(coalesce(uuid_send(p.salt), ''::bytea) || convert_to(p.phone, 'UTF8'))
                             AS hash
                      FROM audit_log_phones p WHERE p.entry_id = a.id
                      UNION ALL SELECT unnest(a.erased_phones)) AS h) AS stored_phones_digest
        FROM audit_log a WHERE a.chain_seq > $1 ORDER BY a.chain_seq LIMIT $2";
}

/// Entries per statement.
const BATCH_SIZE: i64 = 500;

/// The newest entry of the chain.
///
/// # Errors
/// Any failure of the database.
pub async fn head(client: &Client) -> Result<ChainHead, Error> {
    Ok(head_and_beginning(client).await?.0)
}

async fn head_and_beginning(
    client: &impl Statements,
) -> Result<(ChainHead, OffsetDateTime), Error> {
    let row = client.query_one(&HEAD, &[]).await?;
    let head =
        ChainHead { seq: row.try_get("seq")?, hash: row.try_get("hash")?, at: row.try_get("at")? };
    Ok((head, row.try_get("began_at")?))
}

/// Verifies the whole chain in one snapshot, on a connection of its own.
///
/// # Errors
/// Any failure of the database.
pub async fn verify(
    store: &Store,
    expires_before: OffsetDateTime,
    known: Option<&ChainHead>,
) -> Result<ChainReport, Error> {
    let mut client = store.client().await?.alone();
    client.without_timeout();
    client.batch_execute("SET enable_seqscan = on; SET statement_timeout = 0").await?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let (head, began_at) = head_and_beginning(&client).await?;
    let row = client.query_one(&OUTSIDE, &[&outside_after(began_at)]).await?;
    let bounds = ChainBounds {
        head: &head,
        began_at,
        expires_before,
        outside: row.try_get("count")?,
        known,
    };
    let mut verifier = ChainVerifier::new(bounds, sha256);
    let mut last = i64::MIN;
    loop {
        let rows = client.query(&PAGE, &[&last, &BATCH_SIZE]).await?;
        let Some(end) = rows.last() else { break };
        last = end.try_get("chain_seq")?;
        for row in &rows {
            verifier.add(&entry(row)?);
        }
    }
    client.batch_execute("COMMIT").await?;
    Ok(verifier.finish())
}

fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn entry(row: &Row) -> Result<ChainEntry, Error> {
    let mut values: [Option<String>; MASKABLE_VALUES] = [
        row.try_get("actor")?,
        row.try_get("subject_id")?,
        row.try_get("subject_phone")?,
        row.try_get("reason")?,
        row.try_get("details")?,
    ];
    let salts: Vec<Option<uuid::Uuid>> =
        row.try_get::<_, Option<_>>("chain_salts")?.unwrap_or_default();
    let commitments: Vec<Option<Vec<u8>>> =
        row.try_get::<_, Option<_>>("chain_commitments")?.unwrap_or_default();
    let maskable = std::array::from_fn(|n| MaskableValue {
        value: values.get_mut(n).and_then(Option::take),
        salt: salts.get(n).copied().flatten(),
        commitment: commitments.get(n).cloned().flatten().unwrap_or_default(),
    });
    Ok(ChainEntry {
        seq: row.try_get("chain_seq")?,
        previous: row.try_get::<_, Option<_>>("chain_prev")?.unwrap_or_default(),
        hash: row.try_get::<_, Option<_>>("chain_hash")?.unwrap_or_default(),
        id: row.try_get("id")?,
        at: row.try_get("at")?,
        actor_kind: row.try_get("actor_kind")?,
        actor_name: row.try_get("actor_name")?,
        token: row.try_get("token_id")?,
        action: row.try_get("action")?,
        subject_kind: row.try_get("subject_kind")?,
        request: row.try_get("request_id")?,
        outcome: row.try_get("outcome")?,
        peer: row.try_get("peer")?,
        maskable,
        phones_digest: row.try_get("phones_digest")?,
        stored_phones_digest: row.try_get("stored_phones_digest")?,
    })
}
