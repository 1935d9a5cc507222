//! Which processes have connections of a party: a set for each party, and messages to these processes.

use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};

use super::{
    Error, PREFIX, Redis,
    connection::{MARK_TTL, alive_key, channel, mark_key},
    seal::Purpose,
};
use crate::domain::NodeId;

/// An entry that is not renewed expires after this.
pub const PRESENCE_TTL: Duration = Duration::from_secs(300);
/// Commands in one pipeline.
const BATCH_SIZE: usize = 1000;

/// The entry of a connection in the set of its party.
fn member(node: NodeId, connection: u64) -> String {
    format!("{node}/{connection:x}")
}

fn key(party: &str) -> String {
    format!("{PREFIX}seats:{party}")
}

fn ask_marks(pipeline: &mut Pipeline, gateways: &[NodeId]) {
    gateways.iter().for_each(|node| {
        pipeline.cmd("GET").arg(mark_key(*node));
    });
}

fn mark(answer: Value) -> Option<Vec<u8>> {
    match answer {
        Value::BulkString(mark) => Some(mark),
        _ => None,
    }
}

/// Where parties are connected.
#[derive(Debug, Default)]
pub struct PresenceLookup {
    /// The other processes that have connections of each party.
    pub nodes: Vec<Vec<NodeId>>,
    /// The marks of the gateways that were named, read before and after.
    pub before: Vec<Option<Vec<u8>>>,
    pub after: Vec<Option<Vec<u8>>>,
}

