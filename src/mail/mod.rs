//! Mail to the administrators: over SMTP, or to the log where no server is configured.
//!
//! This room knows how a mail is sent and which kind of failure occurred, not what the mail says or when to try
//! again.

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

/// Timeout of each SMTP step.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

/// Encryption of the connection to the mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// STARTTLS, required (port 587).
    StartTls,
    /// Implicit TLS (port 465).
    Tls,
    /// For a server on this machine.
    None,
}

#[derive(Clone, Debug)]
pub struct SmtpSettings {
    pub host: String,
    pub port: u16,
    pub encryption: Encryption,
    /// User name and password, both or neither.
    pub credentials: Option<(String, String)>,
    /// The sender.
    pub from: String,
    pub to: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// A mail that is sent again has the same `Message-ID`.
    pub id: Uuid,
    pub subject: String,
    pub body: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Settings(String),
    /// The server cannot be reached or refuses the login.
    #[error("the mail server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the mail server refused for now: {0}")]
    Temporary(String),
    #[error("the mail server refused: {0}")]
    Permanent(String),
}

#[derive(Clone, Default)]
pub enum Mailer {
    Smtp(Box<Smtp>),
    #[default]
    Log,
}

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
    /// A mailer over SMTP. Connects with the first mail.
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

    /// Whether the mail server answers; `None` where none is configured.
    pub async fn check(&self) -> Option<Result<(), Error>> {
        let Mailer::Smtp(smtp) = self else { return None };
        Some(match smtp.transport.test_connection().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Unreachable("it does not answer a greeting".to_owned())),
            Err(error) => Err(Error::Unreachable(text(&error))),
        })
    }
}

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
