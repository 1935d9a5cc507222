use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::UserId;

fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn party(number: u8) -> ConnectionOwner {
    ConnectionOwner::Party(Party::Business(UserId(Uuid::from_u128(u128::from(number)))))
}

fn evicted(id: ConnectionId, limit: ConnectionLimit) -> Option<Evicted> {
    Some(Evicted { id, limit })
}

/// A clock that goes by whole seconds.
fn clock() -> impl Fn(u64) -> Instant {
    let begun = Instant::now();
    move |seconds| begun + Duration::from_secs(seconds)
}

#[test]
fn one_address_pays_for_its_own_and_a_request_in_flight_counts_two_seconds_less() {
    let at = clock();
    let mut table = ConnectionTable::new(ConnectionLimits::new(100, 2, 10));
    assert_eq!(table.insert(1, address(1), at(0)), None);
    assert_eq!(table.insert(2, address(1), at(1)), None);
    assert_eq!(table.insert(9, address(2), at(0)), None);
    table.set_in_flight(1, true, at(1));
    assert_eq!(table.insert(3, address(1), at(1)), evicted(2, ConnectionLimit::Address));
    // Its request waits for its client.
    table.set_in_flight(3, false, at(4));
    assert_eq!(table.insert(4, address(1), at(4)), evicted(1, ConnectionLimit::Address));
    assert_eq!(table.counts(), [3, 0, 0]);
}

#[test]
fn of_all_without_authentication_the_address_with_the_most_pays() {
    let at = clock();
    let mut table = ConnectionTable::new(ConnectionLimits::new(8, 100, 100));
    // The longest of all here, and alone at its address.
    table.insert(0, address(1), at(0));
    for id in 1..4 {
        assert_eq!(table.insert(id, address(2), at(id)), None);
        table.set_in_flight(id, true, at(id));
    }
    assert_eq!(table.insert(4, address(3), at(9)), evicted(1, ConnectionLimit::Unauthenticated));
    assert_eq!(table.insert(5, address(4), at(9)), evicted(2, ConnectionLimit::Unauthenticated));
    // All have one: the oldest goes.
    assert_eq!(table.insert(6, address(5), at(9)), evicted(0, ConnectionLimit::Unauthenticated));
    assert_eq!(table.make_room(), evicted(3, ConnectionLimit::Total));
}

#[test]
fn a_party_pays_for_its_own_and_counts_for_its_address_when_all_its_own_are_at_work() {
    let at = clock();
    let mut table = ConnectionTable::new(ConnectionLimits::new(100, 50, 2));
    for id in 0..2 {
        table.insert(id, address(1), at(id));
        table.set_in_flight(id, true, at(id));
        assert_eq!(table.authenticate(id, party(1), at(id)), ConnectionAdmission::Admitted(None));
    }
    table.insert(2, address(1), at(3));
    table.set_in_flight(2, true, at(3));
    assert_eq!(table.authenticate(2, party(1), at(3)), ConnectionAdmission::Refused);
    assert_eq!(
        table.authenticate(1, party(1), at(3)),
        ConnectionAdmission::Admitted(None),
        "it is already"
    );
    assert_eq!(table.counts(), [1, 2, 0]);
    table.set_in_flight(0, false, at(4));
    let admission = ConnectionAdmission::Admitted(evicted(0, ConnectionLimit::Party));
    assert_eq!(table.authenticate(2, party(1), at(4)), admission);
    assert_eq!(table.counts(), [0, 2, 0]);
    assert_eq!(table.authenticate(0, party(1), at(4)), ConnectionAdmission::Refused, "it is gone");
}

#[test]
fn newcomers_are_served_when_the_authenticated_have_all_they_may_have() {
    let at = clock();
    let mut table = ConnectionTable::new(ConnectionLimits::new(8, 8, 8));
    for id in 0..6 {
        table.insert(id, address(1), at(id));
        table.set_in_flight(id, true, at(id));
        let owner = if id == 0 { ConnectionOwner::Shared } else { party(id as u8) };
        assert_eq!(table.authenticate(id, owner, at(id)), ConnectionAdmission::Admitted(None));
    }
    table.set_in_flight(0, false, at(6));
    for id in 6..8 {
        assert_eq!(table.insert(id, address(1), at(id)), None);
    }
    assert_eq!(table.insert(8, address(2), at(8)), evicted(6, ConnectionLimit::Total));
    // A balancer's connection is the last that goes.
    table.set_in_flight(3, false, at(9));
    table.set_in_flight(7, true, at(9));
    table.set_in_flight(8, true, at(9));
    let admission = ConnectionAdmission::Admitted(evicted(3, ConnectionLimit::Authenticated));
    assert_eq!(table.authenticate(8, party(9), at(9)), admission);
    let admission = ConnectionAdmission::Admitted(evicted(0, ConnectionLimit::Authenticated));
    assert_eq!(table.authenticate(7, party(9), at(9)), admission);
    assert_eq!(table.counts(), [0, 6, 0]);
}

#[test]
fn what_a_balancer_names_counts_from_then_on() {
    let at = clock();
    let mut table = ConnectionTable::new(ConnectionLimits::new(100, 2, 10));
    for id in 0..6 {
        table.insert(id, address(1), at(id));
        // The third of each evicts the first.
        let expected = match id {
            2 => evicted(0, ConnectionLimit::Address),
            5 => evicted(3, ConnectionLimit::Address),
            _ => None,
        };
        assert_eq!(table.rename(id, address(2 + (id / 3) as u8)), expected);
    }
    assert_eq!(table.counts(), [4, 0, 0]);
    assert_eq!(table.rename(77, address(1)), None);
}

