//! The hash chain of the audit log: what the hash of an entry covers, and how a chain is verified.
//!
//! The database computes hashes when entries are inserted (`migrations/0027_audit_chain.sql`); this is the
//! other, independent computation. The hash function is an argument.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::AuditAction;

/// Values of an entry that an erasure may mask: actor, subject, phone, reason, details.
pub const MASKABLE_VALUES: usize = 5;
/// Faults that a report keeps; further ones are only counted.
const MAX_REPORTED_FAULTS: usize = 20;
/// What every masked phone number contains.
const MASK: &str = "**";
/// Maximum number of different masks that a verification remembers.
const MAX_MASKS: usize = 100_000;
/// Microseconds from the Unix epoch to 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH_MICROS: i128 = 946_684_800_000_000;
/// Tolerance between clocks.
const CLOCK_TOLERANCE: time::Duration = time::Duration::minutes(5);

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// A place in the chain: what `audit head` prints, to be kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// Counts from 1.
    pub seq: i64,
    /// The hash of that entry.
    pub hash: Vec<u8>,
    /// The time of that entry.
    pub at: OffsetDateTime,
}

/// A value that may be masked.
#[derive(Clone, Debug, Default)]
pub struct MaskableValue {
    /// As stored now.
    pub value: Option<String>,
    /// `None` after an erasure has masked the value.
    pub salt: Option<Uuid>,
    /// `sha256(salt || value)`.
    pub commitment: Vec<u8>,
}

/// An entry as it is stored.
#[derive(Clone, Debug)]
pub struct ChainEntry {
    /// Its place.
    pub seq: i64,
    /// The hash of the entry before it, as stored with it.
    pub previous: Vec<u8>,
    /// Its own hash.
    pub hash: Vec<u8>,
    /// Its id.
    pub id: Uuid,
    /// Its time.
    pub at: OffsetDateTime,
    /// `actor_kind`.
    pub actor_kind: String,
    /// `actor_name`.
    pub actor_name: Option<String>,
    /// `token_id`.
    pub token: Option<Uuid>,
    /// `action`.
    pub action: String,
    /// `subject_kind`.
    pub subject_kind: String,
    /// `request_id`.
    pub request: Option<String>,
    /// `outcome`.
    pub outcome: String,
    /// `peer`, without a netmask.
    pub peer: Option<String>,
    /// Those that an erasure may mask.
    pub maskable: [MaskableValue; MASKABLE_VALUES],
    /// The digest of its phones; `None` for entries that an older version wrote.
    pub phones_digest: Option<Vec<u8>>,
    /// The digest of the phones that are stored now.
    pub stored_phones_digest: Vec<u8>,
}

/// One fault of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainFault {
    /// A value differs from what the hash covers.
    Altered {
        /// The entry.
        seq: i64,
    },
    /// The entry does not follow the one before it.
    NotLinked {
        /// The entry.
        seq: i64,
    },
    /// Entries are missing.
    Missing {
        /// The first.
        from: i64,
        /// The last.
        to: i64,
    },
    /// The newest entry is not the one that the head names.
    WrongHead {
        /// The newest entry.
        seq: i64,
    },
    /// Entries that were added beside the chain.
    Outside {
        /// How many.
        count: i64,
    },
    /// The chain does not contain the head that was kept elsewhere.
    NotContained {
        /// The place of that head.
        seq: i64,
    },
}

impl ChainFault {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            ChainFault::Altered { .. } => "altered",
            ChainFault::NotLinked { .. } => "not_linked",
            ChainFault::Missing { .. } => "missing",
            ChainFault::WrongHead { .. } => "wrong_head",
            ChainFault::Outside { .. } => "outside",
            ChainFault::NotContained { .. } => "not_contained",
        }
    }

    /// What it means, in words.
    pub fn sentence(self) -> String {
        match self {
            ChainFault::Altered { seq } => format!("entry {seq} was altered"),
            ChainFault::NotLinked { seq } => {
                format!("entry {seq} does not follow the entry before it")
            }
            ChainFault::Missing { from, to } if from == to => format!("entry {from} is missing"),
            ChainFault::Missing { from, to } => format!("entries {from} to {to} are missing"),
            ChainFault::WrongHead { seq } => {
                format!("the newest entry {seq} is not the one that the head names")
            }
            ChainFault::Outside { count } => format!("{count} entries are outside the chain"),
            ChainFault::NotContained { seq } => {
                format!("entry {seq} of the given head is not in the chain")
            }
        }
    }
}

