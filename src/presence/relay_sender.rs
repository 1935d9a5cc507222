//! Sends to other processes: looks up where parties are connected, in batches, and numbers the frames.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::mpsc;

use super::{
    outbound::Outbound,
    relay::{Addressed, BATCH_SIZE, Relay, RelayRequest, RouteOutcome, Whereabouts},
    relay_frame::{self, RENEW_REQUEST},
};
use crate::{
    domain::{NodeId, Party},
    redis::{Error, Redis},
};

/// Content of one frame, in bytes: Redis copies a frame for each receiver.
const MAX_FRAME_LEN: usize = 256 * 1024;

pub(super) struct RelaySender {
    relay: Relay,
    redis: Redis,
    /// The number of the last frame that each process was sent.
    counts: HashMap<NodeId, u64>,
    /// The highest number that a process without an entry may have been sent: its receiver takes a lower one
    /// for a repeated frame.
    highest: u64,
}

impl RelaySender {
    pub(super) fn new(relay: Relay) -> RelaySender {
        let redis = relay.redis().clone();
        RelaySender { relay, redis, counts: HashMap::new(), highest: 0 }
    }

    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<RelayRequest>) {
        while let Some(first) = requests.recv().await {
            let mut count = first.addressed().len();
            let mut batch = vec![first];
            while count < BATCH_SIZE {
                let Ok(next) = requests.try_recv() else { break };
                count += next.addressed().len();
                batch.push(next);
            }
            let outcomes = match self.send(&batch).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    tracing::debug!(%error, "other processes could not be reached");
                    HashMap::new()
                }
            };
            for request in batch {
                if let RelayRequest::Route(addressed, reply) = request {
                    let outcome = |(party, _): &Addressed| {
                        outcomes.get(party).copied().unwrap_or(RouteOutcome::Unknown)
                    };
                    let _ = reply.send(addressed.iter().map(outcome).collect());
                }
            }
        }
    }

    async fn send(
        &mut self,
        batch: &[RelayRequest],
    ) -> Result<HashMap<Party, RouteOutcome>, Error> {
        let addressed: Vec<&Addressed> = batch.iter().flat_map(RelayRequest::addressed).collect();
        let parties: Vec<&Party> =
            addressed.iter().map(|(party, _)| party).collect::<HashSet<_>>().into_iter().collect();
        let names: Vec<String> = parties.iter().map(|party| party.key()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let Whereabouts { nodes: found, absence_believed } = self.relay.look_up(&names).await?;
        let absent = if absence_believed { RouteOutcome::Offline } else { RouteOutcome::Unknown };
        let of: HashMap<&Party, &Vec<NodeId>> = parties.iter().copied().zip(&found).collect();
        let mut by_node: BTreeMap<NodeId, Vec<&Addressed>> = BTreeMap::new();
        for addressed in &addressed {
            for node in of.get(&addressed.0).into_iter().copied().flatten() {
                by_node.entry(*node).or_default().push(addressed);
            }
        }
        let mut frames = Vec::new();
        for (node, addressed) in &by_node {
            for items in split(addressed) {
                let count = self.counts.entry(*node).or_insert(self.highest);
                if let Some(frame) = relay_frame::write(self.redis.node(), *count + 1, &items) {
                    *count += 1;
                    frames.push((*node, frame));
                }
            }
        }
        let mut outcomes: HashMap<Party, RouteOutcome> =
            parties.iter().map(|party| ((*party).clone(), absent)).collect();
        if frames.is_empty() {
            return Ok(outcomes);
        }
        let nodes: Vec<NodeId> = frames.iter().map(|(node, _)| *node).collect();
        let received = self.redis.tell(frames).await?;
        let mut silent: Vec<NodeId> = nodes
            .iter()
            .zip(&received)
            .filter(|(_, received)| !**received)
            .map(|(node, _)| *node)
            .collect();
        silent.dedup();
        let dead = self.dead(silent).await?;
        for (party, nodes) in &of {
            if nodes.iter().any(|node| !dead.contains(node)) {
                outcomes.insert((*party).clone(), RouteOutcome::Delivered);
            }
        }
        for node in dead {
            let left: Vec<String> = of
                .iter()
                .filter(|(_, nodes)| nodes.contains(&node))
                .map(|(party, _)| party.key())
                .collect();
            let left: Vec<&str> = left.iter().map(String::as_str).collect();
            self.highest = self.highest.max(self.counts.remove(&node).unwrap_or_default());
            let forgotten = self.redis.forget_node(node, &left).await;
            self.request_renewal(node).await?;
            forgotten?;
        }
        Ok(outcomes)
    }

    /// A process that came back while its connections were removed has to write them again.
    async fn request_renewal(&self, node: NodeId) -> Result<(), Error> {
        if self.redis.alive(&[node]).await? == [true]
            && let Some(frame) = relay_frame::write(self.redis.node(), RENEW_REQUEST, &[])
        {
            self.redis.tell(vec![(node, frame)]).await?;
        }
        Ok(())
    }

    /// Those of the silent processes that have no heartbeat. A process that only lost its connection to
    /// Redis resyncs when it is back.
    async fn dead(&self, silent: Vec<NodeId>) -> Result<HashSet<NodeId>, Error> {
        if silent.is_empty() {
            return Ok(HashSet::new());
        }
        let alive = self.redis.alive(&silent).await?;
        Ok(silent
            .into_iter()
            .zip(alive)
            .filter(|(_, alive)| !alive)
            .map(|(node, _)| node)
            .collect())
    }
}

/// Parts that fit in one frame each.
fn split<'a>(addressed: &[&'a Addressed]) -> Vec<Vec<(&'a Party, &'a Outbound)>> {
    let mut parts = vec![Vec::new()];
    let mut size = 0;
    for (party, outbound) in addressed.iter().copied() {
        let weight = match outbound {
            Outbound::Deliver(delivery) | Outbound::Own { delivery, .. } => {
                delivery.message.content.len() + 400
            }
            _ => 200,
        };
        if size > 0 && size + weight > MAX_FRAME_LEN {
            parts.push(Vec::new());
            size = 0;
        }
        size += weight;
        if let Some(part) = parts.last_mut() {
            part.push((party, outbound));
        }
    }
    parts
}
