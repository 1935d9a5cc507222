//! The channel that a code goes through.

use std::io::Write as _;

use uuid::Uuid;

use crate::{
    app::Core,
    domain::registration::CodeRoute,
    mail::{self, Mail, Mailer},
};

/// How codes that were asked for on a route leave this process.
pub enum Channel {
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
    pub(super) code: &'a str,
    pub(super) text: &'a str,
    pub(super) subject: &'a str,
    /// The address that is stored for the number.
    pub(super) email: Option<&'a str>,
}

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodeOutcome {
    Sent,
    /// There is nowhere to send it to.
    Nowhere,
    /// It may pass later.
    Temporary(&'static str),
    /// It is refused for good.
    Permanent(&'static str),
}

impl Channel {
    /// The channel of a route, as it is configured now.
    pub(super) fn of(core: &Core, route: CodeRoute) -> Channel {
        let settings = core.runtime_settings();
        match (route, &settings.mailer) {
            (CodeRoute::Email, mailer @ Mailer::Smtp(_)) => Channel::Email(mailer.clone()),
            (CodeRoute::Sms, Mailer::Smtp(_)) => Channel::None,
            (_, Mailer::Log) if settings.otp.log_codes => Channel::Log,
            (_, Mailer::Log) if core.settings().shows_codes => Channel::Terminal,
            (_, Mailer::Log) => Channel::None,
        }
    }

    /// The route of a request that names none.
    pub(super) fn default_route(core: &Core) -> CodeRoute {
        match core.runtime_settings().mailer {
            Mailer::Smtp(_) => CodeRoute::Email,
            Mailer::Log => CodeRoute::Sms,
        }
    }

    /// Sends a code.
    pub(super) async fn send(&self, message: &CodeMessage<'_>) -> CodeOutcome {
        match self {
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
                        CodeOutcome::Temporary("the mail server cannot be reached")
                    }
                    Err(mail::Error::Temporary(_)) => {
                        CodeOutcome::Temporary("the mail server refused for now")
                    }
                    Err(mail::Error::Permanent(_) | mail::Error::Settings(_)) => {
                        CodeOutcome::Permanent("the mail server refused the address")
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
                    Err(_) => CodeOutcome::Permanent("the terminal cannot be written to"),
                }
            }
            Channel::None => CodeOutcome::Nowhere,
        }
    }
}
