//! The version and memory of Redis, and whether its login works.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use redis::{Pipeline, Value};
use tokio::sync::mpsc;

use super::{
    Error, RESPONSE_TIMEOUT,
    target::{PushSink, RedisTarget},
};

#[derive(Clone, Debug)]
pub struct RedisServerInfo {
    /// Such as `7.0.15`.
    pub version: String,
    /// The round trip of one command.
    pub latency: Duration,
}

impl RedisServerInfo {
    /// Whether it is older than the oldest supported version.
    pub fn is_old(&self) -> bool {
        let major = self.version.split('.').next().and_then(|number| number.parse::<u32>().ok());
        major.is_some_and(|major| major < 7)
    }
}

/// Connects and reads the version.
///
/// # Errors
/// The failure; no text contains a password.
pub async fn check_login(target: &RedisTarget) -> Result<RedisServerInfo, Error> {
    let (sender, _receiver) = mpsc::channel(1);
    let sink = PushSink { sender, lost: Arc::new(AtomicBool::new(false)) };
    let asked = async {
        let mut connection = target.connect(sink).await?;
        let mut question = Pipeline::new();
        question.cmd("INFO").arg("server");
        let begun = Instant::now();
        let answers = connection.ask(&question).await?;
        let latency = begun.elapsed();
        let version = answers.iter().find_map(version).unwrap_or_else(|| "?".to_owned());
        Ok::<_, Error>(RedisServerInfo { version, latency })
    };
    // With Sentinels this opens several connections, one after the other.
    let asked = tokio::time::timeout(RESPONSE_TIMEOUT * 5, asked).await;
    asked.unwrap_or_else(|_| Err(Error::Failed("no answer in time".to_owned())))
}

/// The memory of all servers together, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisMemory {
    pub used: u64,
    /// 0 when one of them has no limit.
    pub limit: u64,
}

impl RedisMemory {
    /// The sum over all servers.
    pub(super) fn of<'a>(answers: impl IntoIterator<Item = &'a Value>) -> RedisMemory {
        let mut texts = Vec::new();
        answers.into_iter().for_each(|answer| collect(answer, &mut texts));
        let number = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
        };
        let limits: Vec<u64> = texts.iter().map(|text| number(text, "maxmemory")).collect();
        let limit = if limits.contains(&0) { 0 } else { limits.iter().sum() };
        RedisMemory { used: texts.iter().map(|text| number(text, "used_memory")).sum(), limit }
    }
}

fn collect(answer: &Value, texts: &mut Vec<String>) {
    match answer {
        Value::BulkString(bytes) => texts.push(String::from_utf8_lossy(bytes).into_owned()),
        Value::VerbatimString { text, .. } => texts.push(text.clone()),
        Value::Array(answers) => answers.iter().for_each(|answer| collect(answer, texts)),
        Value::Map(answers) => answers.iter().for_each(|(_, answer)| collect(answer, texts)),
        _ => {}
    }
}

/// One server answers with a text, a cluster with one for each server.
fn version(answer: &Value) -> Option<String> {
    let read = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
        line.map(|version| version.trim().to_owned())
    };
    match answer {
        Value::BulkString(bytes) => read(&String::from_utf8_lossy(bytes)),
        Value::VerbatimString { text, .. } => read(text),
        Value::Array(answers) => answers.iter().find_map(version),
        Value::Map(answers) => answers.iter().find_map(|(_, answer)| version(answer)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_added_up_over_all_servers() {
        let server = |used: u64, limit: u64| {
            let text = format!(
                "# Memory\r\nused_memory:{used}\r\nused_memory_rss:9999\r\nmaxmemory:{limit}\r\n\
                 maxmemory_policy:noeviction\r\n"
            );
            Value::BulkString(text.into())
        };
        let of = |answers: &[Value]| {
            let memory = RedisMemory::of(answers);
            (memory.used, memory.limit)
        };
        assert_eq!(of(&[server(1_000_000, 0)]), (1_000_000, 0));
        assert_eq!(of(&[server(7, 100), server(8, 50)]), (15, 150));
        assert_eq!(of(&[Value::Array(vec![server(7, 100), server(8, 0)])]), (15, 0));
        let map = Value::Map(vec![(Value::SimpleString("a:1".to_owned()), server(3, 4))]);
        assert_eq!(of(&[map]), (3, 4));
        assert_eq!(of(&[]), (0, 0));
    }

    #[test]
    fn the_version_is_found_in_every_form_of_the_answer() {
        let text = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n";
        let plain = Value::BulkString(text.into());
        let map = Value::Map(vec![(Value::BulkString("a:1".into()), plain.clone())]);
        for answer in [&plain, &map, &Value::Array(vec![Value::Nil, plain.clone()])] {
            assert_eq!(version(answer).as_deref(), Some("7.0.15"));
        }
        assert_eq!(version(&Value::Okay), None);
        let is_old = |version: &str| {
            RedisServerInfo { version: version.to_owned(), latency: Duration::ZERO }.is_old()
        };
        assert!(is_old("6.2.14") && !is_old("7.0.15") && !is_old("10.1") && !is_old("?"));
    }
}
