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

use crate::domain::network;

/// Timeout of each SMTP step.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

/// Encryption of the connection to the mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// STARTTLS, required (port 587).
    StartTls,
    /// Implicit TLS (port 465).
    Tls,
    /// Only for a server on this machine, or without credentials.
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

impl Smtp {
    async fn send(&self, to: &[Mailbox], mail: &Mail) -> Result<(), Error> {
        let mut builder = Message::builder()
            .from(self.from.clone())
            .subject(mail.subject.as_str())
            .message_id(Some(format!("<{}@esh3ar>", mail.id)))
            .header(ContentType::TEXT_PLAIN);
        for to in to {
            builder = builder.to(to.clone());
        }
        let message =
            builder.body(mail.body.clone()).map_err(|error| Error::Permanent(error.to_string()))?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(Error::Permanent(text(&error))),
            Err(error) if error.is_transient() => Err(Error::Temporary(text(&error))),
            Err(error) => Err(Error::Unreachable(text(&error))),
        }
    }
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
    /// [`Error::Settings`], also for credentials that would cross the network without TLS.
    pub fn smtp(settings: &SmtpSettings) -> Result<Mailer, Error> {
        if settings.encryption == Encryption::None
            && settings.credentials.is_some()
            && !network::is_this_machine(&settings.host)
        {
            let why = "a password needs TLS beyond this machine: set smtp.tls to starttls or tls";
            return Err(Error::Settings(why.to_owned()));
        }
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

    /// Sends a mail to one address over SMTP. Its text is never logged.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Settings`] without a server, or if the address is none.
    pub async fn send_to(&self, address: &str, mail: &Mail) -> Result<(), Error> {
        let Mailer::Smtp(smtp) = self else {
            return Err(Error::Settings("no mail server is configured".to_owned()));
        };
        smtp.send(std::slice::from_ref(&mailbox(address)?), mail).await
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
        smtp.send(&smtp.to, mail).await
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    fn settings(host: &str, port: u16, encryption: Encryption) -> SmtpSettings {
        SmtpSettings {
            host: host.to_owned(),
            port,
            encryption,
            credentials: Some(("who".to_owned(), "hunter2".to_owned())),
            from: "a@example.org".to_owned(),
            to: vec!["b@example.org".to_owned()],
        }
    }

    /// A server that knows no TLS and would take any login; what it was sent.
    async fn sent_to_a_server_without_tls(encryption: Encryption) -> (String, Error) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.write_all(b"220 here\r\n").await.unwrap();
            let (mut heard, mut line) = (Vec::new(), Vec::new());
            while stream.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                let answer: &[u8] = match line.starts_with(b"EHLO") {
                    true => b"250-here\r\n250 AUTH PLAIN LOGIN\r\n",
                    false => b"235 go on\r\n",
                };
                heard.append(&mut line);
                if stream.write_all(answer).await.is_err() {
                    break;
                }
            }
            heard.append(&mut line);
            String::from_utf8_lossy(&heard).into_owned()
        });
        let mailer = Mailer::smtp(&settings("127.0.0.1", port, encryption)).unwrap();
        let mail = Mail { id: Uuid::nil(), subject: "s".to_owned(), body: "b".to_owned() };
        let sending = tokio::time::timeout(SMTP_TIMEOUT * 2, mailer.send(&mail));
        let error = sending.await.unwrap().unwrap_err();
        drop(mailer);
        (server.await.unwrap(), error)
    }

    #[tokio::test]
    async fn a_server_without_tls_gets_no_login() {
        let (heard, error) = sent_to_a_server_without_tls(Encryption::StartTls).await;
        assert!(heard.starts_with("EHLO"), "{heard}");
        assert!(!heard.contains("AUTH") && !heard.contains("hunter2"), "{heard}");
        // base64 of the NUL, the name and the password.
        assert!(!heard.contains("AHdobwBodW50ZXIy"), "{heard}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_password_needs_tls_beyond_this_machine() {
        let made = |host: &str, encryption| Mailer::smtp(&settings(host, 587, encryption));
        let refused = made("mail.example.org", Encryption::None).unwrap_err().to_string();
        assert!(refused.contains("starttls") && !refused.contains("hunter2"), "{refused}");
        assert!(made("mail.example.org", Encryption::StartTls).is_ok());
        assert!(made("mail.example.org", Encryption::Tls).is_ok());
        assert!(made("127.0.0.1", Encryption::None).is_ok());
        let mut without = settings("mail.example.org", 25, Encryption::None);
        without.credentials = None;
        assert!(Mailer::smtp(&without).is_ok());
    }
}
