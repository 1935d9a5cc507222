//! From accepted to the connections of the recipient.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;

use super::{
    DeliveryService,
    online::Online,
    pending_resyncs::{Behind, add_behind},
};
use crate::{
    app::Error,
    domain::{Message, MessageId, Party, Priority, partitions},
    presence::{Delivery, Outbound, RouteOutcome},
    queue::{LocalQueue, Queue, Rabbit, WakeUp},
    store::{StatementGroup, messages},
};

/// How long an answer waits for the broker to have the wake-ups of its messages.
const BROKER_TIMEOUT: Duration = Duration::from_millis(500);

impl DeliveryService {
    /// Answers the senders of messages that have just become durable, and wakes their delivery.
    pub(in crate::app) fn answer_and_wake(
        &self,
        accepted: Vec<Message>,
        online: &Online,
        answer: impl FnOnce() + Send + 'static,
    ) {
        match self.core.queue() {
            Queue::Local(queue) => {
                answer();
                self.core.failpoint("intake_after_answer");
                self.wake_here(queue, accepted);
            }
            Queue::Rabbit(rabbit) => self.wake_workers(rabbit, accepted, online, answer),
        }
    }

    fn wake_here(&self, queue: &LocalQueue<Arc<Delivery>>, accepted: Vec<Message>) {
        let mut shares: Vec<(i16, Vec<Arc<Delivery>>)> = Vec::new();
        for message in accepted {
            if !self.core.presence().local().is_online(&message.recipient) {
                // The message was stored before this look-up: a connection that begins later reads it.
                continue;
            }
            let partition = partitions::of(&message);
            let delivery = Delivery::new(message);
            match shares.iter_mut().find(|(share, _)| *share == partition) {
                Some((_, deliveries)) => deliveries.push(delivery),
                None => shares.push((partition, vec![delivery])),
            }
        }
        for (partition, deliveries) in shares {
            let items =
                deliveries.into_iter().map(|delivery| (delivery.message.priority, delivery));
            for refused in queue.push(partition, items) {
                // No room for the wake-up: the connection reads from the database instead.
                let resync = Outbound::Resync(Some(refused.message.id));
                self.core.presence().send(&refused.message.recipient, &resync);
            }
        }
    }

    fn wake_workers(
        &self,
        rabbit: &Rabbit,
        accepted: Vec<Message>,
        online: &Online,
        answer: impl FnOnce() + Send + 'static,
    ) {
        let mut absent = Behind::new();
        let mut frames: BTreeMap<(Priority, i16), (Vec<WakeUp>, Behind)> = BTreeMap::new();
        for message in accepted {
            if self.is_online(online, &message.recipient) {
                let place = (message.priority, partitions::of(&message));
                let (wake_ups, parties) = frames.entry(place).or_default();
                wake_ups.push(WakeUp { id: message.id, generation: message.generation });
                add_behind(parties, message.recipient, message.id);
            } else {
                add_behind(&mut absent, message.recipient, message.id);
            }
        }
        let mut to_read = Behind::new();
        if !rabbit.state().borrow().is_connected() {
            // Without the broker their connections read from the database.
            let found = std::mem::take(&mut frames).into_values().flat_map(|(_, found)| found);
            found.for_each(|(party, from)| add_behind(&mut to_read, party, from));
        }
        let offered: Vec<_> = frames
            .into_iter()
            .map(|((lane, partition), (wake_ups, parties))| {
                (rabbit.offer(lane, partition, wake_ups), parties)
            })
            .collect();
        let delivery = self.clone();
        tokio::spawn(async move {
            let unconfirmed = futures_util::future::join_all(offered.into_iter().map(
                async |(offered, parties)| {
                    let settled = tokio::time::timeout(BROKER_TIMEOUT, offered.settled()).await;
                    (settled != Ok(true)).then_some(parties)
                },
            ));
            // What the same sender sends next, through another gateway perhaps, must come behind this: at
            // the broker, and at the connections that are to read. What the broker has not confirmed yet
            // may still come to it after that.
            let unconfirmed = unconfirmed.await.into_iter().flatten().flatten();
            // These were absent before it was stored; who came since then may have read before that.
            let came = delivery.now_online(absent).await;
            unconfirmed.chain(came).for_each(|(party, from)| add_behind(&mut to_read, party, from));
            delivery.resync(to_read).await;
            answer();
            delivery.core.failpoint("intake_after_answer");
        });
    }

