//! `/admin/mobile-users`: mobile users, by phone number.

use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use warp::reply::Response;

use super::{because, each, page, segment};
use crate::{
    domain::Phone,
    server::{
        context::{RequestContext, SharedContext, text_cursor},
        reply::{self, Problem, answer},
        view::admin::MobileView,
    },
    store::accounts::MobileStatus,
};

/// Maximum number of phone numbers per call.
const MAX_PHONES: usize = 1000;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with phones")]
#[schema(as = NewMobileUsers)]
pub(in crate::server) struct AddMobilesBody {
    /// 1 to 1,000 phone numbers.
    phones: Vec<String>,
    /// Mark the numbers as verified.
    #[serde(default)]
    verified: bool,
    /// Address to which codes for the number may be mailed, null for none; with one phone number only.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with email")]
#[schema(as = MobileUserChange)]
pub(in crate::server) struct ChangeMobileBody {
    /// Address to which codes for the number may be mailed; null: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

/// Tells null from a missing field.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(from).map(Some)
}

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with reason")]
#[schema(as = MobileBlock)]
pub(in crate::server) struct BlockBody {
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

/// `GET /admin/mobile-users`.
pub async fn list(context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let limit = context.limit()?;
            let after = match context.after_text()? {
                // As stored: it may not be valid today.
                Some(cursor) => Some(Phone::from_stored(&cursor)),
                None => context.phone("afterPhone")?,
            };
            let found = context.app.identity.list_mobiles(&by, after.as_ref(), limit).await?;
            Ok(page(&context, &found, |user| text_cursor(user.phone.as_str()), MobileView::from))
        }
        .await,
    )
}

/// `POST /admin/mobile-users`.
pub async fn add(context: SharedContext) -> Response {
    answer(try_add(&context).await)
}

async fn try_add(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: AddMobilesBody = context.json()?;
    let by = because(by, body.reason.as_deref())?;
    if body.phones.is_empty() || body.phones.len() > MAX_PHONES {
        let message = format!("phones must contain 1 to {MAX_PHONES} numbers");
        return Err(Problem::field("phones", "out_of_range", message));
    }
    let mut phones: Vec<Phone> = Vec::with_capacity(body.phones.len());
    let mut known = std::collections::HashSet::new();
    for text in &body.phones {
        let phone = context.app.identity.parse_phone("phone", text)?;
        if known.insert(phone.clone()) {
            phones.push(phone);
        }
    }
    let status = if body.verified { MobileStatus::Verified } else { MobileStatus::Pending };
    if body.email.is_some() && phones.len() > 1 {
        let message = "email is possible with one phone number only";
        return Err(Problem::field("email", "one_phone", message));
    }
    let mut users = context.app.identity.put_mobiles(&by, &phones, status).await?;
    if let (Some(email), [phone]) = (&body.email, phones.as_slice()) {
        users = vec![context.app.identity.set_mobile_email(&by, phone, email.as_deref()).await?];
    }
    let items: Vec<MobileView<'_>> = each(&users);
    Ok(reply::json(StatusCode::OK, &json!({ "items": items })))
}

/// `GET /admin/mobile-users/{phone}`.
pub async fn show(phone: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let phone = context
                .app
                .identity
                .parse_stored_phone("phone", &segment(&phone, "mobile user")?)?;
            let user = context.app.identity.show_mobile(&by, &phone).await?;
            Ok(reply::json(StatusCode::OK, &MobileView::from(&user)))
        }
        .await,
    )
}

/// `PATCH /admin/mobile-users/{phone}`.
pub async fn change(phone: String, context: SharedContext) -> Response {
    answer(try_change(&phone, &context).await)
}

async fn try_change(phone: &str, context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: ChangeMobileBody = context.json()?;
    let by = because(by, body.reason.as_deref())?;
    let phone = segment(phone, "mobile user")?;
    let phone = context.app.identity.parse_stored_phone("phone", &phone)?;
    let user = match &body.email {
        Some(email) => context.app.identity.set_mobile_email(&by, &phone, email.as_deref()).await?,
        None => context.app.identity.show_mobile(&by, &phone).await?,
    };
    Ok(reply::json(StatusCode::OK, &MobileView::from(&user)))
}

/// `POST /admin/mobile-users/{phone}/block`.
pub async fn block(phone: String, context: SharedContext) -> Response {
    answer(set_blocked(&phone, &context, true).await)
}

/// `POST /admin/mobile-users/{phone}/unblock`.
pub async fn unblock(phone: String, context: SharedContext) -> Response {
    answer(set_blocked(&phone, &context, false).await)
}

async fn set_blocked(
    phone: &str,
    context: &RequestContext,
    blocked: bool,
) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: BlockBody =
        if context.body.is_empty() { BlockBody::default() } else { context.json()? };
    let by = because(by, body.reason.as_deref())?;
    let phone = segment(phone, "mobile user")?;
    let phone = context.app.identity.parse_stored_phone("phone", &phone)?;
    let user = context.app.identity.block_mobile(&by, &phone, blocked).await?;
    Ok(reply::json(StatusCode::OK, &MobileView::from(&user)))
}
