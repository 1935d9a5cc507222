//! Cached values with a time to live. Their keys carry a version, so a value never changes under its key.

use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};

/// Keys read by one SCAN.
const SCAN_BATCH_SIZE: usize = 1000;

use super::{Error, PREFIX, Redis, seal::Purpose};

impl Redis {
    /// `None` also for a value that no process of this installation stored under this key.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn entry(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let key = format!("{PREFIX}entry:{key}");
        let mut pipeline = Pipeline::new();
        pipeline.cmd("GET").arg(&key);
        let Some(Value::BulkString(sealed)) = self.ask(&pipeline).await?.into_iter().next() else {
            return Ok(None);
        };
        let opened = self.sealer()?.open(Purpose::Page, &key, &sealed);
        Ok(opened.map(|(_, page)| page.into()))
    }

    /// # Errors
    /// Redis is away.
    pub async fn keep_entry(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), Error> {
        let key = format!("{PREFIX}entry:{key}");
        let sealed = self.sealer()?.seal(Purpose::Page, &key, value)?;
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("SET")
            .arg(key)
            .arg(sealed)
            .arg("PX")
            .arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        self.ask(&pipeline).await.map(|_| ())
    }

    /// Deletes every cached value, on every server. Returns how many there were.
    ///
    /// # Errors
    /// Redis is away; some values may be deleted already.
    pub async fn forget_entries(&self) -> Result<u64, Error> {
        let mut deleted = 0;
        let mut positions = self.scan(None).await?;
        while let Some((position, keys)) = positions.pop() {
            let mut pipeline = Pipeline::new();
            // One command a key: in a cluster they are on different nodes.
            for key in &keys {
                pipeline.cmd("UNLINK").arg(key.as_slice());
            }
            if !keys.is_empty() {
                let answers = self.ask(&pipeline).await?;
                deleted += answers.iter().filter(|answer| matches!(answer, Value::Int(1))).count();
            }
            if position.cursor != 0 {
                positions.extend(self.scan(Some(&position)).await?);
            }
        }
        Ok(deleted as u64)
    }

    /// The next keys of one server, or the first ones of every server.
    async fn scan(
        &self,
        from: Option<&ScanPosition>,
    ) -> Result<Vec<(ScanPosition, Vec<Vec<u8>>)>, Error> {
        let mut command = redis::cmd("SCAN");
        command.arg(from.map_or(0, |position| position.cursor));
        command.arg("MATCH").arg(format!("{PREFIX}entry:*")).arg("COUNT").arg(SCAN_BATCH_SIZE);
        let answers = self.each(command, from.and_then(|position| position.server.clone())).await?;
        answers
            .into_iter()
            .map(|(server, answer)| {
                let (cursor, keys) = redis::from_redis_value::<(u64, Vec<Vec<u8>>)>(answer)
                    .map_err(|error| Error::Failed(error.to_string()))?;
                Ok((ScanPosition { server, cursor }, keys))
            })
            .collect()
    }
}

/// The position of a scan on one server.
struct ScanPosition {
    /// The server's address; `None` where there is only one.
    server: Option<String>,
    cursor: u64,
}
