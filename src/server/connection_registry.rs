//! The connections of a listener: keeps the table of limits, closes evicted connections, and counts and logs
//! them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::Gauge;
use tokio_util::sync::CancellationToken;

use super::{
    connection_limits::{
        ConnectionAdmission, ConnectionId, ConnectionLimits, ConnectionOwner, ConnectionTable,
        Evicted,
    },
    peer::block,
};

/// Evictions are logged at most this often.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// In the order of [`ConnectionTable::counts`].
const STATES: [&str; 3] = ["unauthenticated", "authenticated", "shared"];

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct ConnectionRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    listener: &'static str,
    header_timeout: Duration,
    gauges: [Gauge; 3],
    open: Mutex<Open>,
}

struct Open {
    table: ConnectionTable,
    ends: HashMap<ConnectionId, CancellationToken>,
    last_id: ConnectionId,
    warned: Option<Instant>,
    evicted: u64,
}

impl ConnectionRegistry {
    pub(super) fn new(
        listener: &'static str,
        limits: ConnectionLimits,
        header_timeout: Duration,
    ) -> ConnectionRegistry {
        let gauges = STATES.map(
            |state| metrics::gauge!("esh3ar_http_connections", "listener" => listener, "state" => state),
        );
        let open = Mutex::new(Open {
            table: ConnectionTable::new(limits),
            ends: HashMap::new(),
            last_id: 0,
            warned: None,
            evicted: 0,
        });
        ConnectionRegistry { inner: Arc::new(Inner { listener, header_timeout, gauges, open }) }
    }

    /// Enters a connection that was accepted from this address. `end` is cancelled to close it.
    pub(super) fn insert(&self, address: IpAddr, end: CancellationToken) -> ConnectionId {
        self.change(|open| {
            open.last_id += 1;
            let id = open.last_id;
            open.ends.insert(id, end);
            (open.table.insert(id, block(address), Instant::now()), id)
        })
    }

    /// Removes a connection that has ended.
    pub(super) fn remove(&self, id: ConnectionId) {
        self.change(|open| {
            open.table.end(id);
            open.ends.remove(&id);
            (None, ())
        });
    }

    pub(super) fn header_timeout(&self) -> Duration {
        self.inner.header_timeout
    }

    pub(super) fn rename(&self, id: ConnectionId, address: IpAddr) {
        self.change(|open| (open.table.rename(id, block(address)), ()));
    }

    pub(super) fn authenticate(
        &self,
        id: ConnectionId,
        owner: ConnectionOwner,
    ) -> ConnectionAdmission {
        self.change(|open| {
            let admission = open.table.authenticate(id, owner, Instant::now());
            match admission {
                ConnectionAdmission::Admitted(evicted) => (evicted, admission),
                ConnectionAdmission::Refused => (None, admission),
            }
        })
    }

    pub(super) fn set_in_flight(&self, id: ConnectionId, in_flight: bool) {
        self.open_ones().table.set_in_flight(id, in_flight, Instant::now());
    }

    /// The process is out of file descriptors: evicts a connection. Returns whether there was one.
    pub(super) fn make_room(&self) -> bool {
        self.change(|open| {
            let evicted = open.table.make_room();
            (evicted, evicted.is_some())
        })
    }

    /// Counts a connection that the server closed.
    pub(super) fn count_end(&self, reason: &'static str) {
        let listener = self.inner.listener;
        metrics::counter!(
            "esh3ar_http_connections_ended_total", "listener" => listener, "reason" => reason
        )
        .increment(1);
    }

    fn open_ones(&self) -> MutexGuard<'_, Open> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, and closes the connection that was evicted by it.
    fn change<T>(&self, change: impl FnOnce(&mut Open) -> (Option<Evicted>, T)) -> T {
        let mut open = self.open_ones();
        let (evicted, result) = change(&mut open);
        for (gauge, count) in self.inner.gauges.iter().zip(open.table.counts()) {
            gauge.set(count as f64);
        }
        if let Some(evicted) = evicted {
            self.end(&mut open, evicted);
        }
        result
    }

    fn end(&self, open: &mut Open, evicted: Evicted) {
        let limit = evicted.limit.name();
        if let Some(end) = open.ends.get(&evicted.id) {
            end.cancel();
        }
        self.count_end(limit);
        tracing::debug!(listener = self.inner.listener, limit, "connection evicted");
        open.evicted += 1;
        let now = Instant::now();
        if open.warned.is_none_or(|warned| now.duration_since(warned) >= WARN_INTERVAL) {
            let [unauthenticated, authenticated, shared] = open.table.counts();
            tracing::warn!(
                listener = self.inner.listener,
                limit,
                evicted = open.evicted,
                unauthenticated,
                authenticated,
                shared,
                "too many connections: closing the longest idle ones"
            );
            (open.warned, open.evicted) = (Some(now), 0);
        }
    }
}
