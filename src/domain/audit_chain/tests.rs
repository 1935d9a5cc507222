//! A chain as the database builds it, and every way to falsify it.

use super::*;

fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    hash
}

fn time(seq: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000 + seq)
}

fn committed(value: Option<&str>) -> MaskableValue {
    let salt = Uuid::from_u128(7);
    let mut bytes = salt.as_bytes().to_vec();
    append(&mut bytes, value.map(str::as_bytes));
    let commitment = sha256(&bytes).to_vec();
    MaskableValue { value: value.map(str::to_owned), salt: Some(salt), commitment }
}

fn chain(length: i64) -> Vec<ChainEntry> {
    let mut previous = sha256(b"").to_vec();
    (1..=length)
        .map(|seq| {
            let values = [Some("ali@host"), None, Some("+967771234567"), Some("why"), Some("{}")];
            let mut entry = ChainEntry {
                seq,
                previous: previous.clone(),
                hash: Vec::new(),
                id: Uuid::from_u128(seq.unsigned_abs().into()),
                at: time(seq),
                actor_kind: "command".to_owned(),
                actor_name: None,
                token: None,
                action: "message.show".to_owned(),
                subject_kind: "message".to_owned(),
                request: None,
                outcome: "done".to_owned(),
                peer: Some("10.0.0.1".to_owned()),
                maskable: values.map(committed),
                phones_digest: Some(sha256(b"phones").to_vec()),
                stored_phones_digest: sha256(b"phones").to_vec(),
            };
            entry.hash = sha256(&encoded(&entry)).to_vec();
            previous = entry.hash.clone();
            entry
        })
        .collect()
}

fn head_of(chain: &[ChainEntry]) -> ChainHead {
    let last = chain.last().unwrap();
    ChainHead { seq: last.seq, hash: last.hash.clone(), at: last.at }
}

fn verified(chain: &[ChainEntry], head: &ChainHead, known: Option<&ChainHead>) -> ChainReport {
    let bounds =
        ChainBounds { head, began_at: time(0), expires_before: time(3), outside: 0, known };
    let mut verifier = ChainVerifier::new(bounds, sha256);
    chain.iter().for_each(|entry| verifier.add(entry));
    verifier.finish()
}

#[test]
fn an_untouched_chain_is_valid_from_wherever_it_begins() {
    let chain = chain(9);
    let head = head_of(&chain);
    let whole = verified(&chain, &head, Some(&head));
    assert_eq!((whole.fault_count, whole.entries, whole.masked), (0, 9, 0));
    assert_eq!(whole.known_head, Some(HeadState::Contained));
    assert_eq!(whole.first, Some((1, time(1))));
    assert_eq!(whole.last, Some((9, time(9))));
    // Retention deletes from the beginning.
    let known = head_of(&chain[..2]);
    let rest = verified(&chain[4..], &head, Some(&known));
    assert_eq!((rest.fault_count, rest.known_head), (0, Some(HeadState::Expired)));
    assert_eq!(rest.first, Some((5, time(5))));
}

#[test]
fn every_alteration_is_found() {
    let intact = chain(5);
    let head = head_of(&intact);
    let changes: [fn(&mut ChainEntry); 11] = [
        |entry| entry.actor_kind.push('x'),
        |entry| entry.actor_name = Some(String::new()),
        |entry| entry.action = "message.list".to_owned(),
        |entry| entry.at += time::Duration::microseconds(1),
        |entry| entry.token = Some(Uuid::nil()),
        |entry| entry.outcome = "failed".to_owned(),
        |entry| entry.peer = None,
        |entry| entry.stored_phones_digest = sha256(b"").to_vec(),
        |entry| entry.maskable[0].value = Some("root@host".to_owned()),
        |entry| entry.maskable[3].value = None,
        // Without a salt only a mask may be there.
        |entry| {
            entry.maskable[0] = MaskableValue {
                salt: None,
                value: Some("root@host".to_owned()),
                ..entry.maskable[0].clone()
            };
        },
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut altered = intact.clone();
        change(&mut altered[2]);
        let report = verified(&altered, &head, None);
        assert_eq!(report.faults, [ChainFault::Altered { seq: 3 }], "change {n}");
    }
    // A hash that is computed anew breaks the link of the next entry.
    let mut forged = intact.clone();
    forged[2].action = "message.list".to_owned();
    forged[2].hash = sha256(&encoded(&forged[2])).to_vec();
    assert_eq!(verified(&forged, &head, None).faults, [ChainFault::NotLinked { seq: 4 }]);
}

#[test]
fn deleted_entries_are_found() {
    let chain = chain(5);
    let head = head_of(&chain);
    let mut gap = chain.clone();
    gap.remove(2);
    assert_eq!(verified(&gap, &head, None).faults, [ChainFault::Missing { from: 3, to: 3 }]);
    let report = verified(&chain[..3], &head, None);
    assert_eq!(report.faults, [ChainFault::Missing { from: 4, to: 5 }]);
    assert_eq!(verified(&[], &head, None).faults, [ChainFault::Missing { from: 1, to: 5 }]);
    // Nobody can tell from the database alone that its head was changed too.
    let cut = head_of(&chain[..3]);
    assert_eq!(verified(&chain[..3], &cut, None).fault_count, 0);
    let report = verified(&chain[..3], &cut, Some(&head));
    assert_eq!(report.faults, [ChainFault::NotContained { seq: 5 }]);
    let bounds = ChainBounds {
        head: &head,
        began_at: time(3),
        expires_before: time(3),
        outside: 0,
        known: None,
    };
    let mut young = ChainVerifier::new(bounds, sha256);
    chain[2..].iter().for_each(|entry| young.add(entry));
    assert_eq!(young.finish().faults, [ChainFault::Missing { from: 1, to: 2 }]);
    // An entry that is too young for retention was deleted by somebody else.
    let known = head_of(&chain[..3]);
    assert_eq!(verified(&chain[3..], &head, Some(&known)).known_head, Some(HeadState::Absent));
}

#[test]
fn a_masked_value_keeps_the_chain_valid() {
    let mut chain = chain(3);
    let erasure = &mut chain[2];
    erasure.action = "mobile.erase".to_owned();
    erasure.maskable[4] = committed(Some(r#"{"phone": "+967*******67"}"#));
    erasure.hash = sha256(&encoded(erasure)).to_vec();
    let head = head_of(&chain);
    chain[1].maskable[2] = MaskableValue {
        value: None,
        salt: None,
        commitment: chain[1].maskable[2].commitment.clone(),
    };
    chain[1].maskable[3].value = Some("for +967*******67".to_owned());
    chain[1].maskable[3].salt = None;
    let report = verified(&chain, &head, None);
    assert_eq!((report.fault_count, report.masked), (0, 1));
    // No entry says that this number was erased.
    chain[1].maskable[3].value = Some("for +967*******68".to_owned());
    let report = verified(&chain, &head, None);
    assert_eq!(report.faults, [ChainFault::Altered { seq: 2 }]);
}
