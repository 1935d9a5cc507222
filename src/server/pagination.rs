//! Pages of lists with a maximum number of bytes: clients decide how long items are, and a control character
//! takes six bytes in JSON.

use std::io;

use serde::Serialize;

use crate::domain::message::MAX_PAGE_BYTES;

/// Bytes of a JSON page with more than one item. Equal to what the store reads for a page, so that a page for
/// which not all was read is one that is cut.
pub const MAX_PAGE_LEN: usize = MAX_PAGE_BYTES;
/// The same while the budget has no room for a page of the largest size.
pub const MIN_PAGE_LEN: usize = 16 * 1024;

/// A JSON list of at most `room` bytes, or of the first item alone if that is longer. Returns the list and how
/// many items it has.
pub fn list<'a, T, V: Serialize>(
    found: &'a [T],
    room: usize,
    view: impl Fn(&'a T) -> V,
) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let shown = write(&mut out, found, room, view);
    (out, shown)
}

/// A page as a response. `next` points behind the last item if there is `more` or not all items fit.
pub fn page<'a, T, V: Serialize, C: Serialize>(
    found: &'a [T],
    more: bool,
    room: usize,
    view: impl Fn(&'a T) -> V,
    cursor: impl Fn(&'a T) -> C,
) -> Vec<u8> {
    page_behind(found, more, None, room, view, cursor)
}

/// The same for a list that continues at `behind` when all items are shown and there is no `more`.
pub fn page_behind<'a, T, V: Serialize, C: Serialize>(
    found: &'a [T],
    more: bool,
    behind: Option<C>,
    room: usize,
    view: impl Fn(&'a T) -> V,
    cursor: impl Fn(&'a T) -> C,
) -> Vec<u8> {
    let mut out = b"{\"items\":".to_vec();
    let shown = write(&mut out, found, room, view);
    let last = shown.checked_sub(1).and_then(|last| found.get(last));
    let next = last.filter(|_| more || shown < found.len()).map(cursor);
    end(out, next.or(behind))
}

/// A page of items that are serialized already, with its `next`.
pub fn written<C: Serialize>(items: &[u8], next: Option<C>) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() + 64);
    out.extend_from_slice(b"{\"items\":");
    out.extend_from_slice(items);
    end(out, next)
}

fn end<C: Serialize>(mut out: Vec<u8>, next: Option<C>) -> Vec<u8> {
    out.extend_from_slice(b",\"next\":");
    put(&mut out, &next);
    out.push(b'}');
    exact(out)
}

/// The same bytes without spare capacity: they may stay until the client has read them. Shrinking in place
/// would leave an allocation of up to twice their length.
fn exact(out: Vec<u8>) -> Vec<u8> {
    if out.capacity() > out.len() + out.len() / 8 { out.as_slice().to_vec() } else { out }
}

fn write<'a, T, V: Serialize>(
    out: &mut Vec<u8>,
    found: &'a [T],
    room: usize,
    view: impl Fn(&'a T) -> V,
) -> usize {
    let begun = out.len();
    out.push(b'[');
    let mut shown = 0;
    for one in found {
        let before = out.len();
        if shown > 0 {
            out.push(b',');
        }
        put(out, &view(one));
        if shown > 0 && out.len() - begun >= room {
            out.truncate(before);
            break;
        }
        shown += 1;
    }
    out.push(b']');
    shown
}

/// Texts, numbers and times in memory: cannot fail.
fn put<V: Serialize>(out: &mut Vec<u8>, value: &V) {
    if let Err(error) = serde_json::to_writer(out, value) {
        tracing::error!(%error, "cannot serialize a response");
    }
}

/// How many of these items fit into a JSON list of `room` bytes; at least one, if there is one.
pub fn fitting<V: Serialize>(views: impl IntoIterator<Item = V>, room: usize) -> usize {
    // Every item has a comma or a bracket behind it; one bracket remains.
    fitting_lengths(views.into_iter().map(|view| json_length(&view)), room.saturating_sub(1))
}

