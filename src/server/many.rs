//! Lists in bodies that hold at most so many items. What comes after those is skipped, not kept: a body of
//! 24 MiB may else become a tree of thirty times its size.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::reply::Problem;
use crate::domain::message::MAX_BATCH_SIZE;

/// A list of at most [`MAX_BATCH_SIZE`] items.
#[derive(Debug)]
pub struct Many<T> {
    items: Vec<T>,
    is_over: bool,
}

impl<T> Default for Many<T> {
    fn default() -> Self {
        Many { items: Vec::new(), is_over: false }
    }
}

impl<T> Many<T> {
    /// The items.
    ///
    /// # Errors
    /// There is none, or there are too many; `name` is the field's.
    pub fn within(self, name: &'static str) -> Result<Vec<T>, Problem> {
        if self.items.is_empty() || self.is_over {
            let message = format!("{name} must contain 1 to {MAX_BATCH_SIZE} items");
            return Err(Problem::field(name, "out_of_range", message));
        }
        Ok(self.items)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = Many<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Many<T>, A::Error> {
                let mut many = Many::default();
                while many.items.len() < MAX_BATCH_SIZE {
                    let Some(item) = list.next_element()? else { return Ok(many) };
                    many.items.push(item);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    many.is_over = true;
                }
                Ok(many)
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// An item of at most `limit` bytes as a tree.
///
/// # Errors
/// It is larger.
pub fn tree(item: &RawValue, limit: usize) -> Result<serde_json::Value, Problem> {
    if item.get().len() > limit {
        let text = format!("item too large: at most {limit} bytes");
        return Err(Problem::new(http::StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", text));
    }
    serde_json::from_str(item.get()).map_err(|error| super::context::unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_as_many_items_as_it_may_hold() {
        let read = |count: usize| {
            let text = format!("[{}]", vec!["0"; count].join(","));
            serde_json::from_str::<Many<u8>>(&text).unwrap()
        };
        for (count, good) in [(0, false), (1, true), (500, true), (501, false), (100_000, false)] {
            let many = read(count);
            assert!(many.items.len() <= MAX_BATCH_SIZE);
            assert_eq!(many.within("items").is_ok(), good, "{count}");
        }
        assert!(serde_json::from_str::<Many<u8>>("{}").is_err());
        assert!(serde_json::from_str::<Many<u8>>("[0,").is_err());
    }
}