impl Redis {
    /// Begins to write all connections of this process: until [`Redis::finish_mark`] they are not complete.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn begin_mark(&self) -> Result<(), Error> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SET").arg(mark_key(self.node())).arg("").arg("EX").arg(MARK_TTL.as_secs());
        self.ask(&pipeline).await.map(|_| ())
    }

    /// All connections are written, this many times by now. Does nothing if Redis was emptied since the begin.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn finish_mark(&self, times: u64) -> Result<(), Error> {
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("SET")
            .arg(mark_key(self.node()))
            .arg(times)
            .arg("XX")
            .arg("EX")
            .arg(MARK_TTL.as_secs());
        self.ask(&pipeline).await.map(|_| ())
    }

    /// Registers or renews connections of this process. Returns for each whether it was missing.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn register(&self, connections: &[(String, u64)]) -> Result<Vec<bool>, Error> {
        let mut unknown = Vec::with_capacity(connections.len());
        for some in connections.chunks(BATCH_SIZE) {
            let mut pipeline = Pipeline::with_capacity(some.len() * 2);
            for (party, connection) in some {
                let key = key(party);
                pipeline.cmd("SADD").arg(&key).arg(member(self.node(), *connection));
                pipeline.cmd("EXPIRE").arg(&key).arg(PRESENCE_TTL.as_secs());
            }
            let answers = self.ask(&pipeline).await?;
            unknown.extend(answers.iter().step_by(2).map(|added| *added == Value::Int(1)));
        }
        Ok(unknown)
    }

    /// Removes connections of this process.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn deregister(&self, connections: &[(String, u64)]) -> Result<(), Error> {
        for some in connections.chunks(BATCH_SIZE) {
            let mut pipeline = Pipeline::with_capacity(some.len());
            for (party, connection) in some {
                pipeline.cmd("SREM").arg(key(party)).arg(member(self.node(), *connection));
            }
            self.ask(&pipeline).await?;
        }
        Ok(())
    }

    /// The other processes that have connections of each party, and the marks of gateways.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn look_up(
        &self,
        parties: &[&str],
        gateways: &[NodeId],
    ) -> Result<PresenceLookup, Error> {
        let mut before = Vec::new();
        let mut nodes = Vec::with_capacity(parties.len());
        for some in parties.chunks(BATCH_SIZE) {
            let mut pipeline = Pipeline::with_capacity(gateways.len() + some.len());
            // One server answers in this order; the servers of a cluster in any.
            if before.is_empty() && !self.is_cluster() {
                ask_marks(&mut pipeline, gateways);
            } else if before.is_empty() {
                before = self.marks(gateways).await?;
            }
            let marks = pipeline.len();
            some.iter().for_each(|party| {
                pipeline.cmd("SMEMBERS").arg(key(party));
            });
            let mut answers = self.ask(&pipeline).await?;
            let members = answers.split_off(marks.min(answers.len()));
            before.extend(answers.into_iter().map(mark));
            nodes.extend(members.iter().map(|answer| self.other_nodes(answer)));
        }
        // Where everybody was found, nobody's absence is in question.
        let doubted = nodes.iter().any(Vec::is_empty);
        let after = if doubted { self.marks(gateways).await? } else { before.clone() };
        Ok(PresenceLookup { nodes, before, after })
    }

    /// The marks of gateways.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn marks(&self, gateways: &[NodeId]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        if gateways.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(gateways.len());
        ask_marks(&mut pipeline, gateways);
        Ok(self.ask(&pipeline).await?.into_iter().map(mark).collect())
    }

    fn other_nodes(&self, answer: &Value) -> Vec<NodeId> {
        let (Value::Array(members) | Value::Set(members)) = answer else { return Vec::new() };
        let mut nodes: Vec<NodeId> = members
            .iter()
            .filter_map(|member| match member {
                Value::BulkString(bytes) => std::str::from_utf8(bytes.get(..16)?).ok(),
                _ => None,
            })
            .filter_map(|name| name.parse::<NodeId>().ok())
            .filter(|node| *node != self.node())
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Publishes frames to other processes. Returns for each whether anyone was subscribed.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn tell(&self, frames: Vec<(NodeId, Bytes)>) -> Result<Vec<bool>, Error> {
        let mut pipeline = Pipeline::with_capacity(frames.len());
        for (node, frame) in &frames {
            let channel = channel(*node);
            let sealed = self.sealer()?.seal(Purpose::Frame, &channel, frame)?;
            pipeline.cmd("PUBLISH").arg(channel).arg(sealed);
        }
        let answers = self.ask(&pipeline).await?;
        Ok(answers.iter().map(|answer| !matches!(answer, Value::Int(0))).collect())
    }

    /// Which of these processes have a heartbeat.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn alive(&self, nodes: &[NodeId]) -> Result<Vec<bool>, Error> {
        let mut pipeline = Pipeline::with_capacity(nodes.len());
        for node in nodes {
            pipeline.cmd("EXISTS").arg(alive_key(*node));
        }
        let answers = self.ask(&pipeline).await?;
        Ok(answers.iter().map(|answer| matches!(answer, Value::Int(1))).collect())
    }

    /// Removes the entries of a process that died.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn forget_node(&self, node: NodeId, parties: &[&str]) -> Result<(), Error> {
        let mut ask = Pipeline::with_capacity(parties.len());
        parties.iter().for_each(|party| {
            ask.cmd("SMEMBERS").arg(key(party));
        });
        let answers = self.ask(&ask).await?;
        let prefix = node.to_string();
        let mut forget = Pipeline::new();
        for (party, answer) in parties.iter().zip(&answers) {
            let (Value::Array(members) | Value::Set(members)) = answer else { continue };
            for member in members {
                if let Value::BulkString(bytes) = member
                    && bytes.starts_with(prefix.as_bytes())
                {
                    forget.cmd("SREM").arg(key(party)).arg(&bytes[..]);
                }
            }
        }
        if !forget.is_empty() {
            self.ask(&forget).await?;
        }
        Ok(())
    }
}

impl Redis {
    /// Deletes the connections and rates of a party. Returns how many keys there were.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn forget_party(&self, party: &str) -> Result<u64, Error> {
        let mut pipeline = Pipeline::new();
        // One command a key: in a cluster they are on different nodes.
        pipeline.cmd("DEL").arg(key(party));
        pipeline.cmd("DEL").arg(format!("{PREFIX}rate:{party}"));
        let answers = self.ask(&pipeline).await?;
        let gone = answers.iter().filter(|answer| matches!(answer, Value::Int(1))).count();
        Ok(gone as u64)
    }
}
