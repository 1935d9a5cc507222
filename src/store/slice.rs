//! Parts of lists. A statement that lists looks at a bounded number of rows, whatever is asked of them: where few of
//! many match a filter, a part has fewer items than wanted, or none, and the list goes on behind what was looked at.

use time::OffsetDateTime;
use uuid::Uuid;

/// Rows that one statement looks at, as the text of SQL; the same number as [`LOOKED_AT`].
macro_rules! looked_at {
    () => {
        "10000"
    };
}
pub(super) use looked_at;

/// Rows that one statement looks at.
pub const LOOKED_AT: usize = 10_000;

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Slice<T> {
    /// What was found, as many as were wanted or fewer.
    pub items: Vec<T>,
    /// The last row that was looked at, when there may be more behind it although fewer were found than wanted.
    pub cut: Option<Cut>,
}

/// A row up to which a list was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Its time, of a list that is ordered by one.
    pub at: Option<OffsetDateTime>,
    /// Its id.
    pub id: Uuid,
}

impl<T> Slice<T> {
    /// What was found and where that was cut. Between the two statements rows may have come in front, and then what was
    /// found reaches further than the cut: the next part gives that.
    pub(super) fn new(
        mut items: Vec<T>,
        cut: Option<Cut>,
        is_behind: impl Fn(&T, &Cut) -> bool,
    ) -> Slice<T> {
        if let Some(cut) = &cut {
            items.retain(|item| !is_behind(item, cut));
        }
        Slice { items, cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_and_the_number_are_the_same() {
        assert_eq!(looked_at!().parse(), Ok(LOOKED_AT));
    }

    #[test]
    fn what_lies_behind_the_cut_is_left_to_the_next_part() {
        let cut = Some(Cut { at: None, id: Uuid::from_u128(5) });
        let behind = |item: &u128, cut: &Cut| Uuid::from_u128(*item) < cut.id;
        assert_eq!(Slice::new(vec![7, 5, 4], cut, behind).items, [7, 5]);
        assert_eq!(Slice::new(vec![7, 5, 4], None, behind).items, [7, 5, 4]);
    }
}
