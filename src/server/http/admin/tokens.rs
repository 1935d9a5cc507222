//! `/admin/tokens`: tokens of business users and phones.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use warp::reply::Response;

use super::{Seconds, because, page, text_of};
use crate::{
    app::identity::tokens::Lifetime,
    domain::{MessageId, TokenId},
    server::{
        context::{RequestContext, SharedContext, cursor},
        reply::{self, Problem, answer},
        view::admin::{IssuedView, RevokedView, RotatedView, TokenView},
    },
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with user or mobile")]
#[schema(as = NewToken)]
pub(in crate::server) struct CreateBody {
    /// Id or name of a business user; this or `mobile` is required.
    user: Option<String>,
    /// Phone number of a mobile user.
    mobile: Option<String>,
    /// Lifetime in seconds, or "never"; default: auth.access_token_ttl for a phone,
    /// auth.admin_token_ttl for an administrator, never for another business user.
    expires_in: Option<Seconds>,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with overlap")]
#[schema(as = Rotation)]
pub(in crate::server) struct RotateBody {
    /// How long the old token stays valid, in seconds; default 0.
    #[serde(default)]
    overlap: f64,
    /// Lifetime of the new token in seconds, or "never"; default: the old token's lifetime.
    expires_in: Option<Seconds>,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with user or mobile")]
#[schema(as = TokenRevocation)]
pub(in crate::server) struct RevokeBody {
    /// Id or name of a business user; this or `mobile` is required.
    user: Option<String>,
    /// Phone number of a mobile user.
    mobile: Option<String>,
    /// Revoke them even if nobody could use the admin API afterwards.
    #[serde(default)]
    even_last_admin: bool,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

fn lifetime(given: Option<&Seconds>) -> Result<Option<Lifetime>, Problem> {
    let Some(given) = given else { return Ok(None) };
    Ok(Some(given.read("expiresIn")?.map_or(Lifetime::Endless, Lifetime::For)))
}

/// `GET /admin/tokens`.
pub async fn list(context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let limit = context.limit()?;
            let (user, mobile) = (text_of(&context, "user")?, context.phone_text("mobile")?);
            let before = context.after()?.map(|id| TokenId(id.0));
            let owner =
                context.app.identity.token_owner(user.as_deref(), mobile.as_deref(), false).await?;
            let found =
                context.app.identity.list_tokens(&by, owner.as_ref(), before, limit).await?;
            Ok(page(&context, &found, |token| cursor(MessageId(token.id.0)), TokenView::from))
        }
        .await,
    )
}

/// `GET /admin/tokens/{id}`.
pub async fn show(id: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let token = context.app.identity.show_token(&by, parse_id(&id)?).await?;
            Ok(reply::json(StatusCode::OK, &TokenView::from(&token)))
        }
        .await,
    )
}

/// `POST /admin/tokens/revoke`.
pub async fn revoke_all(context: SharedContext) -> Response {
    answer(try_revoke_all(&context).await)
}

async fn try_revoke_all(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: RevokeBody = context.json()?;
    let by = because(by, body.reason.as_deref())?;
    let (user, mobile) = (body.user.as_deref(), body.mobile.as_deref());
    let Some(owner) = context.app.identity.token_owner(user, mobile, false).await? else {
        let message = "set user or mobile";
        return Err(Problem::field("user", "required", message));
    };
    let revoked = context.app.identity.revoke_tokens_of(&by, &owner, body.even_last_admin).await?;
    Ok(reply::json(StatusCode::OK, &RevokedView { revoked }))
}

/// `POST /admin/tokens`.
pub async fn create(context: SharedContext) -> Response {
    answer(try_create(&context).await)
}

async fn try_create(context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: CreateBody = context.json()?;
    let by = because(by, body.reason.as_deref())?;
    let lifetime = lifetime(body.expires_in.as_ref())?.unwrap_or(Lifetime::Usual);
    let (user, mobile) = (body.user.as_deref(), body.mobile.as_deref());
    let Some(owner) = context.app.identity.token_owner(user, mobile, true).await? else {
        let message = "a token needs an owner: set user or mobile";
        return Err(Problem::field("user", "required", message));
    };
    let issued = context.app.identity.issue_token(&by, &owner, lifetime).await?;
    Ok(reply::json(StatusCode::CREATED, &IssuedView::from(issued)))
}

/// `POST /admin/tokens/{id}/rotate`.
pub async fn rotate(id: String, context: SharedContext) -> Response {
    answer(try_rotate(&id, &context).await)
}

async fn try_rotate(id: &str, context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: RotateBody =
        if context.body.is_empty() { RotateBody::default() } else { context.json()? };
    let by = because(by, body.reason.as_deref())?;
    let lifetime = lifetime(body.expires_in.as_ref())?;
    let overlap =
        Some(body.overlap).filter(|seconds| (0.0..=super::MAX_TOKEN_TTL_SECS).contains(seconds));
    let overlap = overlap.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let overlap = overlap.ok_or_else(|| {
        Problem::field("overlap", "out_of_range", "overlap must be a number of seconds, 0 or more")
    })?;
    let rotated = context.app.identity.rotate_token(&by, parse_id(id)?, overlap, lifetime).await?;
    Ok(reply::json(StatusCode::CREATED, &RotatedView::from(rotated)))
}

/// `DELETE /admin/tokens/{id}`.
pub async fn revoke(id: String, context: SharedContext) -> Response {
    answer(try_revoke(&id, &context).await)
}

async fn try_revoke(id: &str, context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let even_last_admin = context.flag("evenLastAdmin")?.unwrap_or_default();
    context.app.identity.revoke_token(&by, parse_id(id)?, even_last_admin).await?;
    Ok(reply::raw(StatusCode::NO_CONTENT, String::new()))
}

/// An invalid id is answered like an unknown one.
fn parse_id(text: &str) -> Result<TokenId, Problem> {
    text.parse().map_err(|_| crate::app::Error::NotFound("token").into())
}
