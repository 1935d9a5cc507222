//! How much of a list one answer holds, by the bytes that it takes as it is written: a text of control
//! characters or quotes is several times as long in JSON as it is stored.

use std::io;

use serde::Serialize;

/// The most bytes of a list in one answer or in one call of a client.
pub const PAGE_BYTES: usize = 256 * 1024;

/// How many of the items with these lengths fit in so many bytes, from the first on. At least one, so
/// that a list always goes on behind its longest item.
pub fn fitting(lengths: impl IntoIterator<Item = usize>, bytes: usize) -> usize {
    let mut used = 0_usize;
    let mut count = 0;
    for length in lengths {
        // A separator stands between two.
        used = used.saturating_add(length).saturating_add(1);
        if count > 0 && used > bytes {
            break;
        }
        count += 1;
    }
    count
}

/// The same for values that are to be written as JSON.
pub fn fitting_json<T: Serialize>(values: impl IntoIterator<Item = T>, bytes: usize) -> usize {
    fitting(values.into_iter().map(|value| json_len(&value)), bytes)
}

/// Values as a JSON list, as far as they fit: the list, and how many it has. Each is written once.
pub fn json_list<T: Serialize>(
    values: impl IntoIterator<Item = T>,
    bytes: usize,
) -> (Vec<u8>, usize) {
    let mut list = vec![b'['];
    let mut count = 0;
    for value in values {
        let before = list.len();
        if count > 0 {
            list.push(b',');
        }
        let written = serde_json::to_writer(&mut list, &value).is_ok();
        if !written || count > 0 && list.len() > bytes {
            list.truncate(before);
            break;
        }
        count += 1;
    }
    list.push(b']');
    (list, count)
}

/// How long a value is as JSON, without writing it anywhere. What cannot be written has no length.
pub fn json_len<T: Serialize + ?Sized>(value: &T) -> usize {
    let mut counted = Counted(0);
    match serde_json::to_writer(&mut counted, value) {
        Ok(()) => counted.0,
        Err(_) => 0,
    }
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_has_one_item_whatever_its_length() {
        assert_eq!(fitting([], 10), 0);
        assert_eq!(fitting([1000, 1], 10), 1);
        assert_eq!(fitting([4, 4, 4], 10), 2);
        assert_eq!(fitting([4, 4, usize::MAX, 1], 10), 2);
        assert_eq!(fitting([0, 0, 0], 3), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_fits_is_no_longer_than_the_limit(
            texts in prop::collection::vec("\\PC{0,20}|[\u{1}-\u{1f}\"\\\\]{0,20}", 1..20),
            bytes in 1_usize..400,
        ) {
            for text in &texts {
                prop_assert_eq!(json_len(text), serde_json::to_vec(text).unwrap().len());
            }
            let count = fitting_json(&texts, bytes);
            prop_assert!((1..=texts.len()).contains(&count));
            let list = |count: usize| serde_json::to_vec(&texts[..count]).unwrap().len();
            // One bracket is the last item's separator; the other is the list's own.
            prop_assert!(count == 1 || list(count) <= bytes + 1);
            prop_assert!(count == texts.len() || list(count + 1) > bytes + 1);
            let (written, listed) = json_list(&texts, bytes);
            prop_assert_eq!(&written, &serde_json::to_vec(&texts[..listed]).unwrap());
            prop_assert_eq!(listed, count);
        }
    }
}
