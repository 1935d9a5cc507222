//! One connection of a listener: what is known of it, and until when it may be silent.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    connections::Connections,
    places::{Admission, ConnectionId, Owner},
};
use crate::domain::Party;

/// How long a connection of somebody who has authenticated may be without a request: longer than balancers keep
/// theirs (60 to 75 s).
const IDLE: Duration = Duration::from_secs(120);
/// How long a connection may take to end that was told to.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection, as its requests see it: each has one among its extensions. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionHandle {
    inner: Arc<Inner>,
}

struct Inner {
    id: ConnectionId,
    connections: Connections,
    header_timeout: Duration,
    activity: Mutex<Activity>,
    end: CancellationToken,
}

struct Activity {
    address: IpAddr,
    /// Somebody has authenticated.
    is_known: bool,
    in_flight: usize,
    /// Since when there is no request.
    idle_since: Instant,
    /// When the first bytes of the next request came, where that can be told.
    head_since: Option<Instant>,
    watches_heads: bool,
    /// The client does not take what is sent.
    is_writing: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// It takes requests.
    Open,
    /// The process stops: the requests in flight are its last.
    Stopping,
    /// It was told to end, and may take so long for it.
    Closing(Instant),
}

impl ConnectionHandle {
    pub(super) fn new(
        id: ConnectionId,
        connections: Connections,
        header_timeout: Duration,
        address: IpAddr,
        end: CancellationToken,
    ) -> ConnectionHandle {
        let activity = Mutex::new(Activity {
            address,
            is_known: false,
            in_flight: 0,
            idle_since: Instant::now(),
            head_since: None,
            watches_heads: false,
            is_writing: false,
        });
        let inner = Inner { id, connections, header_timeout, activity, end };
        ConnectionHandle { inner: Arc::new(inner) }
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.inner.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address it comes from: of the socket, or as a trusted balancer's PROXY header names it.
    pub fn address(&self) -> IpAddr {
        self.activity().address
    }

    /// A request comes from this client. If that is another than the connection's, a balancer sends the requests
    /// of many over it.
    pub fn carries(&self, client: IpAddr) {
        let mut activity = self.activity();
        if activity.address != client {
            self.admit(&mut activity, || Owner::Shared);
        }
    }

    /// A request has shown a valid token of this party.
    pub fn authenticated(&self, party: &Party) {
        self.admit(&mut self.activity(), || Owner::Party(party.clone()));
    }

    fn admit(&self, activity: &mut Activity, owner: impl FnOnce() -> Owner) {
        if !activity.is_known {
            let admission = self.inner.connections.authenticate(self.inner.id, owner());
            activity.is_known = matches!(admission, Admission::Admitted(_));
        }
    }

    /// Ends the connection at once, with all its requests.
    pub fn close(&self) {
        self.inner.end.cancel();
    }

    /// Resolves when the connection has to end at once: it was evicted, or closed by [`ConnectionHandle::close`].
    pub fn closed(&self) -> WaitForCancellationFutureOwned {
        self.inner.end.clone().cancelled_owned()
    }

    /// Its address has become known.
    pub(super) fn rename(&self, address: IpAddr) {
        self.activity().address = address;
        self.inner.connections.rename(self.inner.id, address);
    }

    /// Its first request may come. Whether what is read while none is in flight belongs to the head of the next one: in
    /// HTTP/2 it may be anything.
    pub(super) fn start(&self, watches_heads: bool) {
        let mut activity = self.activity();
        activity.watches_heads = watches_heads;
        activity.idle_since = Instant::now();
    }

    /// Bytes have come.
    pub(super) fn has_read(&self) {
        let mut activity = self.activity();
        if activity.watches_heads && activity.in_flight == 0 && activity.head_since.is_none() {
            activity.head_since = Some(Instant::now());
        }
    }

    /// Whether there are bytes that the client does not take.
    pub(super) fn set_writing(&self, is_writing: bool) {
        self.activity().is_writing = is_writing;
    }

    /// The client has not taken bytes for too long.
    pub(super) fn unread(&self) {
        self.inner.connections.count_end("unread");
    }

    /// It was without a request for too long.
    pub(super) fn idle(&self) {
        self.inner.connections.count_end("idle");
    }

    /// When it has to end if nothing happens until then.
    pub(super) fn due(&self, phase: Phase) -> Instant {
        let now = Instant::now();
        let activity = self.activity();
        let header_timeout = self.inner.header_timeout;
        let limit = match phase {
            Phase::Open if activity.is_known => IDLE.max(header_timeout),
            Phase::Open | Phase::Stopping => header_timeout,
            Phase::Closing(_) => CLOSE_TIMEOUT,
        };
        if activity.in_flight > 0 || activity.is_writing {
            // Looked at again by then. Bytes that nobody takes have a time-out of their own.
            return now + limit;
        }
        match (phase, activity.head_since) {
            (Phase::Closing(until), _) => until,
            (Phase::Open, Some(since)) if activity.is_known => since + header_timeout,
            _ => activity.idle_since + limit,
        }
    }

    /// A request has come.
    pub(super) fn begin(&self) -> InFlight {
        let mut activity = self.activity();
        activity.in_flight += 1;
        activity.head_since = None;
        if activity.in_flight == 1 {
            self.inner.connections.set_in_flight(self.inner.id, true);
        }
        drop(activity);
        InFlight { connection: self.clone() }
    }
}

/// A request that is not answered in full; dropping it says that it is.
pub(super) struct InFlight {
    connection: ConnectionHandle,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let connection = &self.connection;
        let mut activity = connection.activity();
        activity.in_flight -= 1;
        if activity.in_flight == 0 {
            activity.idle_since = Instant::now();
            connection.inner.connections.set_in_flight(connection.inner.id, false);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{domain::UserId, server::places::ConnectionLimits};

    const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

    pub fn connections(total: usize) -> Connections {
        Connections::new("test", ConnectionLimits::new(total, 100, 100), HEADER_TIMEOUT)
    }

    pub fn address(last: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, last])
    }