    /// Hands messages to the connections of their recipients.
    pub async fn deliver(&self, deliveries: &[Arc<Delivery>]) {
        self.hand_over(self.step_begins(), deliveries).await;
    }

    async fn hand_over(&self, began: Option<OffsetDateTime>, deliveries: &[Arc<Delivery>]) {
        self.resync_pending().await;
        let told = |delivery: &Arc<Delivery>| {
            let party = delivery.message.recipient.clone();
            (party, Outbound::Deliver(Arc::clone(delivery)))
        };
        // Those that could still not be asked: what follows must not overtake what they missed.
        let recipients = deliveries.iter().map(|delivery| &delivery.message.recipient);
        let behind: Vec<(Party, MessageId)> =
            self.state.pending_resyncs.take_of(recipients).into_iter().collect();
        let resyncs =
            behind.iter().map(|(party, from)| (party.clone(), Outbound::Resync(Some(*from))));
        let items = resyncs.chain(deliveries.iter().map(told)).collect();
        let mut asked = self.core.presence().route(items).await;
        let reached = asked.split_off(behind.len());
        let unasked =
            behind.into_iter().zip(asked).filter(|(_, reach)| *reach == RouteOutcome::Unknown);
        self.state.pending_resyncs.note(unasked.map(|(behind, _)| behind));
        self.trace_handed(began, deliveries, &reached);
        let mut parked = Vec::new();
        let mut unknown = Vec::new();
        for (delivery, reach) in deliveries.iter().zip(reached) {
            if reach == RouteOutcome::Delivered {
                let lane = delivery.message.priority.name();
                metrics::counter!("esh3ar_deliveries_handed_total", "lane" => lane).increment(1);
            } else {
                parked.push(delivery.message.id);
            }
            if reach == RouteOutcome::Unknown {
                unknown.push((delivery.message.recipient.clone(), delivery.message.id));
            }
        }
        if !unknown.is_empty() {
            self.state.pending_resyncs.note(unknown);
        }
        if !parked.is_empty() {
            self.state.receipts.note_offline(parked);
        }
    }

    /// The same for messages that the broker names: those of them that still wait are read, and handed
    /// over in the order in which they were named.
    ///
    /// # Errors
    /// Failures of the database; then nothing was handed over.
    pub async fn deliver_named(&self, wake_ups: &[WakeUp]) -> Result<(), Error> {
        let began = self.step_begins();
        let ids: Vec<MessageId> = wake_ups.iter().map(|wake_up| wake_up.id).collect();
        let client = self.core.store().client_for(StatementGroup::WakeUps).await?;
        let (found, unreadable) = messages::new_of(&client, &ids).await?;
        drop(client);
        if !unreadable.is_empty() {
            self.state.receipts.note_unreadable(unreadable);
        }
        let mut found: HashMap<MessageId, Message> =
            found.into_iter().map(|message| (message.id, message)).collect();
        let deliveries: Vec<Arc<Delivery>> =
            ids.iter().filter_map(|id| found.remove(id)).map(Delivery::new).collect();
        self.hand_over(began, &deliveries).await;
        let handed: HashSet<MessageId> = deliveries.iter().map(|d| d.message.id).collect();
        self.tell_of_acknowledged(ids.into_iter().filter(|id| !handed.contains(id)).collect()).await
    }

    /// One connection of a recipient may read a message and acknowledge it before it is handed to the
    /// others: they are told of it all the same.
    async fn tell_of_acknowledged(&self, ids: Vec<MessageId>) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let client = self.core.store().client_for(StatementGroup::WakeUps).await?;
        let mut of: HashMap<Party, Vec<MessageId>> = HashMap::new();
        for (id, party) in messages::acknowledged_of(&client, &ids).await? {
            of.entry(party).or_default().push(id);
        }
        drop(client);
        let told = of.into_iter().map(|(party, ids)| (party, Outbound::Acknowledged(ids.into())));
        self.core.presence().route(told.collect()).await;
        Ok(())
    }
}
