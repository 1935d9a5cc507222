//! `/admin/users`: business users.

use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use warp::reply::Response;

use super::{because, page, segment};
use crate::{
    app::identity::accounts::Change,
    domain::{Permission, Permissions},
    server::{
        context::{RequestContext, SharedContext, text_cursor},
        reply::{self, Problem, answer},
        view::admin::UserView,
    },
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a user object")]
#[schema(as = NewUser)]
pub(in crate::server) struct AddUserBody {
    /// 1 to 200 visible characters on one line.
    name: String,
    /// `SendMessages` (default), `Chat`, `Broadcast`, `Admin`.
    permissions: Option<Vec<String>>,
    /// Phone number; E.164, or national with phone.default_region.
    phone: Option<String>,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with changes")]
#[schema(as = UserChange)]
pub(in crate::server) struct ChangeBody {
    /// Replaces all permissions.
    permissions: Option<Vec<String>>,
    /// New phone number.
    phone: Option<String>,
    /// False disables the user.
    enabled: Option<bool>,
    /// Content policy; null removes it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    content_policy: Option<Option<Value>>,
    /// Allow disabling the last administrator.
    #[serde(default)]
    even_last_admin: bool,
    /// Reason for the audit log, at most 500 characters.
    reason: Option<String>,
}

/// A field that is there, even if it is null.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<Value>>, D::Error> {
    Option::<Value>::deserialize(from).map(Some)
}

fn permissions(names: &[String]) -> Result<Permissions, Problem> {
    // One by one: a name must not be split at a comma.
    names.iter().try_fold(Permissions::NONE, |all, name| {
        let known = Permission::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name));
        known.map(|permission| all.with(permission)).ok_or_else(|| {
            let message =
                format!("'{name}' is not a permission; use SendMessages, Chat, Broadcast or Admin");
            Problem::field("permissions", "unknown", message)
        })
    })
}

/// `GET /admin/users`.
pub async fn list(context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let limit = context.limit()?;
            let after = context.after_text()?;
            let found = context.app.identity.list_users(&by, after.as_deref(), limit).await?;
            Ok(page(&context, &found, |user| text_cursor(&user.name), UserView::from))
        }
        .await,
    )
}

/// `POST /admin/users`.
pub async fn add(context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let body: AddUserBody = context.json()?;
            let by = because(by, body.reason.as_deref())?;
            let may = match &body.permissions {
                Some(names) => permissions(names)?,
                None => Permissions::NONE.with(Permission::SendMessages),
            };
            let phone = body.phone.as_deref();
            let phone =
                phone.map(|text| context.app.identity.parse_phone("phone", text)).transpose()?;
            let user = context.app.identity.add_user(&by, &body.name, may, phone).await?;
            Ok(reply::json(StatusCode::CREATED, &UserView::from(&user)))
        }
        .await,
    )
}

/// `GET /admin/users/{user}`, by id or name.
pub async fn show(user: String, context: SharedContext) -> Response {
    answer(
        async {
            let by = context.administrator()?;
            let user = context.app.identity.show_user(&by, &segment(&user, "user")?).await?;
            Ok(reply::json(StatusCode::OK, &UserView::from(&user)))
        }
        .await,
    )
}

/// `PATCH /admin/users/{user}`.
pub async fn change(user: String, context: SharedContext) -> Response {
    answer(try_change(&user, &context).await)
}

async fn try_change(user: &str, context: &RequestContext) -> Result<Response, Problem> {
    let by = context.administrator()?;
    let body: ChangeBody = context.json()?;
    let by = because(by, body.reason.as_deref())?;
    let phone = body.phone.as_deref();
    let change = Change {
        permissions: body.permissions.as_deref().map(permissions).transpose()?,
        phone: phone.map(|text| context.app.identity.parse_phone("phone", text)).transpose()?,
        enabled: body.enabled,
        even_last_admin: body.even_last_admin,
        content_policy: body.content_policy.map(|policy| policy.map(|value| value.to_string())),
    };
    let id = context.app.identity.find_user(&segment(user, "user")?).await?.id;
    let user = context.app.identity.change_user(&by, id, &change).await?;
    Ok(reply::json(StatusCode::OK, &UserView::from(&user)))
}
