//! `/registrations`: a phone proves its number with a one-time code.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;
use warp::reply::Response;

use crate::{
    app::{
        error::whole_seconds,
        registration::{RegistrationError, RegistrationReceipt, RegistrationRequest},
    },
    domain::{
        job::JobKind,
        registration::{AppPlatform, CodeRoute, TextLocale},
        text::excerpt,
    },
    server::{
        context::{RequestContext, SharedContext},
        reply::{self, Problem, answer},
    },
};

/// The longest name of a device.
const MAX_DEVICE_NAME_LEN: usize = 100;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with phone")]
#[schema(as = NewRegistration)]
pub(in crate::server) struct RegistrationBody {
    /// Phone number.
    phone: String,
    /// android, ios or web: decides the last line of the text.
    platform: Option<String>,
    /// sms or email; default: what is configured.
    channel: Option<String>,
    /// Language of the text: ar or en.
    locale: Option<String>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with code")]
#[schema(as = RegistrationCode)]
pub(in crate::server) struct VerifyBody {
    /// The six digits.
    code: String,
    /// Name of the device, at most 100 characters.
    device_name: Option<String>,
    /// android, ios or web.
    platform: Option<String>,
}

/// A registration. The same for every number, whether or not a code is sent.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Registration)]
pub(in crate::server) struct RegistrationView {
    id: Uuid,
    /// When the code expires.
    #[serde(with = "crate::server::timestamp")]
    expires_at: OffsetDateTime,
    /// Seconds until a resend is possible.
    resend_after: u64,
    /// sms or email.
    channel: &'static str,
}

impl From<RegistrationReceipt> for RegistrationView {
    fn from(receipt: RegistrationReceipt) -> Self {
        RegistrationView {
            id: receipt.id,
            expires_at: receipt.expires_at,
            resend_after: receipt.resend_after.as_secs(),
            channel: receipt.route.name(),
        }
    }
}

/// The token of a phone that proved its number.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = NewSession)]
pub(in crate::server) struct NewSessionView {
    /// Token for the API and the hub. It is shown once.
    access_token: String,
    /// When the token expires.
    #[serde(with = "crate::server::timestamp::option")]
    expires_at: Option<OffsetDateTime>,
    session_id: Uuid,
}

impl From<RegistrationError> for Problem {
    fn from(error: RegistrationError) -> Self {
        let text = error.to_string();
        let after = |wait: Duration, code: &'static str| Problem {
            retry_after: Some(whole_seconds(wait)),
            ..Problem::new(StatusCode::TOO_MANY_REQUESTS, code, text.clone())
        };
        match error {
            RegistrationError::InvalidPhone(why) => {
                let field = Problem::field("phone", "invalid_phone", format!("phone {why}"));
                Problem { code: "invalid_phone", ..field }
            }
            RegistrationError::CountryNotAllowed => {
                Problem::bad_request("country_not_allowed", text)
            }
            RegistrationError::Limited { retry_after } => {
                after(retry_after, "registration_limited")
            }
            RegistrationError::ResendTooEarly { retry_after } => {
                after(retry_after, "resend_too_early")
            }
            RegistrationError::InvalidCode => Problem::bad_request("invalid_code", text),
            RegistrationError::Failed(error) => error.into(),
        }
    }
}

/// What is wrong with a document here is one code: an unknown field is no other mistake than a wrong one.
fn invalid(problem: Problem) -> Problem {
    match problem.code {
        "unknown_field" | "invalid_body" => Problem { code: "validation_failed", ..problem },
        _ => problem,
    }
}

/// A field with one of a few names.
fn named<T>(
    field: &'static str,
    given: Option<&str>,
    parse: impl Fn(&str) -> Option<T>,
    names: &str,
) -> Result<Option<T>, Problem> {
    let Some(text) = given else { return Ok(None) };
    parse(text).map(Some).ok_or_else(|| {
        let message = format!("{field} must be {names}, not '{}'", excerpt(text));
        Problem::field(field, "unknown", message)
    })
}

const PLATFORMS: &str = "android, ios or web";

/// `POST /registrations`.
pub async fn request(context: SharedContext) -> Response {
    answer(try_request(&context).await)
}

async fn try_request(context: &RequestContext) -> Result<Response, Problem> {
    let body: RegistrationBody = context.json().map_err(invalid)?;
    let asked = RegistrationRequest {
        phone: &body.phone,
        platform: named("platform", body.platform.as_deref(), AppPlatform::parse, PLATFORMS)?,
        route: named("channel", body.channel.as_deref(), CodeRoute::parse, "sms or email")?,
        locale: named("locale", body.locale.as_deref(), TextLocale::parse, "ar or en")?,
        peer: context.peer,
    };
    accepted(context, context.app.registration.request(asked).await?)
}

/// `POST /registrations/{id}/resend`.
pub async fn resend(id: String, context: SharedContext) -> Response {
    answer(
        async {
            // What is no id is unknown like any other.
            let id = id.parse().unwrap_or_else(|_| Uuid::nil());
            accepted(&context, context.app.registration.resend(id).await?)
        }
        .await,
    )
}

fn accepted(context: &RequestContext, receipt: RegistrationReceipt) -> Result<Response, Problem> {
    context.app.jobs.wake(JobKind::Otp);
    Ok(reply::json(StatusCode::ACCEPTED, &RegistrationView::from(receipt)))
}

/// `POST /registrations/{id}/verify`.
pub async fn verify(id: String, context: SharedContext) -> Response {
    answer(try_verify(&id, &context).await)
}

async fn try_verify(id: &str, context: &RequestContext) -> Result<Response, Problem> {
    let body: VerifyBody = context.json().map_err(invalid)?;
    named("platform", body.platform.as_deref(), AppPlatform::parse, PLATFORMS)?;
    if body.device_name.is_some_and(|name| name.chars().count() > MAX_DEVICE_NAME_LEN) {
        let message = format!("deviceName must have at most {MAX_DEVICE_NAME_LEN} characters");
        return Err(Problem::field("deviceName", "too_long", message));
    }
    let id = id.parse().map_err(|_| RegistrationError::InvalidCode)?;
    let issued = context.app.registration.verify(id, &body.code, context.peer).await?;
    let view = NewSessionView {
        access_token: issued.token,
        expires_at: issued.expires_at,
        session_id: issued.id.0,
    };
    Ok(reply::json(StatusCode::OK, &view))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_code() {
        let wait = Duration::from_millis(1500);
        for (error, status, code, retry_after) in [
            (RegistrationError::InvalidPhone("is none".to_owned()), 400, "invalid_phone", None),
            (RegistrationError::CountryNotAllowed, 400, "country_not_allowed", None),
            (RegistrationError::InvalidCode, 400, "invalid_code", None),
            (
                RegistrationError::Limited { retry_after: wait },
                429,
                "registration_limited",
                Some(2),
            ),
            (
                RegistrationError::ResendTooEarly { retry_after: wait },
                429,
                "resend_too_early",
                Some(2),
            ),
            (
                RegistrationError::Failed(crate::app::Error::Unavailable),
                503,
                "unavailable",
                Some(1),
            ),
        ] {
            let problem = Problem::from(error);
            assert_eq!(
                (problem.status.as_u16(), problem.code, problem.retry_after),
                (status, code, retry_after)
            );
        }
    }

    #[test]
    fn an_unknown_field_is_a_failed_validation() {
        let read = serde_json::from_str::<RegistrationBody>(r#"{"phone":"+1","email":"a@b.c"}"#);
        let problem = crate::server::context::unreadable(&read.err().unwrap());
        assert_eq!(invalid(problem).code, "validation_failed");
    }
}
