//! Lists in JSON bodies with a maximum number of items. Items past it are skipped and not kept: a body of 24
//! MiB could become a tree of thirty times that size.

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
pub struct BoundedList<T> {
    items: Vec<T>,
    is_over: bool,
}

impl<T> Default for BoundedList<T> {
    fn default() -> Self {
        BoundedList { items: Vec::new(), is_over: false }
    }
}

impl<T> BoundedList<T> {
    /// # Errors
    /// The list is empty or too long; `name` is the field.
    pub fn within(self, name: &'static str) -> Result<Vec<T>, Problem> {
        if self.items.is_empty() || self.is_over {
            let message = format!("{name} must contain 1 to {MAX_BATCH_SIZE} items");
            return Err(Problem::field(name, "out_of_range", message));
        }
        Ok(self.items)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for BoundedList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = BoundedList<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<BoundedList<T>, A::Error> {
                let mut list = BoundedList::default();
                while list.items.len() < MAX_BATCH_SIZE {
                    let Some(item) = items.next_element()? else { return Ok(list) };
                    list.items.push(item);
                }
                while items.next_element::<IgnoredAny>()?.is_some() {
                    list.is_over = true;
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// Parses an item of at most `limit` bytes.
///
/// # Errors
/// It is larger, or not JSON.
pub fn parse_item(item: &RawValue, limit: usize) -> Result<serde_json::Value, Problem> {
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
            serde_json::from_str::<BoundedList<u8>>(&text).unwrap()
        };
        for (count, good) in [(0, false), (1, true), (500, true), (501, false), (100_000, false)] {
            let list = read(count);
            assert!(list.items.len() <= MAX_BATCH_SIZE);
            assert_eq!(list.within("items").is_ok(), good, "{count}");
        }
        assert!(serde_json::from_str::<BoundedList<u8>>("{}").is_err());
        assert!(serde_json::from_str::<BoundedList<u8>>("[0,").is_err());
    }
}
