//! Pages of lists. A list statement scans a bounded number of rows: if few of them match the filter, a page
//! has fewer items than the limit, or none, and the list continues after the last scanned row.

use time::OffsetDateTime;
use uuid::Uuid;

/// [`MAX_SCANNED_ROWS`] as an SQL literal.
macro_rules! max_scanned_rows {
    () => {
        "10000"
    };
}
pub(super) use max_scanned_rows;

/// Rows that a list statement scans at most.
pub const MAX_SCANNED_ROWS: usize = 10_000;

/// A page of a list.
#[derive(Clone, Debug)]
pub struct ListPage<T> {
    /// At most as many items as the limit.
    pub items: Vec<T>,
    /// The last scanned row, if the scan ended before the list and the page is not full.
    pub cut: Option<ScanPosition>,
}

/// A row up to which a list was scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanPosition {
    /// Its time, if the list is ordered by time.
    pub at: Option<OffsetDateTime>,
    pub id: Uuid,
}

impl<T> ListPage<T> {
    /// A page and the end of its scan. Rows may have been inserted in front between the two statements; items
    /// after the scan position are then left to the next page.
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
