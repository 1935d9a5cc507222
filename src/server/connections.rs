//! The connections of a listener, by their table: who is told to go, and what is counted and logged of it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::Gauge;
use tokio_util::sync::CancellationToken;

use super::{
    connection::ConnectionHandle,
    peer::block,
    places::{Admission, ConnectionId, ConnectionLimits, ConnectionTable, Evicted, Owner},
};

/// How often the log says that connections are evicted.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// In the order of [`ConnectionTable::counts`].
const STATES: [&str; 3] = ["unauthenticated", "authenticated", "shared"];

/// The connections of a listener. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections {
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
    /// Evicted since then.
    evicted: u64,
}

/// The entry of a connection; dropping it removes the entry.
pub(super) struct OpenConnection {
    id: ConnectionId,
    connections: Connections,
    handle: ConnectionHandle,
}

impl OpenConnection {
    pub(super) fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.change(|open| {
            open.table.end(self.id);
            open.ends.remove(&self.id);
            (None, ())
        });
    }
}

impl Connections {
    pub(super) fn new(
        listener: &'static str,
        limits: ConnectionLimits,
        header_timeout: Duration,
    ) -> Connections {
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
        Connections { inner: Arc::new(Inner { listener, header_timeout, gauges, open }) }
    }

    /// A connection was accepted from this address.
    pub(super) fn open(&self, address: IpAddr) -> OpenConnection {
        let end = CancellationToken::new();
        let id = self.change(|open| {
            open.last_id += 1;
            let id = open.last_id;
            open.ends.insert(id, end.clone());
            (open.table.insert(id, block(address), Instant::now()), id)
        });
        let times = self.inner.header_timeout;
        let handle = ConnectionHandle::new(id, self.clone(), times, address, end);
        OpenConnection { id, connections: self.clone(), handle }
    }

    pub(super) fn rename(&self, id: ConnectionId, address: IpAddr) {
        self.change(|open| (open.table.rename(id, block(address)), ()));
    }

    pub(super) fn authenticate(&self, id: ConnectionId, owner: Owner) -> Admission {
        self.change(|open| {
            let admission = open.table.authenticate(id, owner, Instant::now());
            match admission {
                Admission::Admitted(evicted) => (evicted, admission),
                Admission::Refused => (None, admission),
            }
        })
    }

    pub(super) fn set_in_flight(&self, id: ConnectionId, in_flight: bool) {
        self.open_ones().table.set_in_flight(id, in_flight, Instant::now());
    }

    /// The process has no file for another connection: one gives up its own. Whether there was one.
    pub(super) fn make_room(&self) -> bool {
        self.change(|open| {
            let evicted = open.table.make_room();
            (evicted, evicted.is_some())
        })
    }

    /// Counts a connection that the server ended by itself.
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

    /// Changes the table, and tells the connection to end that had to go for it.
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
        if open.warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
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