/// What became of the entry of a head that was kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadState {
    /// The chain contains it.
    Contained,
    /// Retention has deleted it.
    Expired,
    /// Neither.
    Absent,
}

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainReport {
    /// Place and time of the oldest entry.
    pub first: Option<(i64, OffsetDateTime)>,
    /// Place and time of the newest entry.
    pub last: Option<(i64, OffsetDateTime)>,
    /// Verified entries.
    pub entries: u64,
    /// Of those, entries with a value that an erasure has masked.
    pub masked: u64,
    /// The first faults.
    pub faults: Vec<ChainFault>,
    /// All faults.
    pub fault_count: u64,
    /// What became of the head that was kept elsewhere.
    pub known_head: Option<HeadState>,
}

/// What surrounds the entries.
#[derive(Clone, Copy, Debug)]
pub struct ChainBounds<'a> {
    /// The newest entry, as the database names it.
    pub head: &'a ChainHead,
    /// When the chain began.
    pub began_at: OffsetDateTime,
    /// Entries older than this may have been deleted by retention.
    pub expires_before: OffsetDateTime,
    /// Entries without a place, though written after the chain began.
    pub outside: i64,
    /// A head that was kept elsewhere.
    pub known: Option<&'a ChainHead>,
}

/// When entries without a place are not older than the chain.
pub fn outside_after(began_at: OffsetDateTime) -> OffsetDateTime {
    began_at + CLOCK_TOLERANCE
}

/// Verifies entries, which must come in the order of their places.
pub struct ChainVerifier<'a, H> {
    hash: H,
    bounds: ChainBounds<'a>,
    previous: Option<(i64, Vec<u8>)>,
    is_known_found: bool,
    /// The masks of numbers that an entry of the chain says were erased.
    erased: BTreeSet<String>,
    /// The masks in masked values, each with the first entry that has it.
    masks: BTreeMap<String, i64>,
    report: ChainReport,
}

