//! The channel that a code goes through.

use std::{borrow::Cow, io::Write as _};

use uuid::Uuid;

use crate::{
    app::Core,
    domain::{Phone, registration::CodeRoute},
    mail::{self, Mail, Mailer},
    sms::{SmsGateways, SmsOutcome, SmsRequest},
};

/// How codes that were asked for on a route leave this process.
pub enum Channel {
    /// By SMS, through the gateways that serve the number's country.
    Sms(SmsGateways),
    /// By mail, to the address that is stored for the number.
    Email(Mailer),
    /// To the log, in the field `code`: for development.
    Log,
    /// To the terminal on which `serve` runs: for development.
    Terminal,
    /// Not at all: nothing is configured for this route.
    None,
}

/// What is sent.
pub(super) struct CodeMessage<'a> {
    /// The job's id: a message that is sent again has the same.
    pub(super) id: Uuid,
    pub(super) registration: Uuid,
    pub(super) phone: &'a Phone,
    /// `en` or `ar`.
    pub(super) locale: &'static str,
    pub(super) code: &'a str,
    pub(super) text: &'a str,
    pub(super) subject: &'a str,
    /// The address that is stored for the number.
    pub(super) email: Option<&'a str>,
}

/// How a send ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CodeOutcome {
    Sent,
    /// There is nowhere to send it to.
    Nowhere,
    /// It may pass later.
    Temporary(Cow<'static, str>),
    /// It is refused for good.
    Permanent(Cow<'static, str>),
}

impl Channel {
    /// The channel of a route, as it is configured now.
    pub(super) fn of(core: &Core, route: CodeRoute) -> Channel {
        let settings = core.runtime_settings();
        match (route, &settings.mailer) {
            (CodeRoute::Sms, _) if !settings.sms.is_empty() => Channel::Sms(settings.sms.clone()),
            (CodeRoute::Email, mailer @ Mailer::Smtp(_)) => Channel::Email(mailer.clone()),
            (CodeRoute::Sms, Mailer::Smtp(_)) => Channel::None,
            // With a gateway no code is shown here.
            (_, Mailer::Log) if !settings.sms.is_empty() => Channel::None,
            (_, Mailer::Log) if settings.otp.log_codes => Channel::Log,
            (_, Mailer::Log) if core.settings().shows_codes => Channel::Terminal,
            (_, Mailer::Log) => Channel::None,
        }
    }

    /// The route of a request that names none.
    pub(super) fn default_route(core: &Core) -> CodeRoute {
        let settings = core.runtime_settings();
        match settings.mailer {
            Mailer::Smtp(_) if settings.sms.is_empty() => CodeRoute::Email,
            _ => CodeRoute::Sms,
        }
    }

    /// Sends a code.
    pub(super) async fn send(&self, message: &CodeMessage<'_>) -> CodeOutcome {
        match self {
            Channel::Sms(gateways) => {
                let country = message.phone.country();
                if gateways.serving(country).next().is_none() {
                    return CodeOutcome::Nowhere;
                }
                let request = SmsRequest {
                    to: message.phone,
                    text: message.text,
                    code: message.code,
                    locale: message.locale,
                    id: message.registration,
                    first: 0,
                };
                match gateways.send(&request).await {
                    SmsOutcome::Sent { .. } => CodeOutcome::Sent,
                    SmsOutcome::Permanent { gateway, reason } => {
                        CodeOutcome::Permanent(format!("gateway {gateway}: {reason}").into())
                    }
                    SmsOutcome::Passing { reason, .. } => CodeOutcome::Temporary(reason.into()),
                }
            }
            Channel::Email(mailer) => {
                let Some(address) = message.email else { return CodeOutcome::Nowhere };
                let mail = Mail {
                    id: message.id,
                    subject: message.subject.to_owned(),
                    body: message.text.to_owned(),
                };
                // Texts of the server may repeat the address.
                match mailer.send_to(address, &mail).await {
                    Ok(()) => CodeOutcome::Sent,
                    Err(mail::Error::Unreachable(_)) => {
                        CodeOutcome::Temporary("the mail server cannot be reached".into())
                    }
                    Err(mail::Error::Temporary(_)) => {
                        CodeOutcome::Temporary("the mail server refused for now".into())
                    }
                    Err(mail::Error::Permanent(_) | mail::Error::Settings(_)) => {
                        CodeOutcome::Permanent("the mail server refused the address".into())
                    }
                }
            }
            Channel::Log => {
                let (registration, code) = (message.registration, message.code);
                tracing::info!(%registration, code, "one-time code");
                CodeOutcome::Sent
            }
            Channel::Terminal => {
                let (registration, code) = (message.registration, message.code);
                let line = format!("registration {registration}: the code is {code}");
                match writeln!(std::io::stderr().lock(), "{line}") {
                    Ok(()) => CodeOutcome::Sent,
                    Err(_) => CodeOutcome::Permanent("the terminal cannot be written to".into()),
                }
            }
            Channel::None => CodeOutcome::Nowhere,
        }
    }
}
