//! Filters and sorts the rows of the lists.

use std::cmp::Ordering;

use super::panel::Panel;
use crate::{
    server::view::stats::{NodeView, SlowView},
    store::dead_letters::DeadLetter,
};

/// The sort column of a list; unsorted until a key is pressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) by: Option<char>,
    /// Whether it was pressed again.
    pub(super) reversed: bool,
}

/// The keys of a list, and the columns they sort by.
pub(super) fn keys(panel: Panel) -> &'static [(char, &'static str)] {
    match panel {
        Panel::Letters => &[('A', "AGE"), ('C', "CLASS"), ('T', "TO"), ('R', "REASON")],
        Panel::Recipients => {
            &[('N', "RECIPIENT"), ('O', "OLDEST"), ('R', "RETRY"), ('F', "FLIGHT")]
        }
        Panel::Nodes => &[
            ('N', "NODE"),
            ('C', "CONNS"),
            ('A', "ACC/S"),
            ('D', "DEL/S"),
            ('M', "MEMORY"),
            ('U', "UP"),
        ],
        Panel::Flow | Panel::Lanes | Panel::Parts => &[],
    }
}

impl Sort {
    /// Handles a key: sorts by its column, then in reverse, then not at all. A key without a column of the
    /// list changes nothing.
    pub(super) fn press(&mut self, panel: Panel, key: char) {
        if keys(panel).iter().all(|(known, _)| *known != key) {
            return;
        }
        *self = match self {
            Sort { by: Some(by), reversed: false } if *by == key => {
                Sort { by: Some(key), reversed: true }
            }
            Sort { by: Some(by), reversed: true } if *by == key => Sort::default(),
            _ => Sort { by: Some(key), reversed: false },
        };
    }

    fn order<T>(self, items: &mut [&T], compare: impl Fn(char, &T, &T) -> Ordering) {
        let Some(key) = self.by else { return };
        items.sort_by(|one, other| {
            let order = compare(key, one, other);
            if self.reversed { order.reverse() } else { order }
        });
    }
}

fn passes(filter: &str, fields: &[&str]) -> bool {
    let wanted = filter.trim().to_lowercase();
    wanted.is_empty() || fields.iter().any(|field| field.to_lowercase().contains(&wanted))
}

pub(super) fn letters<'a>(
    all: impl Iterator<Item = &'a DeadLetter>,
    filter: &str,
    sort: &Sort,
) -> Vec<&'a DeadLetter> {
    let mut shown: Vec<&DeadLetter> = all
        .filter(|letter| {
            let message = letter.message.map_or_else(String::new, |id| id.to_string());
            let to = letter.to.as_ref().map_or("", |phone| phone.as_str());
            let named = [to, &letter.from, letter.class.name(), &letter.kind, &letter.reason];
            passes(filter, &named) || passes(filter, &[&letter.id.to_string(), &message])
        })
        .collect();
    sort.order(&mut shown, |key, one, other| match key {
        'C' => one.class.name().cmp(other.class.name()),
        'T' => one.to.cmp(&other.to),
        'R' => one.reason.cmp(&other.reason),
        // Oldest first; they come newest first.
        _ => one.last_error_at.cmp(&other.last_error_at),
    });
    shown
}

pub(super) fn recipients<'a>(
    all: impl Iterator<Item = &'a SlowView>,
    filter: &str,
    sort: &Sort,
) -> Vec<&'a SlowView> {
    let mut shown: Vec<&SlowView> = all
        .filter(|slow| passes(filter, &[&slow.recipient, &slow.oldest_message_id.to_string()]))
        .collect();
    sort.order(&mut shown, |key, one, other| match key {
        'N' => one.recipient.cmp(&other.recipient),
        'R' => other.retries.cmp(&one.retries),
        'F' => other.in_hand.cmp(&one.in_hand),
        _ => one.oldest_at.cmp(&other.oldest_at),
    });
    shown
}

pub(super) fn nodes<'a>(
    all: impl Iterator<Item = &'a NodeView>,
    filter: &str,
    sort: &Sort,
) -> Vec<&'a NodeView> {
    let mut shown: Vec<&NodeView> = all
        .filter(|node| {
            let pid = node.pid.to_string();
            let address = node.address.as_deref().unwrap_or_default();
            passes(filter, &[&node.host, &node.role, &node.id, &pid, address])
        })
        .collect();
    sort.order(&mut shown, |key, one, other| match key {
        'C' => other.connections.cmp(&one.connections),
        'A' => other.per_second.accepted.total_cmp(&one.per_second.accepted),
        'D' => other.per_second.delivered.total_cmp(&one.per_second.delivered),
        'M' => other.memory_bytes.cmp(&one.memory_bytes),
        'U' => one.started_at.cmp(&other.started_at),
        _ => (&one.host, one.pid).cmp(&(&other.host, other.pid)),
    });
    shown
}
