//! Mail to the administrators: over SMTP, or to the log where no server is configured.
//!
//! This room knows how a mail gets out and what kind of failure it met; not what is in it or when to
//! try again.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use uuid::Uuid;

/// How long the server may take for each step.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

/// How the connection to the mail server is kept from others' eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Begins in the open and changes to TLS, or ends (port 587).
    StartTls,
    /// TLS from the beginning (port 465).
    Tls,
    /// None: for a server on this machine.
    None,
}

/// Where mails go.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is kept private.
    pub encryption: Encryption,
    /// User name and password, both or neither.
    pub credentials: Option<(String, String)>,
    /// Who it is from.
    pub from: String,
    /// The administrators.
    pub to: Vec<String>,
}

/// A mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Names it: the same mail sent twice has the same `Message-ID`.
    pub id: Uuid,
    /// One line.
    pub subject: String,
    /// Plain text.
    pub body: String,
}

/// Why a mail did not get out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// The server cannot be reached, or does not let us in now.
    #[error("the mail server cannot be reached: {0}")]
    Unreachable(String),
    /// The server refused the mail for now.
    #[error("the mail server refused for now: {0}")]
    Temporary(String),
    /// The server refused the mail for good.
    #[error("the mail server refused: {0}")]
    Permanent(String),
}

/// The way out.
#[derive(Clone, Default)]
pub enum Mailer {
    /// Over SMTP.
    Smtp(Box<Smtp>),
    /// To the log.
    #[default]
    Log,
}

/// A mail server and whom it is to reach.
#[derive(Clone)]
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mailer::Smtp(_) => "Mailer::Smtp",
            Mailer::Log => "Mailer::Log",
        })
    }
}

fn mailbox(text: &str) -> Result<Mailbox, Error> {
    text.parse().map_err(|_| Error::Settings(format!("'{text}' is no mail address")))
}

impl Mailer {
    /// A mailer over SMTP; connects only when there is something to send.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn smtp(settings: &SmtpSettings) -> Result<Mailer, Error> {
        let parameters = || {
            TlsParameters::new(settings.host.clone())
                .map_err(|error| Error::Settings(error.to_string()))
        };
        let tls = match settings.encryption {
            Encryption::StartTls => Tls::Required(parameters()?),
            Encryption::Tls => Tls::Wrapper(parameters()?),
            Encryption::None => Tls::None,
        };
        let mut builder =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(settings.host.as_str())
                .port(settings.port)
                .tls(tls)
                .timeout(Some(SMTP_TIMEOUT));
        if let Some((user, password)) = &settings.credentials {
            builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
        }
        Ok(Mailer::Smtp(Box::new(Smtp {
            transport: builder.build(),
            from: mailbox(&settings.from)?,
            to: settings.to.iter().map(|to| mailbox(to)).collect::<Result<_, _>>()?,
        })))
    }

    /// Sends a mail to the administrators.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send(&self, mail: &Mail) -> Result<(), Error> {
        let smtp = match self {
            Mailer::Smtp(smtp) => smtp,
            Mailer::Log => {
                tracing::warn!(
                    subject = mail.subject,
                    "mail to the administrators:\n{}",
                    mail.body
                );
                return Ok(());
            }
        };
        let mut builder = Message::builder()
            .from(smtp.from.clone())
            .subject(mail.subject.as_str())
            .message_id(Some(format!("<{}@esh3ar>", mail.id)))
            .header(ContentType::TEXT_PLAIN);
        for to in &smtp.to {
            builder = builder.to(to.clone());
        }
        let message =
            builder.body(mail.body.clone()).map_err(|error| Error::Permanent(error.to_string()))?;
        match smtp.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(Error::Permanent(text(&error))),
            Err(error) if error.is_transient() => Err(Error::Temporary(text(&error))),
            Err(error) => Err(Error::Unreachable(text(&error))),
        }
    }

    /// Whether the mail server answers; `None` where there is none.
    pub async fn check(&self) -> Option<Result<(), Error>> {
        let Mailer::Smtp(smtp) = self else { return None };
        Some(match smtp.transport.test_connection().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Unreachable("it does not answer a greeting".to_owned())),
            Err(error) => Err(Error::Unreachable(text(&error))),
        })
    }
}

/// An error with its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
