//! `sms`: tries the gateways for SMS.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    app::App,
    cli::{
        admin::audit_reason::AuditReason,
        io::exit::{ExitStatus, Failure},
        privilege::OpenFiles,
        process::{database, gateways},
        setup::Setup,
        spec::{CommandFuture, Runnable, Scope, Spec},
    },
    domain::{Phone, sms::SmsVerdict},
    sms::{SmsGateways, SmsRequest, SmsTrial},
    store::embedded::Purpose,
};

pub(crate) const HELP: &str = "\
The message is really sent and may cost money. Exit status: 0 the gateway took it, 5 it refused it for good, 69 it
failed for now or did not answer.";

/// The value of {code}.
const TEST_CODE: &str = "123456";
const DEFAULT_TEXT: &str = "123456 is a test code";

#[derive(Debug, Subcommand)]
pub(crate) enum SmsCommand {
    /// Send a test message, and show the request, the answer and the verdict
    #[command(after_help = HELP)]
    Test {
        /// Phone number
        number: String,
        /// Name of the gateway; unset: the first one that serves the number's country
        #[arg(long, value_name = "NAME")]
        gateway: Option<String>,
        /// Text of the message
        #[arg(long, default_value = DEFAULT_TEXT)]
        text: String,
        #[command(flatten)]
        why: AuditReason,
    },
}

impl Runnable for SmsCommand {
    fn spec(&self) -> Spec {
        Spec {
            name: "sms",
            scope: Scope::THIS_MACHINE_WRITES,
            needs_installation: true,
            ..Spec::LOCAL
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move {
            let SmsCommand::Test { number, gateway, text, why } = *self;
            test(setup, &number, gateway.as_deref(), &text, &why).await
        })
    }
}

#[derive(Serialize)]
struct TestView {
    request: RequestView,
    answer: AnswerView,
    verdict: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestView {
    gateway: String,
    method: &'static str,
    url: String,
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnswerView {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn view(trial: SmsTrial) -> TestView {
    let (answer, error) = match trial.answer {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(error)),
    };
    let (status, body) = answer.unzip();
    TestView {
        request: RequestView {
            gateway: trial.gateway.to_string(),
            method: trial.request.method.name(),
            url: trial.request.url,
            headers: trial.request.headers.into_iter().collect(),
            body: trial.request.body,
        },
        answer: AnswerView { status, body, message_id: trial.message_id, error },
        verdict: trial.verdict.name(),
    }
}

async fn test(
    setup: &Setup,
    number: &str,
    name: Option<&str>,
    text: &str,
    why: &AuditReason,
) -> Result<(), Failure> {
    let by = setup.by(why)?;
    let config = &setup.loaded.config;
    let to = Phone::parse(number, config.phone.default_region)
        .map_err(|error| Failure::new(ExitStatus::Usage, format!("the number {error}")))?;
    let sms = gateways::sms(config)?;
    let gateway = choose(&sms, &to, name)?;
    // Before it is sent: an interruption leaves no unrecorded message.
    let opened = database::open_database(setup, Purpose::Command).await?;
    let record = async |app: &App| app.admin.record_sms_test(&by, &to, &gateway).await;
    let recorded = database::with_app(setup, &opened.store, record).await;
    let closed = opened.close().await;
    recorded.and(closed)?;
    let request =
        SmsRequest { to: &to, text, code: TEST_CODE, locale: "en", id: Uuid::new_v4(), first: 0 };
    let trial = sms.test(&request, &gateway).await;
    let trial = trial.ok_or_else(|| no_gateway(&gateway))?;
    let verdict = trial.verdict;
    setup.output.record(&view(trial));
    match verdict {
        SmsVerdict::Sent => Ok(()),
        SmsVerdict::Permanent => {
            Err(Failure::new(ExitStatus::Refused, "the gateway refused the message for good"))
        }
        SmsVerdict::Passing => Err(Failure::new(
            ExitStatus::Unavailable,
            "the gateway did not take the message; another one would be tried",
        )),
    }
}

/// The name of the gateway to test.
fn choose(sms: &SmsGateways, to: &Phone, name: Option<&str>) -> Result<String, Failure> {
    if sms.is_empty() {
        return Err(Failure::new(ExitStatus::NotFound, "no SMS gateway is configured")
            .hint("write a table [[sms.gateways]]; see docs/operations/sms.md"));
    }
    let found = match name {
        Some(name) => sms.names().find(|known| *known == name),
        None => sms.serving(to.country()).next(),
    };
    match (found, name) {
        (Some(found), _) => Ok(found.to_owned()),
        (None, Some(name)) => Err(no_gateway(name)),
        (None, None) => {
            let country = to.country().unwrap_or("its country");
            let what = format!("no SMS gateway takes numbers of {country}");
            Err(Failure::new(ExitStatus::NotFound, what)
                .hint("name one with --gateway, or change its key countries"))
        }
    }
}

fn no_gateway(name: &str) -> Failure {
    Failure::new(ExitStatus::NotFound, format!("no SMS gateway is called {name}"))
        .hint("run: esh3ar config show")
}
