//! One connection of a listener: its activity, and its idle and header timeouts.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    connection_limits::{ConnectionAdmission, ConnectionId, ConnectionOwner},
    connection_registry::ConnectionRegistry,
};
use crate::domain::Party;

/// Idle timeout of authenticated connections. Longer than load balancers keep theirs (60 to 75 s).
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Grace period of a connection that is being closed.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection as its requests see it, in their extensions. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionHandle {
    inner: Arc<Inner>,
}

struct Inner {
    id: ConnectionId,
    registry: ConnectionRegistry,
    header_timeout: Duration,
    activity: Mutex<Activity>,
    end: CancellationToken,
}

struct Activity {
    address: IpAddr,
    is_known: bool,
    in_flight: usize,
    /// Since when no request is in flight.
    idle_since: Instant,
    /// When the first bytes of the next request arrived, if known.
    head_since: Option<Instant>,
    watches_heads: bool,
    /// A write is waiting for the client.
    is_writing: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Open,
    /// The process is stopping: the requests in flight are the last ones.
    Stopping,
    /// It is being closed, until then at most.
    Closing(Instant),
}

impl ConnectionHandle {
    fn new(
        id: ConnectionId,
        registry: ConnectionRegistry,
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
        let header_timeout = registry.header_timeout();
        let inner = Inner { id, registry, header_timeout, activity, end };
        ConnectionHandle { inner: Arc::new(inner) }
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.inner.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the socket, or the one in the PROXY header of a trusted load balancer.
    pub fn address(&self) -> IpAddr {
        self.activity().address
    }

    /// A request of this client arrived. If its address differs from the connection's, a load balancer sends
    /// requests of many clients over it.
    pub fn carries(&self, client: IpAddr) {
        let mut activity = self.activity();
        if activity.address != client {
            self.admit(&mut activity, || ConnectionOwner::Shared);
        }
    }

    /// A request had a valid token of this party.
    pub fn authenticated(&self, party: &Party) {
        self.admit(&mut self.activity(), || ConnectionOwner::Party(party.clone()));
    }

    fn admit(&self, activity: &mut Activity, owner: impl FnOnce() -> ConnectionOwner) {
        if !activity.is_known {
            let admission = self.inner.registry.authenticate(self.inner.id, owner());
            activity.is_known = matches!(admission, ConnectionAdmission::Admitted(_));
        }
    }

    /// Closes the connection at once, with all its requests.
    pub fn close(&self) {
        self.inner.end.cancel();
    }

    /// Resolves when the connection has to close at once: it was evicted, or closed by
    /// [`ConnectionHandle::close`].
    pub fn closed(&self) -> WaitForCancellationFutureOwned {
        self.inner.end.clone().cancelled_owned()
    }

    pub(super) fn rename(&self, address: IpAddr) {
        self.activity().address = address;
        self.inner.registry.rename(self.inner.id, address);
    }

    /// The connection is ready for requests. `watches_heads` tells whether bytes that arrive while no request
    /// is in flight belong to the next request head; in HTTP/2 they may be anything.
    pub(super) fn start(&self, watches_heads: bool) {
        let mut activity = self.activity();
        activity.watches_heads = watches_heads;
        activity.idle_since = Instant::now();
    }

    pub(super) fn has_read(&self) {
        let mut activity = self.activity();
        if activity.watches_heads && activity.in_flight == 0 && activity.head_since.is_none() {
            activity.head_since = Some(Instant::now());
        }
    }

    pub(super) fn set_writing(&self, is_writing: bool) {
        self.activity().is_writing = is_writing;
    }

    /// Counts a write timeout.
    pub(super) fn unread(&self) {
        self.inner.registry.count_end("unread");
    }

    /// Counts an idle timeout.
    pub(super) fn idle(&self) {
        self.inner.registry.count_end("idle");
    }

    /// When to close the connection if nothing happens until then.
    pub(super) fn due(&self, phase: Phase) -> Instant {
        let now = Instant::now();
        let activity = self.activity();
        let header_timeout = self.inner.header_timeout;
        let limit = match phase {
            Phase::Open if activity.is_known => IDLE_TIMEOUT.max(header_timeout),
            Phase::Open | Phase::Stopping => header_timeout,
            Phase::Closing(_) => CLOSE_TIMEOUT,
        };
        if activity.in_flight > 0 || activity.is_writing {
            // Checked again by then. Writes have a timeout of their own.
            return now + limit;
        }
        match (phase, activity.head_since) {
            (Phase::Closing(until), _) => until,
            (Phase::Open, Some(since)) if activity.is_known => since + header_timeout,
            _ => activity.idle_since + limit,
        }
    }

    /// A request has arrived.
    pub(super) fn begin(&self) -> InFlight {
        let mut activity = self.activity();
        activity.in_flight += 1;
        activity.head_since = None;
        if activity.in_flight == 1 {
            self.inner.registry.set_in_flight(self.inner.id, true);
        }
        drop(activity);
        InFlight { connection: self.clone() }
    }
}

/// An accepted connection in the registry; dropping it removes the entry.
pub(super) struct OpenConnection {
    handle: ConnectionHandle,
}

impl OpenConnection {
    /// Enters a connection that was accepted from this address.
    pub(super) fn new(registry: &ConnectionRegistry, address: IpAddr) -> OpenConnection {
        let end = CancellationToken::new();
        let id = registry.insert(address, end.clone());
        OpenConnection { handle: ConnectionHandle::new(id, registry.clone(), address, end) }
    }

    pub(super) fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.handle.inner.registry.remove(self.handle.inner.id);
    }
}

/// A request that is not answered completely. Dropped when it is.
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
            connection.inner.registry.set_in_flight(connection.inner.id, false);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{domain::UserId, server::connection_limits::ConnectionLimits};

    const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

    pub fn connections(total: usize) -> ConnectionRegistry {
        ConnectionRegistry::new("test", ConnectionLimits::new(total, 100, 100), HEADER_TIMEOUT)
    }

    pub fn address(last: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, last])
    }

    impl ConnectionHandle {
        pub(crate) fn is_in_flight(&self) -> bool {
            self.activity().in_flight > 0
        }
    }

    /// Remaining time in seconds.
    fn left(connection: &ConnectionHandle, phase: Phase) -> u64 {
        connection.due(phase).saturating_duration_since(Instant::now()).as_secs_f64().round() as u64
    }

    #[test]
    fn who_has_authenticated_may_be_idle_for_longer_but_not_with_half_a_head() {
        let open = OpenConnection::new(&connections(10), address(1));
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
        let shared = OpenConnection::new(&connections, address(9));
        shared.handle().carries(address(1));
        assert!(shared.handle().activity().is_known);
        let open = |last| OpenConnection::new(&connections, address(last));
        let first = open(1);
        let (second, third) = (open(1), open(2));
        let ended = |one: &OpenConnection| one.handle().inner.end.is_cancelled();
        assert!(ended(&first) && !ended(&second) && !ended(&third) && !ended(&shared));
        // Its entry is gone.
        drop(first.handle().begin());
        first.handle().authenticated(&Party::Business(UserId(Uuid::from_u128(1))));
        assert!(!first.handle().activity().is_known);
    }
}
