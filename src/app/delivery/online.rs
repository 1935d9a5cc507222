//! Which recipients are connected, and so how long a new message is leased to its first attempt.

use std::{collections::HashSet, time::Duration};

use time::OffsetDateTime;

use super::{DeliveryService, pending_resyncs::Behind};
use crate::domain::{Party, retry::RetryPolicy};

/// How far ahead a new message's safety net lies, beyond the time an acknowledgement may take.
pub(super) const LEASE_MARGIN: Duration = Duration::from_secs(25);

/// Who of some recipients is connected.
pub(in crate::app) enum Online {
    /// This process is alone: it is seen at the moment it is asked.
    Seen,
    /// It was looked up.
    Known(HashSet<Party>),
}

impl DeliveryService {
    /// Looks up who of these is connected anywhere, once for a batch.
    pub(in crate::app) async fn online_among<'a>(
        &self,
        recipients: impl Iterator<Item = &'a Party>,
    ) -> Online {
        if self.core.presence().relay().is_none() {
            return Online::Seen;
        }
        let asked: Vec<&Party> = recipients.collect::<HashSet<_>>().into_iter().collect();
        let online = self.core.presence().are_online(&asked).await;
        let known = asked.into_iter().zip(online).filter(|(_, online)| *online);
        Online::Known(known.map(|(party, _)| party.clone()).collect())
    }

    pub(in crate::app) fn is_online(&self, online: &Online, party: &Party) -> bool {
        match online {
            Online::Seen => self.core.presence().local().is_online(party),
            Online::Known(known) => known.contains(party),
        }
    }

    /// Those of these recipients that are connected by now.
    pub(super) async fn now_online(&self, absent: Behind) -> Behind {
        let asked: Vec<&Party> = absent.keys().collect();
        let online = self.core.presence().are_online(&asked).await;
        absent.into_iter().zip(online).filter(|(_, online)| *online).map(|(b, _)| b).collect()
    }

    /// When the sweeper has to look at a new message: never while its recipient is offline, because
    /// the recipient's next connect is what finds it.
    pub(in crate::app) fn born_leased_until(
        &self,
        retry: &RetryPolicy,
        online: &Online,
        recipient: &Party,
        created_at: OffsetDateTime,
    ) -> Option<OffsetDateTime> {
        if self.core.settings().node.is_none() {
            return Some(created_at);
        }
        let lease = retry.acknowledge_timeout + LEASE_MARGIN;
        self.is_online(online, recipient).then(|| created_at + lease)
    }
}
