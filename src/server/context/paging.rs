//! The page that a request asks for: its size and its cursor.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use time::OffsetDateTime;

use super::RequestContext;
use crate::{
    domain::MessageId,
    server::{pagination, reply::Problem},
};

const DEFAULT_PAGE_SIZE: usize = 50;
const MAX_PAGE_SIZE: usize = 200;

impl RequestContext {
    /// Whether a page may have the maximum size.
    pub fn has_whole_page(&self) -> bool {
        self.page_room >= pagination::MAX_PAGE_LEN
    }

    /// The page size.
    ///
    /// # Errors
    /// It is no number from 1 to 200.
    pub fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.parameter("limit")? else { return Ok(DEFAULT_PAGE_SIZE) };
        text.trim().parse().ok().filter(|n| (1..=MAX_PAGE_SIZE).contains(n)).ok_or_else(|| {
            let message = format!("limit must be a number from 1 to {MAX_PAGE_SIZE}");
            Problem::field("limit", "out_of_range", message)
        })
    }

    /// The cursor.
    ///
    /// # Errors
    /// It is no cursor of this list.
    pub fn after(&self) -> Result<Option<MessageId>, Problem> {
        let Some(text) = self.parameter("after")? else { return Ok(None) };
        parse_cursor(&text).map(Some).ok_or_else(unknown_cursor)
    }

    /// The cursor of a list that may be ordered by time: a message, and when it was accepted in that case.
    ///
    /// # Errors
    /// It is no cursor of this list.
    pub fn after_message(&self) -> Result<Option<(MessageId, Option<OffsetDateTime>)>, Problem> {
        let Some(text) = self.parameter("after")? else { return Ok(None) };
        let by_id = || Some((parse_cursor(&text)?, None));
        let by_time = || parse_timed_cursor(&text).map(|(at, id)| (id, Some(at)));
        by_id().or_else(by_time).map(Some).ok_or_else(unknown_cursor)
    }

    /// The cursor of a list that is ordered by a text.
    ///
    /// # Errors
    /// It is no cursor of this list.
    pub fn after_text(&self) -> Result<Option<String>, Problem> {
        let Some(text) = self.parameter("after")? else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(&text).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        text.filter(|text| !text.contains('\0')).map(Some).ok_or_else(unknown_cursor)
    }
}

/// The cursor that continues after a message.
pub fn cursor(id: MessageId) -> String {
    URL_SAFE_NO_PAD.encode(id.0.as_bytes())
}

pub fn parse_cursor(text: &str) -> Option<MessageId> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    uuid::Uuid::from_slice(&bytes).ok().map(MessageId)
}

/// The same for a list that is ordered by time: nanoseconds, and the id.
pub fn timed_cursor(at: OffsetDateTime, id: MessageId) -> String {
    let at = at.unix_timestamp_nanos().to_be_bytes();
    URL_SAFE_NO_PAD.encode([&at[..], &id.0.as_bytes()[..]].concat())
}

fn parse_timed_cursor(text: &str) -> Option<(OffsetDateTime, MessageId)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (at, id) = bytes.split_at_checked(16)?;
    let at = i128::from_be_bytes(at.try_into().ok()?);
    let at = OffsetDateTime::from_unix_timestamp_nanos(at).ok()?;
    Some((at, MessageId(uuid::Uuid::from_slice(id).ok()?)))
}

/// The cursor that continues after a text.
pub fn text_cursor(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn unknown_cursor() -> Problem {
    Problem::field("after", "invalid_cursor", "after is not a valid cursor for this list")
}
