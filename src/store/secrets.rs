//! Secrets of the installation itself, sealed with a key that is not in the database.

use time::OffsetDateTime;

use super::{Client, Error, Statements, statement::statements};

statements! {
    KEEP: once = "
        INSERT INTO secrets (name, value, created_at, sealed, value_is_secret)
        VALUES ($1, $2, $3, $4, $4::bytea IS NULL) ON CONFLICT (name) DO NOTHING";
    FIND: once = "SELECT name, value, sealed FROM secrets WHERE name = $1";
    PLAIN: once = "SELECT name, value, sealed FROM secrets WHERE sealed IS NULL ORDER BY name";
    SEALED: once = "SELECT name, value, sealed FROM secrets WHERE sealed IS NOT NULL ORDER BY name";
    SEAL: once = "UPDATE secrets SET sealed = $3 WHERE name = $1 AND value = $2 AND sealed IS NULL";
    // The key's id is in the sealed value, after its version.
    OF_OTHER_KEYS: once = "
        SELECT name, value, sealed FROM secrets
        WHERE sealed IS NOT NULL AND substring(sealed FROM 2 FOR 8) <> $1::bytea
        ORDER BY name LIMIT $2";
    RESEAL: once = "UPDATE secrets SET sealed = $3 WHERE name = $1 AND sealed = $2";
    // A process that died without a word may come back as the version that it was.
    CLEAR_PLAIN: once = "
        UPDATE secrets SET value = $1, value_is_secret = false
        WHERE value_is_secret AND sealed IS NOT NULL AND NOT EXISTS (
            SELECT FROM nodes WHERE NOT reads_sealed AND seen_at > now() - interval '1 hour')";
    FORGET: once = "DELETE FROM secrets WHERE name = $1 AND sealed = $2";
    HAS_SEALED: once = "
        SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('secrets')
                       AND attname = 'sealed' AND NOT attisdropped) AS is_there";
}

/// A stored secret.
#[derive(Clone)]
pub struct StoredSecret {
    pub name: String,
    /// The secret itself, where it is not sealed; otherwise for earlier versions only.
    pub value: Vec<u8>,
    pub sealed: Option<Vec<u8>>,
}

fn secret(row: &tokio_postgres::Row) -> Result<StoredSecret, Error> {
    Ok(StoredSecret {
        name: row.try_get("name")?,
        value: row.try_get("value")?,
        sealed: row.try_get("sealed")?,
    })
}

/// The secret with this name; stores the given one if there is none. The first caller wins.
pub async fn find_or_keep(
    client: &Client,
    name: &str,
    value: &[u8],
    sealed: Option<&[u8]>,
    now: OffsetDateTime,
) -> Result<StoredSecret, Error> {
    client.execute(&KEEP, &[&name, &value, &now, &sealed]).await?;
    secret(&client.query_one(&FIND, &[&name]).await?)
}

/// Those that no version has sealed yet.
pub async fn plain(client: &Client) -> Result<Vec<StoredSecret>, Error> {
    client.query(&PLAIN, &[]).await?.iter().map(secret).collect()
}

/// The sealed ones; none in a schema that has no such column.
pub async fn sealed(client: &Client) -> Result<Vec<StoredSecret>, Error> {
    if !client.query_one(&HAS_SEALED, &[]).await?.try_get("is_there")? {
        return Ok(Vec::new());
    }
    client.query(&SEALED, &[]).await?.iter().map(secret).collect()
}

/// Stores the sealed form of a plain secret, unless it was sealed or changed meanwhile.
pub async fn seal(client: &Client, plain: &StoredSecret, sealed: &[u8]) -> Result<bool, Error> {
    Ok(client.execute(&SEAL, &[&plain.name, &plain.value, &sealed]).await? == 1)
}

/// At most `limit` secrets that were sealed with other keys than this.
pub async fn sealed_with_others(
    client: &Client,
    key: &[u8],
    limit: i64,
) -> Result<Vec<StoredSecret>, Error> {
    client.query(&OF_OTHER_KEYS, &[&key, &limit]).await?.iter().map(secret).collect()
}

/// Replaces a sealed value, unless it was changed meanwhile.
pub async fn reseal(client: &Client, name: &str, old: &[u8], new: &[u8]) -> Result<bool, Error> {
    Ok(client.execute(&RESEAL, &[&name, &old, &new]).await? == 1)
}

/// Replaces the plain values of sealed secrets by `other`, if no process runs that reads them.
pub async fn clear_plain(client: &Client, other: &[u8]) -> Result<u64, Error> {
    client.execute(&CLEAR_PLAIN, &[&other]).await
}

/// Removes a sealed secret that cannot be opened.
pub async fn forget(client: &Client, name: &str, sealed: &[u8]) -> Result<bool, Error> {
    Ok(client.execute(&FORGET, &[&name, &sealed]).await? == 1)
}
