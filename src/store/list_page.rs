//! Parts of lists. A statement that lists looks at a bounded number of rows, whatever is asked of them: where few of
//! many match a filter, a part has fewer items than wanted, or none, and the list goes on behind what was looked at.

use time::OffsetDateTime;
use uuid::Uuid;

/// Rows that one statement looks at, as the text of SQL; the same number as [`MAX_SCANNED_ROWS`].
macro_rules! max_scanned_rows {
    () => {
        "10000"
    };
}
pub(super) use max_scanned_rows;

/// Rows that one statement looks at.
pub const MAX_SCANNED_ROWS: usize = 10_000;

/// Part of a list.
#[derive(Clone, Debug)]
pub struct ListPage<T> {
    /// What was found, as many as were wanted or fewer.
    pub items: Vec<T>,
    /// The last row that was looked at, when there may be more behind it although fewer were found than wanted.
    pub cut: Option<ScanPosition>,
}

/// A row up to which a list was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanPosition {
    /// Its time, of a list that is ordered by one.
    pub at: Option<OffsetDateTime>,
    pub id: Uuid,
}

impl<T> ListPage<T> {
    /// What was found and where that was cut. Between the two statements rows may have come in front, and then what was
    /// found reaches further than the cut: the next part gives that.
    pub(super) fn new(
        mut items: Vec<T>,
        cut: Option<ScanPosition>,
        is_behind: impl Fn(&T, &ScanPosition) -> bool,
    ) -> ListPage<T> {
        if let Some(cut) = &cut {
            items.retain(|item| !is_behind(item, cut));
        }
        ListPage { items, cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_and_the_number_are_the_same() {
        assert_eq!(max_scanned_rows!().parse(), Ok(MAX_SCANNED_ROWS));
    }

    #[test]
    fn what_lies_behind_the_cut_is_left_to_the_next_part() {
        let cut = Some(ScanPosition { at: None, id: Uuid::from_u128(5) });
        let behind = |item: &u128, cut: &ScanPosition| Uuid::from_u128(*item) < cut.id;
        assert_eq!(ListPage::new(vec![7, 5, 4], cut, behind).items, [7, 5]);
        assert_eq!(ListPage::new(vec![7, 5, 4], None, behind).items, [7, 5, 4]);
    }
}