#[test]
fn small_limits_leave_a_place_for_newcomers_and_half_for_the_authenticated() {
    for total in [0, 1, 2, 3, 4, 200, 20_000] {
        let limits = ConnectionLimits::new(total, 1000, 2000);
        assert!(limits.authenticated < limits.total, "{limits:?}");
        assert!((1..=limits.total).contains(&limits.unauthenticated), "{limits:?}");
        assert!((1..=limits.unauthenticated).contains(&limits.per_address), "{limits:?}");
        assert!(limits.per_party <= limits.total.div_ceil(2), "{limits:?}");
    }
    let limits = ConnectionLimits::new(20_000, 1000, 2000);
    assert_eq!((limits.per_address, limits.per_party), (1000, 2000));
    assert_eq!((limits.unauthenticated, limits.authenticated), (10_000, 19_936));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8),
    Rename(usize, u8),
    InFlight(usize, bool),
    Party(usize, u8),
    Shared(usize),
    End(usize),
    MakeRoom,
}

fn step() -> impl Strategy<Value = Step> {
    let one = 0..1000usize;
    prop_oneof![
        6 => (0..4u8).prop_map(Step::Insert),
        1 => (one.clone(), 0..4u8).prop_map(|(one, to)| Step::Rename(one, to)),
        6 => (one.clone(), any::<bool>()).prop_map(|(one, on)| Step::InFlight(one, on)),
        4 => (one.clone(), 0..3u8).prop_map(|(one, to)| Step::Party(one, to)),
        1 => one.clone().prop_map(Step::Shared),
        2 => one.prop_map(Step::End),
        1 => Just(Step::MakeRoom),
    ]
}

/// What is wrong with a table, if anything is.
fn check(table: &ConnectionTable) -> Result<(), TestCaseError> {
    let limits = table.limits;
    prop_assert!(table.connections.len() <= limits.total);
    prop_assert!(table.unauthenticated.count <= limits.unauthenticated);
    prop_assert!(table.authenticated.count <= limits.authenticated);
    let together = table.unauthenticated.count + table.authenticated.count;
    prop_assert_eq!(together, table.connections.len());
    for side in [&table.unauthenticated, &table.authenticated] {
        prop_assert_eq!(side.count, side.groups.values().map(|group| group.count).sum::<usize>());
        let ranks: BTreeSet<Rank> =
            side.groups.iter().filter_map(|(owner, group)| group.rank(owner)).collect();
        prop_assert_eq!(&ranks, &side.ranks);
        for (owner, group) in &side.groups {
            let of = table.connections.iter().filter(|(_, one)| one.owner == *owner);
            let ages: BTreeSet<Candidate> =
                of.clone().filter_map(|(id, one)| one.age().map(|age| (age, *id))).collect();
            prop_assert_eq!((of.count(), &ages), (group.count, &group.candidates));
            match owner {
                ConnectionOwner::Address(_) => prop_assert!(group.count <= limits.per_address),
                ConnectionOwner::Party(_) => prop_assert!(group.count <= limits.per_party),
                ConnectionOwner::Shared => {}
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_limit_is_exceeded_and_nothing_is_left_behind(
        (total, per_address, per_party) in (1..20usize, 1..8usize, 1..8usize),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut table = ConnectionTable::new(ConnectionLimits::new(total, per_address, per_party));
        let begun = Instant::now();
        for (n, step) in steps.into_iter().enumerate() {
            let now = begun + Duration::from_millis(300) * n as u32;
            let mut ids: Vec<ConnectionId> = table.connections.keys().copied().collect();
            ids.sort_unstable();
            let one = |at: usize| ids.get(at % ids.len().max(1)).copied().unwrap_or(u64::MAX);
            let before: HashMap<ConnectionId, (ConnectionOwner, bool, Instant)> = table
                .connections
                .iter()
                .map(|(id, one)| (*id, (one.owner.clone(), one.in_flight, one.since)))
                .collect();
            let gone = match step {
                Step::Insert(from) => {
                    let gone = table.insert(n as u64, address(from), now);
                    // A newcomer always gets in.
                    prop_assert!(table.connections.contains_key(&(n as u64)));
                    gone
                }
                Step::Rename(at, to) => table.rename(one(at), address(to)),
                Step::InFlight(at, on) => {
                    table.set_in_flight(one(at), on, now);
                    None
                }
                Step::Party(at, to) => match table.authenticate(one(at), party(to), now) {
                    ConnectionAdmission::Admitted(gone) => gone,
                    ConnectionAdmission::Refused => None,
                },
                Step::Shared(at) => match table.authenticate(one(at), ConnectionOwner::Shared, now) {
                    ConnectionAdmission::Admitted(gone) => gone,
                    ConnectionAdmission::Refused => None,
                },
                Step::End(at) => {
                    table.end(one(at));
                    None
                }
                Step::MakeRoom => table.make_room(),
            };
            check(&table)?;
            let Some(gone) = gone else { continue };
            prop_assert!(!table.connections.contains_key(&gone.id));
            let (owner, in_flight, since) = &before[&gone.id];
            if *in_flight {
                prop_assert!(matches!(owner, ConnectionOwner::Address(_)), "who has authenticated keeps it");
                // All that its address has without a request are younger by what a request counts.
                for (other, in_flight, idle_since) in before.values() {
                    if other == owner && !in_flight {
                        prop_assert!(*idle_since >= *since + IN_FLIGHT_ALLOWANCE);
                    }
                }
            }
        }
        let ids: Vec<ConnectionId> = table.connections.keys().copied().collect();
        for id in ids {
            table.end(id);
        }
        for side in [&table.unauthenticated, &table.authenticated] {
            prop_assert!(side.count == 0 && side.groups.is_empty() && side.ranks.is_empty());
        }
    }
}
