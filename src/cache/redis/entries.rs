//! Values kept for a while, under keys that change when the value does.

use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};

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
}
