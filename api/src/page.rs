//! Pages by key: a page ends with the key of its last item, and the next one starts after it, so
//! that nothing is skipped or repeated while items come and go.

use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::{Answer, Problem};

/// Items a page has unless asked otherwise.
const LIMIT: u32 = 100;
/// Items a page has at most.
const LIMIT_MAX: u32 = 1000;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Send it as `after` for the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// How many items were asked for.
pub(crate) fn limit(asked: Option<u32>) -> Answer<u32> {
    match asked {
        None => Ok(LIMIT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::field("limit", format!("must be 1 to {LIMIT_MAX}"))),
    }
}

/// The key that `after` names; the first key when there is none.
pub(crate) fn after<T: std::str::FromStr + Default>(text: Option<&str>) -> Answer<T> {
    let Some(text) = text else { return Ok(T::default()) };
    text.parse().map_err(|_| Problem::field("after", "must be the `next` of the page before"))
}

impl<T> Page<T> {
    /// A page of what was asked for with one item more than `limit`: the item more tells that
    /// there is a next page.
    pub(crate) fn of<R>(
        mut rows: Vec<R>,
        limit: u32,
        key: impl Fn(&R) -> String,
        item: impl FnMut(R) -> T,
    ) -> Self {
        let length = usize::try_from(limit).expect("a limit is small");
        let has_more = rows.len() > length;
        rows.truncate(length);
        let next = rows.last().filter(|_| has_more).map(key);
        Self { items: rows.into_iter().map(item).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_says_so() {
        let page = |count: u32| Page::of((1..=count).collect(), 2, u32::to_string, |row| row);
        assert_eq!((page(2).items, page(2).next), (vec![1, 2], None));
        assert_eq!((page(3).items, page(3).next), (vec![1, 2], Some("2".to_owned())));
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
        assert!(after::<u32>(Some("x")).is_err());
    }
}
