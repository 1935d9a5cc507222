//! The options of `init`.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Address of the API and the hub (http.listen)
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Option<String>,
    /// Certificate chain in PEM, to serve TLS (http.tls_cert)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<String>,
    /// Private key of the certificate, in PEM (http.tls_key)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<String>,
    /// Region of phone numbers without a country code, such as YE (phone.default_region)
    #[arg(long, value_name = "REGION")]
    pub(super) default_region: Option<String>,
    /// External Postgres instead of the embedded one; @FILE reads the URL from a file (database.url)
    #[arg(long, value_name = "URL|@FILE")]
    pub(super) database_url: Option<String>,
    /// RabbitMQ, for several processes; @FILE reads the URL from a file (queue.url)
    #[arg(long, value_name = "URL|@FILE")]
    pub(super) queue_url: Option<String>,
    /// Redis, for several processes; @FILE reads the URL from a file (cache.url)
    #[arg(long, value_name = "URL|@FILE")]
    pub(super) cache_url: Option<String>,
    /// Mail server for alerts (smtp.host)
    #[arg(long, value_name = "HOST")]
    pub(super) smtp_host: Option<String>,
    /// Sender address of alerts (smtp.from)
    #[arg(long, value_name = "ADDRESS")]
    pub(super) smtp_from: Option<String>,
    /// Recipients of alerts, comma-separated (smtp.to)
    #[arg(long, value_name = "LIST")]
    pub(super) smtp_to: Option<String>,
    /// User name on the mail server (smtp.username)
    #[arg(long, value_name = "NAME")]
    pub(super) smtp_username: Option<String>,
    /// File with the password on the mail server (smtp.password_file)
    #[arg(long, value_name = "FILE")]
    pub(super) smtp_password_file: Option<String>,
    /// Name of the first administrator [default: admin]
    #[arg(long, value_name = "NAME")]
    pub(super) admin: Option<String>,
    /// Ask no questions; use the defaults
    #[arg(long)]
    pub(super) yes: bool,
}

impl InitArgs {
    /// The keys that options set, in the order of the questions.
    pub(super) fn given(&self) -> Vec<(&'static str, String)> {
        let password = self.smtp_password_file.as_ref().map(|path| format!("@{path}"));
        [
            ("http.listen", &self.listen),
            ("http.tls_cert", &self.tls_cert),
            ("http.tls_key", &self.tls_key),
            ("phone.default_region", &self.default_region),
            ("database.url", &self.database_url),
            ("queue.url", &self.queue_url),
            ("cache.url", &self.cache_url),
            ("smtp.host", &self.smtp_host),
            ("smtp.from", &self.smtp_from),
            ("smtp.to", &self.smtp_to),
            ("smtp.username", &self.smtp_username),
            ("smtp.password", &password),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.clone()?)))
        .collect()
    }
}
