//! `/admin`: the admin API. Every handler first checks the caller, and passes on who it is: the use cases
//! record it.

pub mod audit;
pub mod conversations;
pub mod import;
pub mod messages;
pub mod mobiles;
pub mod nodes;
pub mod number_check;
pub mod privacy;
pub mod tokens;
pub mod users;

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use warp::reply::Response;

use super::super::{
    context::{RequestContext, cursor, decode_plainly},
    pagination,
    reply::{self, Problem},
};
use crate::{
    app::{By, audit_log::Listing},
    domain::MessageId,
    store::ScanPosition,
};

/// Maximum lifetime of a token, in seconds: a hundred years.
const MAX_TOKEN_TTL_SECS: f64 = 100.0 * 365.0 * 86_400.0;

/// A page of a list; the next one begins after `cursor` of the last item.
pub(super) fn page<'a, T, V: Serialize>(
    context: &RequestContext,
    found: &'a Listing<T>,
    cursor: impl Fn(&'a T) -> String,
    view: impl Fn(&'a T) -> V,
) -> Response {
    let page = pagination::page(&found.items, found.more, context.page_room, view, cursor);
    reply::raw(StatusCode::OK, page)
}

/// The same for a list that may continue after the scan position; see [`Listing`].
pub(super) fn page_or_cut<'a, T, V: Serialize>(
    context: &RequestContext,
    found: &'a Listing<T>,
    cursor: impl Fn(&'a T) -> String,
    behind: impl Fn(ScanPosition) -> Option<String>,
    view: impl Fn(&'a T) -> V,
) -> Response {
    let behind = found.cut.and_then(behind);
    let (more, room) = (found.more, context.page_room);
    let page = pagination::page_behind(&found.items, more, behind, room, view, cursor);
    reply::raw(StatusCode::OK, page)
}

/// The cursor after a scanned row, for lists ordered by id.
pub(super) fn behind(cut: ScanPosition) -> Option<String> {
    Some(cursor(MessageId(cut.id)))
}

/// Each of them as it is shown.
fn each<'a, T, V: From<&'a T>>(items: &'a [T]) -> Vec<V> {
    items.iter().map(V::from).collect()
}

/// Decodes a path segment. Invalid text is answered like an unknown id.
fn segment(text: &str, what: &'static str) -> Result<String, Problem> {
    // In a path, `+` is literal.
    let decoded = decode_plainly(text).filter(|text| !text.contains('\0'));
    decoded.ok_or_else(|| crate::app::Error::NotFound(what).into())
}

/// The reason in the body, unless the header has one.
fn because(by: By, reason: Option<&str>) -> Result<By, Problem> {
    if by.has_reason() || reason.is_none() {
        return Ok(by);
    }
    Ok(by.because(reason)?)
}

/// A query text; stored texts have no NUL.
fn text_of(context: &RequestContext, name: &'static str) -> Result<Option<String>, Problem> {
    let text = context.parameter(name)?;
    if text.as_ref().is_some_and(|text| text.contains('\0')) {
        let message = format!("{name} must not contain a NUL character");
        return Err(Problem::field(name, "invalid_character", message));
    }
    Ok(text)
}

/// A duration in seconds, or "never".
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "a number of seconds, or \"never\"")]
#[schema(as = Seconds)]
pub(in crate::server) enum Seconds {
    Number(f64),
    Word(String),
}

impl Seconds {
    /// The duration; `None` for "never".
    fn read(&self, field: &'static str) -> Result<Option<Duration>, Problem> {
        let wrong = || {
            let message = format!("{field} must be a number of seconds above 0, or \"never\"");
            Problem::field(field, "out_of_range", message)
        };
        match self {
            Seconds::Word(word) if word == "never" => Ok(None),
            Seconds::Word(_) => Err(wrong()),
            Seconds::Number(number) => Some(*number)
                .filter(|number| *number > 0.0 && *number <= MAX_TOKEN_TTL_SECS)
                .and_then(|number| Duration::try_from_secs_f64(number).ok())
                .map(Some)
                .ok_or_else(wrong),
        }
    }
}