/// How many items of these lengths fit into `bytes`; at least one, if there is one.
pub fn fitting_lengths(lengths: impl IntoIterator<Item = usize>, bytes: usize) -> usize {
    let (mut used, mut fits) = (0_usize, 0);
    for length in lengths {
        // Includes a separator.
        used = used.saturating_add(length).saturating_add(1);
        if fits > 0 && used > bytes {
            break;
        }
        fits += 1;
    }
    fits
}

/// The length of a value as JSON, without allocating it. 0 if it cannot be serialized.
pub fn json_length<V: Serialize + ?Sized>(value: &V) -> usize {
    struct Counted(usize);
    impl io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, value).map_or(0, |()| counted.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(page: &[u8]) -> (Vec<String>, Value) {
        let mut page: Value = serde_json::from_slice(page).unwrap();
        (serde_json::from_value(page["items"].take()).unwrap(), page["next"].take())
    }

    #[test]
    fn a_page_has_one_item_at_least_and_none_if_there_is_none() {
        let none: [String; 0] = [];
        assert_eq!(
            page(&none, false, MIN_PAGE_LEN, |text| text, |_| 1),
            b"{\"items\":[],\"next\":null}"
        );
        let long = ["\u{1}".repeat(10_000), "short".to_owned()];
        let (items, next) = read(&page(&long, false, MIN_PAGE_LEN, |text| text, |text| text.len()));
        assert_eq!((items.len(), next), (1, json!(10_000)));
        assert_eq!(fitting(&long, MIN_PAGE_LEN), 1);
        assert_eq!(fitting(&long, MAX_PAGE_LEN), 2);
        let (items, next) = read(&written(&list(&long, MAX_PAGE_LEN, |text| text).0, Some("x")));
        assert_eq!((items.len(), next), (2, json!("x")));
    }

    #[test]
    fn a_page_has_one_item_whatever_its_length() {
        assert_eq!(fitting_lengths([], 10), 0);
        assert_eq!(fitting_lengths([1000, 1], 10), 1);
        assert_eq!(fitting_lengths([4, 4, 4], 10), 2);
        assert_eq!(fitting_lengths([4, 4, usize::MAX, 1], 10), 2);
        assert_eq!(fitting_lengths([0, 0, 0], 3), 3);
    }

    proptest! {
        #[test]
        fn a_length_is_that_of_what_is_written(text in "\\PC{0,20}|[\u{1}-\u{1f}\"\\\\]{0,20}") {
            prop_assert_eq!(json_length(&text), serde_json::to_vec(&text).unwrap().len());
        }

        // Property: paging through any list gives each item once and in order, and no page is longer than its
        // room unless it has one item.
        #[test]
        fn pages_come_to_each_item_once(
            texts in proptest::collection::vec("[a\u{1}\"é\u{10348}]{0,300}", 0..40),
            room in 64usize..20_000,
            more: bool,
        ) {
            let items: Vec<(usize, String)> = texts.into_iter().enumerate().collect();
            let (mut from, mut seen) = (0, Vec::new());
            loop {
                let rest = &items[from..];
                let page = page(rest, more, room, |(_, text)| text, |(at, _)| *at);
                let (shown, next) = read(&page);
                prop_assert!(rest.is_empty() || !shown.is_empty());
                let (text, count) = list(rest, room, |(_, text)| text);
                prop_assert_eq!(count, shown.len());
                prop_assert!(text.len() <= room || count == 1, "{} bytes", text.len());
                prop_assert_eq!(fitting(rest.iter().map(|(_, text)| text), room), count);
                seen.extend(shown);
                let Some(last) = next.as_u64() else { break };
                from = last as usize + 1;
                if from == items.len() {
                    prop_assert!(more);
                    break;
                }
            }
            prop_assert_eq!(seen, items.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
        }
    }
}
