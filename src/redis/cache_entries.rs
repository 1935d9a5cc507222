//! Values kept for a while, under keys that change when the value does.

use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};

/// Keys that are looked for at once.
const SCANNED: usize = 1000;

use super::{Error, PREFIX, Redis};

impl Redis {
    /// What is kept under a key.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn entry(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("GET").arg(format!("{PREFIX}entry:{key}"));
        match self.ask(&pipeline).await?.into_iter().next() {
            Some(Value::BulkString(bytes)) => Ok(Some(bytes.into())),
            _ => Ok(None),
        }
    }

    /// Keeps a value under a key.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn keep_entry(&self, key: &str, value: &[u8], kept: Duration) -> Result<(), Error> {
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("SET")
            .arg(format!("{PREFIX}entry:{key}"))
            .arg(value)
            .arg("PX")
            .arg(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX));
        self.ask(&pipeline).await.map(|_| ())
    }

    /// Forgets every value that is kept, of whatever key and version, on every server. Gives how many those
    /// were.
    ///
    /// # Errors
    /// Redis is away; some may be forgotten then.
    pub async fn forget_entries(&self) -> Result<u64, Error> {
        let mut gone = 0;
        let mut places = self.scan(None).await?;
        while let Some((place, keys)) = places.pop() {
            let mut pipeline = Pipeline::new();
            // One by one: in a cluster they lie on different nodes.
            for key in &keys {
                pipeline.cmd("UNLINK").arg(key.as_slice());
            }
            if !keys.is_empty() {
                let answers = self.ask(&pipeline).await?;
                gone += answers.iter().filter(|answer| matches!(answer, Value::Int(1))).count();
            }
            if place.cursor != 0 {
                places.extend(self.scan(Some(&place)).await?);
            }
        }
        Ok(gone as u64)
    }

    /// The next keys of values: on one server, or of all the first.
    async fn scan(&self, from: Option<&Place>) -> Result<Vec<(Place, Vec<Vec<u8>>)>, Error> {
        let mut command = redis::cmd("SCAN");
        command.arg(from.map_or(0, |place| place.cursor));
        command.arg("MATCH").arg(format!("{PREFIX}entry:*")).arg("COUNT").arg(SCANNED);
        let answers = self.each(command, from.and_then(|place| place.server.clone())).await?;
        answers
            .into_iter()
            .map(|(server, answer)| {
                let (cursor, keys) = redis::from_redis_value::<(u64, Vec<Vec<u8>>)>(answer)
                    .map_err(|error| Error::Failed(error.to_string()))?;
                Ok((Place { server, cursor }, keys))
            })
            .collect()
    }
}

/// How far the keys of a server were looked at.
struct Place {
    /// Its address; `None` where there is only one.
    server: Option<String>,
    cursor: u64,
}