    impl ConnectionHandle {
        pub(in crate::server) fn is_in_flight(&self) -> bool {
            self.activity().in_flight > 0
        }
    }

    /// How long it may go on from now, to the second.
    fn left(connection: &ConnectionHandle, phase: Phase) -> u64 {
        connection.due(phase).saturating_duration_since(Instant::now()).as_secs_f64().round() as u64
    }

    #[test]
    fn who_has_authenticated_may_be_idle_for_longer_but_not_with_half_a_head() {
        let open = connections(10).open(address(1));
        let connection = open.handle();
        connection.start(true);
        assert_eq!(left(connection, Phase::Open), 10);
        let request = connection.begin();
        connection.carries(address(1));
        connection.authenticated(&Party::Business(UserId(Uuid::from_u128(1))));
        assert!(connection.activity().is_known);
        connection.has_read();
        drop(request);
        assert_eq!(left(connection, Phase::Open), 120);
        assert_eq!(left(connection, Phase::Stopping), 10);
        let soon = Instant::now() + Duration::from_secs(2);
        assert_eq!(left(connection, Phase::Closing(soon)), 2);
        connection.has_read();
        assert_eq!(left(connection, Phase::Open), 10);
        drop(connection.begin());
        assert_eq!(left(connection, Phase::Open), 120);
    }

    #[test]
    fn the_longest_idle_one_is_told_to_end_and_a_balancers_counts_for_no_address() {
        let connections = connections(4);
        let shared = connections.open(address(9));
        shared.handle().carries(address(1));
        assert!(shared.handle().activity().is_known);
        let first = connections.open(address(1));
        let (second, third) = (connections.open(address(1)), connections.open(address(2)));
        let ended =
            |one: &super::super::connections::OpenConnection| one.handle().inner.end.is_cancelled();
        assert!(ended(&first) && !ended(&second) && !ended(&third) && !ended(&shared));
        // It has no entry any more.
        drop(first.handle().begin());
        first.handle().authenticated(&Party::Business(UserId(Uuid::from_u128(1))));
        assert!(!first.handle().activity().is_known);
    }
}
