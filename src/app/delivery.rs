//! From accepted to the connections, and what finds the messages that got stuck on the way.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;

use super::{App, Error, intake::SAFETY};
use crate::{
    domain::{Message, MessageId, Party, Priority, feed::Attempt, partitions},
    presence::{Delivery, Outbound, RouteOutcome},
    queue::{LocalQueue, Queue, Rabbit, WakeUp},
    store::{self, Group, idempotency, messages, outcome::WrittenAt},
};

/// The most messages that one sweep takes.
const SWEEP: usize = 1000;
/// The most messages that are made up for at once when wake-ups may have been lost.
const MADE_UP: usize = 100_000;
/// How old a parked message of a connected recipient must be before it counts as stuck; younger ones
/// are on their way.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How often positions are checked (delivery.md, How 5), and how often while Redis is away.
const CHECK_EVERY: Duration = Duration::from_secs(20);
const CHECK_EVERY_WITHOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether Redis is away.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an answer waits for the broker to have the wake-ups of its messages.
const BROKER_PATIENCE: Duration = Duration::from_millis(500);
/// The most recipients in one position check.
const CHECKED_AT_ONCE: usize = 1000;

/// Recipients, each with the first message that it may have missed.
type Behind = HashMap<Party, MessageId>;

fn note_behind(behind: &mut Behind, party: Party, from: MessageId) {
    behind.entry(party).and_modify(|known| *known = from.min(*known)).or_insert(from);
}

/// Who of some recipients is connected.
pub(super) enum Online {
    /// This process is alone: it is seen at the moment it is asked.
    Seen,
    /// It was looked up.
    Known(HashSet<Party>),
}

