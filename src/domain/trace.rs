//! Trace spans of sampled messages.
//!
//! The message id is the trace id, and determines whether the message is sampled: nothing has to travel with
//! it, and every process decides alike.

use time::OffsetDateTime;

use super::MessageId;

/// Which messages are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceSampler {
    /// Messages whose mixed id is below; `None` for all.
    below: Option<u64>,
}

impl TraceSampler {
    /// Samples a fraction of messages, 0 to 1. A larger fraction includes a smaller one.
    pub fn new(share: f64) -> TraceSampler {
        if share >= 1.0 {
            return TraceSampler { below: None };
        }
        // 2^64, and a cast that stops at both ends of the range.
        TraceSampler { below: Some((share * 18_446_744_073_709_551_616.0) as u64) }
    }

    /// Whether a message is sampled.
    pub fn takes(self, id: MessageId) -> bool {
        self.below.is_none_or(|below| mixed(id) < below)
    }
}

/// Mixes the bits of an id, whose first half is the time. Must never change, or processes of different
/// versions would sample different messages. (The finalizer of SplitMix64.)
fn mixed(id: MessageId) -> u64 {
    let (time, chance) = id.0.as_u64_pair();
    let mut z = time.rotate_left(32) ^ chance;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceStepKind {
    /// A request arrived, and its message was committed.
    Accept,
    /// It was routed to the process that has the recipient's connections.
    HandOver,
    /// From there until it was written to a connection.
    Write,
    /// From there until the acknowledgement was durable.
    Acknowledge,
    /// It was not acknowledged in time and is retried.
    Retry,
    /// It failed.
    DeadLetter,
}

impl TraceStepKind {
    /// The span name.
    pub const fn name(self) -> &'static str {
        match self {
            TraceStepKind::Accept => "accept",
            TraceStepKind::HandOver => "hand over",
            TraceStepKind::Write => "write",
            TraceStepKind::Acknowledge => "acknowledge",
            TraceStepKind::Retry => "retry",
            TraceStepKind::DeadLetter => "dead letter",
        }
    }
}

/// An attribute of a step. Never a phone number, never content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceAttribute {
    /// A name or an id.
    Text(String),
    /// A count, or milliseconds.
    Number(i64),
}

/// A step of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// Whose.
    pub message: MessageId,
    /// What.
    pub kind: TraceStepKind,
    /// From when.
    pub began: OffsetDateTime,
    /// Until when; never before `began`.
    pub ended: OffsetDateTime,
    /// What is known about it.
    pub facts: Vec<(&'static str, TraceAttribute)>,
    /// The sender's span, if the request named one.
    pub cause: Option<TraceParent>,
}

/// A span of the sender's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Of which trace.
    pub trace: u128,
    /// Which span.
    pub span: u64,
    /// Whether that trace is sampled.
    pub followed: bool,
}

impl TraceParent {
    /// Parses a `traceparent` header (W3C Trace Context); `None` if it is invalid.
    pub fn parse(header: &str) -> Option<TraceParent> {
        let mut parts = header.trim().split('-');
        let mut hex = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length)?;
            let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            part.bytes().all(lower).then_some(part)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // Later versions may append fields; version 00 must not.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(TraceParent { trace, span, followed: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn ids() -> impl Iterator<Item = MessageId> {
        // As they come in one process: a time that goes on, a counter, and the rest by chance.
        (0..100_000u64).map(|n| {
            let time = (0x0193_5f2a_0000u64 + n / 50) << 16 | 0x7000 | (n % 50);
            let chance = 0x8000_0000_0000_0000 | n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2;
            MessageId(Uuid::from_u64_pair(time, chance))
        })
    }

    #[test]
    fn a_share_is_a_share_and_a_larger_one_has_the_smaller_in_it() {
        let (none, few, half, all) = (
            TraceSampler::new(0.0),
            TraceSampler::new(0.01),
            TraceSampler::new(0.5),
            TraceSampler::new(1.0),
        );
        let count = |sample: TraceSampler| ids().filter(|id| sample.takes(*id)).count();
        assert_eq!((count(none), count(all)), (0, 100_000));
        assert!((800..1200).contains(&count(few)), "{}", count(few));
        assert!((49_000..51_000).contains(&count(half)), "{}", count(half));
        assert!(ids().filter(|id| few.takes(*id)).all(|id| half.takes(id)));
    }

    #[test]
    fn which_messages_are_followed_is_the_same_in_every_version() {
        let id: MessageId = "01935f2a-8c4e-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        assert_eq!(mixed(id), 0x4f21_a93c_37f5_a4a5);
    }

    #[test]
    fn a_traceparent_is_read_and_what_is_none_is_not() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let cause = TraceParent::parse(good).unwrap();
        assert_eq!(cause.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((cause.span, cause.followed), (0x00f0_67aa_0ba9_02b7, true));
        assert!(!TraceParent::parse(&good.replace("-01", "-00")).unwrap().followed);
        assert!(TraceParent::parse(&format!("01{}-more", &good[2..])).is_some());
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
