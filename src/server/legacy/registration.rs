//! The routes of the existing API by which a phone registers. The spelling of their path is theirs.

use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use warp::reply::Response;

use super::{
    e164,
    http::{lowered, refused, reply_of},
};
use crate::{
    app::registration::{RegistrationError, RegistrationRequest},
    domain::{
        job::JobKind,
        registration::{AppPlatform, CodeRoute},
        text::excerpt_of_fault,
    },
    server::{
        context::{RequestContext, SharedContext},
        reply::Problem,
    },
};

/// Their numbers of operating systems.
const ANDROID: i64 = 1;
const IOS: i64 = 2;

#[derive(Deserialize)]
struct RegisterBody {
    #[serde(default)]
    mobilenumber: String,
    /// A number there; other forms of it are skipped.
    #[serde(default)]
    os: Value,
    #[serde(default)]
    nosms: Option<bool>,
    #[serde(default)]
    howtosendotp: Option<String>,
}

#[derive(Deserialize)]
struct VerifyBody {
    #[serde(default)]
    registrationrequestid: String,
    #[serde(default)]
    otpcode: String,
}

#[derive(Deserialize)]
struct ResendBody {
    #[serde(default)]
    mobilenumber: String,
}

fn body<T: DeserializeOwned>(context: &RequestContext) -> Result<T, Problem> {
    serde_json::from_value(lowered(context.json()?)).map_err(|error| {
        let fault = error.to_string();
        Problem::bad_request("invalid_body", excerpt_of_fault(&fault))
    })
}

/// The same as a problem; a wrong code is a broken business rule there.
fn problem(error: RegistrationError) -> Problem {
    let is_code = matches!(error, RegistrationError::InvalidCode);
    let problem = Problem::from(error);
    if is_code { Problem { status: StatusCode::FORBIDDEN, ..problem } } else { problem }
}

pub async fn register(context: SharedContext) -> Response {
    reply_of(try_register(&context).await.map(|value| value.to_string()))
}

async fn try_register(context: &RequestContext) -> Result<Value, Problem> {
    let body: RegisterBody = body(context)?;
    let by_mail = body.nosms == Some(true)
        || body.howtosendotp.is_some_and(|how| how.trim().eq_ignore_ascii_case("email"));
    let asked = RegistrationRequest {
        phone: &e164(&body.mobilenumber),
        platform: match body.os.as_i64() {
            Some(ANDROID) => Some(AppPlatform::Android),
            Some(IOS) => Some(AppPlatform::Ios),
            _ => None,
        },
        route: by_mail.then_some(CodeRoute::Email),
        locale: None,
        peer: context.peer,
    };
    let receipt = context.app.registration.request(asked).await.map_err(problem)?;
    context.app.jobs.wake(JobKind::Otp);
    Ok(json!({ "registrationRequestId": receipt.id }))
}

pub async fn verify(context: SharedContext) -> Response {
    reply_of(try_verify(&context).await.map(|value| value.to_string()))
}

async fn try_verify(context: &RequestContext) -> Result<Value, Problem> {
    let body: VerifyBody = body(context)?;
    let id = body.registrationrequestid.trim().parse();
    let id = id.map_err(|_| problem(RegistrationError::InvalidCode))?;
    let code = body.otpcode.trim();
    let issued = context.app.registration.verify(id, code, context.peer).await.map_err(problem)?;
    Ok(json!({ "accessToken": issued.token }))
}

pub async fn resend(context: SharedContext) -> Response {
    match try_resend(&context).await {
        Ok(()) => {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Err(problem) => refused(&problem),
    }
}

async fn try_resend(context: &RequestContext) -> Result<(), Problem> {
    let body: ResendBody = body(context)?;
    let phone = e164(&body.mobilenumber);
    context.app.registration.resend_to(&phone).await.map_err(problem)?;
    context.app.jobs.wake(JobKind::Otp);
    Ok(())
}