impl App {
    /// Looks up who of these is connected anywhere, once for a batch.
    pub(super) async fn online_among<'a>(
        &self,
        recipients: impl Iterator<Item = &'a Party>,
    ) -> Online {
        if self.presence().relay().is_none() {
            return Online::Seen;
        }
        let asked: Vec<&Party> = recipients.collect::<HashSet<_>>().into_iter().collect();
        let online = self.presence().are_online(&asked).await;
        let known = asked.into_iter().zip(online).filter(|(_, online)| *online);
        Online::Known(known.map(|(party, _)| party.clone()).collect())
    }

    pub(super) fn is_online(&self, online: &Online, party: &Party) -> bool {
        match online {
            Online::Seen => self.presence().local().is_online(party),
            Online::Known(known) => known.contains(party),
        }
    }

    /// Answers the senders of messages that have just become durable, and wakes their delivery.
    pub(super) fn answer_and_wake(
        &self,
        accepted: Vec<Message>,
        online: &Online,
        answer: impl FnOnce() + Send + 'static,
    ) {
        match self.queue() {
            Queue::Local(queue) => {
                answer();
                self.failpoint("intake_after_answer");
                self.wake_here(queue, accepted);
            }
            Queue::Rabbit(rabbit) => self.wake_workers(rabbit, accepted, online, answer),
        }
    }

    fn wake_here(&self, queue: &LocalQueue<Arc<Delivery>>, accepted: Vec<Message>) {
        let mut shares: Vec<(i16, Vec<Arc<Delivery>>)> = Vec::new();
        for message in accepted {
            if !self.presence().local().is_online(&message.recipient) {
                // It was stored before this look, so whoever connects from now on finds it.
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
                let nudge = Outbound::Nudge(Some(refused.message.id));
                self.presence().send(&refused.message.recipient, &nudge);
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
                note_behind(parties, message.recipient, message.id);
            } else {
                note_behind(&mut absent, message.recipient, message.id);
            }
        }
        let mut to_read = Behind::new();
        if !rabbit.state().borrow().is_connected() {
            // Without the broker their connections read from the database.
            let found = std::mem::take(&mut frames).into_values().flat_map(|(_, found)| found);
            found.for_each(|(party, from)| note_behind(&mut to_read, party, from));
        }
        let offered: Vec<_> = frames
            .into_iter()
            .map(|((lane, partition), (wake_ups, parties))| {
                (rabbit.offer(lane, partition, wake_ups), parties)
            })
            .collect();
        let app = self.clone();
        tokio::spawn(async move {
            let unconfirmed = futures_util::future::join_all(offered.into_iter().map(
                async |(offered, parties)| {
                    let settled = tokio::time::timeout(BROKER_PATIENCE, offered.settled()).await;
                    (settled != Ok(true)).then_some(parties)
                },
            ));
            // What the same sender sends next, through another gateway perhaps, must come behind this: at
            // the broker, and at the connections that are to read. What the broker has not confirmed yet
            // may still come to it after that.
            let unconfirmed = unconfirmed.await.into_iter().flatten().flatten();
            // These were absent before it was stored; who came since then may have read before that.
            let came = app.now_online(absent).await;
            unconfirmed
                .chain(came)
                .for_each(|(party, from)| note_behind(&mut to_read, party, from));
            app.nudge(to_read).await;
            answer();
            app.failpoint("intake_after_answer");
        });
    }

    /// Lets the connections of these read from the database before they are sent anything more. Those of
    /// which nobody can say whether they have any are asked again later.
    async fn nudge(&self, parties: Behind) {
        if parties.is_empty() {
            return;
        }
        let parties: Vec<(Party, MessageId)> = parties.into_iter().collect();
        let nudge =
            |(party, from): &(Party, MessageId)| (party.clone(), Outbound::Nudge(Some(*from)));
        let reached = self.presence().route(parties.iter().map(nudge).collect()).await;
        let unknown = parties.into_iter().zip(reached);
        let unknown = unknown.filter(|(_, reach)| *reach == RouteOutcome::Unknown);
        self.inner.unreached.note(unknown.map(|(behind, _)| behind));
    }

    /// Nudges those that could not be reached before, if that is possible now: what comes for them next
    /// must not overtake what they missed.
    pub async fn nudge_unreached(&self) {
        let reachable = self.presence().relay().is_none_or(|relay| relay.redis().state().up);
        if reachable {
            self.nudge(self.inner.unreached.take()).await;
        }
    }

    async fn now_online(&self, absent: Behind) -> Behind {
        let asked: Vec<&Party> = absent.keys().collect();
        let online = self.presence().are_online(&asked).await;
        absent.into_iter().zip(online).filter(|(_, online)| *online).map(|(b, _)| b).collect()
    }

    /// Wakes the recipients of everything that somebody was to deliver by now: wake-ups may have been lost
    /// with the broker, and what comes after them must not overtake them.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn make_up_for_lost_wake_ups(&self) -> Result<usize, Error> {
        let client = self.store().client_for(Group::WakeUps).await?;
        let since = self.clock().now() - self.live().retry.acknowledge_timeout - SAFETY;
        let parties = messages::undelivered_since(&client, since, MADE_UP).await?;
        let count = parties.len();
        // Not all of those were counted, if they are many: what they missed began no earlier than this.
        let from = MessageId::first_of(since);
        self.nudge(parties.into_iter().map(|party| (party, from)).collect()).await;
        Ok(count)
    }

    /// Hands messages to the connections of their recipients.
    pub async fn deliver(&self, deliveries: &[Arc<Delivery>]) {
        self.hand_over(self.step_begins(), deliveries).await;
    }

    async fn hand_over(&self, began: Option<OffsetDateTime>, deliveries: &[Arc<Delivery>]) {
        self.nudge_unreached().await;
        let told = |delivery: &Arc<Delivery>| {
            let party = delivery.message.recipient.clone();
            (party, Outbound::Deliver(Arc::clone(delivery)))
        };
        let reached = self.presence().route(deliveries.iter().map(told).collect()).await;
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
            self.inner.unreached.note(unknown);
        }
        if !parked.is_empty() {
            self.inner.ledger.note_offline(parked);
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
        let client = self.store().client_for(Group::WakeUps).await?;
        let (found, unreadable) = messages::new_of(&client, &ids).await?;
        drop(client);
        if !unreadable.is_empty() {
            self.inner.ledger.note_unreadable(unreadable);
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
        let client = self.store().client_for(Group::WakeUps).await?;
        let mut of: HashMap<Party, Vec<MessageId>> = HashMap::new();
        for (id, party) in messages::acknowledged_of(&client, &ids).await? {
            of.entry(party).or_default().push(id);
        }
        drop(client);
        let told = of.into_iter().map(|(party, ids)| (party, Outbound::Acknowledged(ids.into())));
        self.presence().route(told.collect()).await;
        Ok(())
    }

    /// Takes the messages whose time to be looked at has come and asks their recipients, where they
    /// are connected, to read again. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn sweep(&self) -> Result<bool, Error> {
        let client = self.store().client_for(Group::Sweeps).await?;
        let (count, parties) = messages::sweep(&client, self.clock().now(), SWEEP).await?;
        if count > 0 {
            self.failpoint("sweep_after_take");
        }
        for (party, from) in parties {
            self.presence().send(&party, &Outbound::Nudge(Some(from)));
        }
        Ok(count == SWEEP)
    }

    /// Finds connected recipients that have messages waiting as if they were not, and nudges them.
    /// With `doubted`, what was handed over may have been lost on the way, and counts too. Returns how
    /// many were found.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn check_positions(&self, doubted: bool) -> Result<usize, Error> {
        let mut found = 0;
        for parties in self.presence().local().parties().chunks(CHECKED_AT_ONCE) {
            let client = self.store().client_for(Group::Sweeps).await?;
            let before = self.clock().now() - STUCK_AFTER;
            let behind = messages::behind(&client, parties, before, doubted).await?;
            found += behind.len();
            for (party, from) in behind {
                self.presence().local().send(&party, &Outbound::Nudge(Some(from)));
            }
        }
        Ok(found)
    }

    /// Waits until positions are to be checked: every 20 s, every 5 s while Redis is away, and when
    /// something may have been lost on the way to this process. Whether that is so.
    pub async fn until_positions_are_due(&self) -> bool {
        let Some(relay) = self.presence().relay() else {
            tokio::time::sleep(CHECK_EVERY).await;
            return false;
        };
        let mut waited = Duration::ZERO;
        loop {
            let often = if relay.redis().state().up { CHECK_EVERY } else { CHECK_EVERY_WITHOUT };
            if waited >= often {
                return false;
            }
            tokio::select! {
                () = relay.wait_for_gap() => {
                    // What is younger than this is not looked at, and may be what was lost.
                    tokio::time::sleep(STUCK_AFTER).await;
                    return true;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    waited += LOOK_EVERY;
                    self.nudge_unreached().await;
                }
            }
        }
    }

    /// Forgets idempotency keys whose time is over. Returns whether there may be more.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn forget_keys(&self) -> Result<bool, Error> {
        const AT_ONCE: u64 = 1000;
        let client = self.store().client_for(Group::Upkeep).await?;
        let before = self.clock().now() - self.live().retention.idempotency_keys;
        Ok(idempotency::forget(&client, before, AT_ONCE as i64).await? == AT_ONCE)
    }

    /// Notes that messages were written to a connection a while ago, or why it ended with them
    /// unacknowledged.
    pub fn note_written(
        &self,
        written: Vec<(Attempt, OffsetDateTime)>,
        lost: Option<&'static str>,
    ) {
        let written =
            written.into_iter().map(|(attempt, at)| WrittenAt { attempt, at, lost }).collect();
        self.inner.ledger.note_written(written);
    }

    /// Notes that a live connection did not acknowledge these in time, with the times of writing.
    pub fn note_missed(&self, attempts: Vec<(Attempt, OffsetDateTime)>) {
        self.inner.ledger.note_missed(attempts);
    }

    /// How many messages wait for their recipients, counted up to 100,000.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn waiting(&self) -> Result<i64, store::Error> {
        messages::waiting(&self.store().client_for(Group::Upkeep).await?, 100_000).await
    }
}