impl<'a, H: Fn(&[u8]) -> Hash> ChainVerifier<'a, H> {
    /// Begins.
    pub fn new(bounds: ChainBounds<'a>, hash: H) -> ChainVerifier<'a, H> {
        let report = ChainReport {
            first: None,
            last: None,
            entries: 0,
            masked: 0,
            faults: Vec::new(),
            fault_count: 0,
            known_head: None,
        };
        ChainVerifier {
            hash,
            bounds,
            previous: None,
            is_known_found: false,
            erased: BTreeSet::new(),
            masks: BTreeMap::new(),
            report,
        }
    }

    fn fault(&mut self, fault: ChainFault) {
        self.report.fault_count += 1;
        if self.report.faults.len() < MAX_REPORTED_FAULTS {
            self.report.faults.push(fault);
        }
    }

    /// The next entry.
    pub fn add(&mut self, entry: &ChainEntry) {
        let seq = entry.seq;
        match self.previous.take() {
            Some((before, _)) if seq > before + 1 => {
                self.fault(ChainFault::Missing { from: before + 1, to: seq - 1 });
            }
            Some((_, hash)) if hash != entry.previous => self.fault(ChainFault::NotLinked { seq }),
            _ => {}
        }
        if !self.is_intact(entry) {
            self.fault(ChainFault::Altered { seq });
        }
        self.note_masks(entry);
        self.report.masked += u64::from(entry.maskable.iter().any(|value| value.salt.is_none()));
        self.report.first.get_or_insert((seq, entry.at));
        self.report.last = Some((seq, entry.at));
        self.report.entries += 1;
        if self.bounds.known.is_some_and(|known| known.seq == seq && known.hash == entry.hash) {
            self.is_known_found = true;
        }
        self.previous = Some((seq, entry.hash.clone()));
    }

    /// Only an erasure masks a value, and its own entry names the mask.
    fn note_masks(&mut self, entry: &ChainEntry) {
        let is_erasure = entry.action == AuditAction::MobileErase.name();
        for value in &entry.maskable {
            let text = value.value.as_deref().unwrap_or_default();
            match value.salt {
                Some(_) if is_erasure && self.erased.len() < MAX_MASKS => {
                    self.erased.extend(masks_in(text).map(str::to_owned));
                }
                None if self.masks.len() < MAX_MASKS => {
                    for mask in masks_in(text) {
                        self.masks.entry(mask.to_owned()).or_insert(entry.seq);
                    }
                }
                _ => {}
            }
        }
    }

    fn is_intact(&self, entry: &ChainEntry) -> bool {
        let phones = entry.phones_digest.as_ref();
        phones.is_none_or(|digest| *digest == entry.stored_phones_digest)
            && entry.maskable.iter().enumerate().all(|(n, value)| self.is_committed(n, value))
            && (self.hash)(&encoded(entry)).as_slice() == entry.hash
    }

    fn is_committed(&self, n: usize, value: &MaskableValue) -> bool {
        const PHONE: usize = 2;
        let text = value.value.as_deref();
        let Some(salt) = value.salt else {
            // An erasure masks numbers within texts, and removes the phone.
            return if n == PHONE {
                text.is_none()
            } else {
                text.is_some_and(|text| text.contains(MASK))
            };
        };
        let mut bytes = salt.as_bytes().to_vec();
        append(&mut bytes, text.map(str::as_bytes));
        (self.hash)(&bytes).as_slice() == value.commitment
    }

    /// The result, after the last entry.
    pub fn finish(mut self) -> ChainReport {
        let ChainBounds { head, began_at, expires_before, outside, known } = self.bounds;
        let erased = std::mem::take(&mut self.erased);
        let unexplained = std::mem::take(&mut self.masks).into_iter();
        let altered: BTreeSet<i64> =
            unexplained.filter(|(mask, _)| !erased.contains(mask)).map(|(_, seq)| seq).collect();
        altered.into_iter().for_each(|seq| self.fault(ChainFault::Altered { seq }));
        if let Some((first, _)) = self.report.first.filter(|(first, _)| *first > 1)
            && began_at >= expires_before
        {
            // Nothing in the chain is old enough for retention.
            self.fault(ChainFault::Missing { from: 1, to: first - 1 });
        }
        match self.previous.take() {
            Some((last, _)) if last < head.seq => {
                self.fault(ChainFault::Missing { from: last + 1, to: head.seq });
            }
            Some((last, hash)) if last > head.seq || hash != head.hash => {
                self.fault(ChainFault::WrongHead { seq: last });
            }
            None if head.seq > 0 && head.at >= expires_before => {
                self.fault(ChainFault::Missing { from: 1, to: head.seq });
            }
            _ => {}
        }
        if outside > 0 {
            self.fault(ChainFault::Outside { count: outside });
        }
        if let Some(known) = known {
            let is_before = self.report.first.is_none_or(|(first, _)| known.seq < first);
            let state = if self.is_known_found {
                HeadState::Contained
            } else if is_before && known.seq <= head.seq && known.at < expires_before {
                HeadState::Expired
            } else {
                HeadState::Absent
            };
            // Nothing was written yet.
            let state = if known.seq == 0 { HeadState::Contained } else { state };
            if state == HeadState::Absent {
                self.fault(ChainFault::NotContained { seq: known.seq });
            }
            self.report.known_head = Some(state);
        }
        self.report
    }
}

/// The masked phone numbers in a text.
fn masks_in(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit() && c != '+' && c != '*')
        .filter(|word| word.starts_with('+') && word.contains(MASK))
}

/// Appends the length and the bytes of a field; the length of an absent one is -1.
fn append(bytes: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(field) => {
            let length = i32::try_from(field.len()).unwrap_or(i32::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(field);
        }
        None => bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

/// What the hash of an entry covers.
fn encoded(entry: &ChainEntry) -> Vec<u8> {
    let mut bytes = entry.seq.to_be_bytes().to_vec();
    bytes.extend_from_slice(&entry.previous);
    let micros = entry.at.unix_timestamp_nanos().div_euclid(1000) - POSTGRES_EPOCH_MICROS;
    let at = i64::try_from(micros).unwrap_or_default().to_be_bytes();
    let fields = [
        Some(entry.id.as_bytes().as_slice()),
        Some(at.as_slice()),
        Some(entry.actor_kind.as_bytes()),
        entry.actor_name.as_deref().map(str::as_bytes),
        entry.token.as_ref().map(|token| token.as_bytes().as_slice()),
        Some(entry.action.as_bytes()),
        Some(entry.subject_kind.as_bytes()),
        entry.request.as_deref().map(str::as_bytes),
        Some(entry.outcome.as_bytes()),
        entry.peer.as_deref().map(str::as_bytes),
        entry.phones_digest.as_deref(),
    ];
    for field in fields {
        append(&mut bytes, field);
    }
    for value in &entry.maskable {
        append(&mut bytes, Some(&value.commitment));
    }
    bytes
}

#[cfg(test)]
mod tests;
