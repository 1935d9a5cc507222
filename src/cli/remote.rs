//! Options that name a server elsewhere.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{
    cli::io::exit::{ExitStatus, Failure},
    client::ApiClient,
    config,
};

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RemoteArgs {
    /// Administer the server at this address over its API, not the database of this machine
    /// [env: ESH3AR_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File with an administrator's token for --url [env: ESH3AR_TOKEN, the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Also trust the certificates in this PEM file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

impl RemoteArgs {
    pub(super) fn api(&self, url: &str) -> Result<ApiClient, Failure> {
        if url.contains('@') {
            // Not quoted: it may contain a password.
            return Err(Failure::new(ExitStatus::Usage, "--url must not contain credentials")
                .hint("pass the token with --token-file FILE or ESH3AR_TOKEN"));
        }
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            return Err(Failure::new(
                ExitStatus::Usage,
                format!("'{url}' is not a valid server address"),
            )
            .hint("for example https://messages.example.org or http://127.0.0.1:5000"));
        }
        let roots =
            self.ca_file.as_deref().map(|path| read_text(path, MAX_CA_FILE_LEN)).transpose()?;
        ApiClient::with_ca(url, &self.token()?, roots.as_deref().map(str::as_bytes)).map_err(
            |error| {
                Failure::new(ExitStatus::Config, format!("invalid --ca-file: {error}"))
                    .hint("it must contain PEM certificates")
            },
        )
    }

    fn token(&self) -> Result<String, Failure> {
        let token = match &self.token_file {
            Some(path) => read_text(path, config::MAX_SECRET_LEN)?,
            None => std::env::var("ESH3AR_TOKEN").unwrap_or_default(),
        };
        let token = token.trim();
        if token.is_empty() || token.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Failure::new(ExitStatus::Usage, "--url needs an administrator's token")
                .hint("use --token-file FILE or ESH3AR_TOKEN; create a token on the server: esh3ar token create --user NAME"));
        }
        Ok(token.to_owned())
    }
}

fn read_text(path: &Path, most: u64) -> Result<String, Failure> {
    config::read_bounded(path, most).map_err(|error| {
        Failure::new(ExitStatus::Config, format!("{} cannot be read: {error}", path.display()))
            .hint("check its path, permissions and content")
    })
}

/// Whether the address is on this machine.
pub(super) fn is_loopback(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else { return false };
    let host = url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// In bytes.
const MAX_CA_FILE_LEN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    #[test]
    fn only_this_machine_is_near() {
        for near in ["http://127.0.0.1:5000", "http://localhost", "http://[::1]:80/x"] {
            assert!(super::is_loopback(near), "{near}");
        }
        for far in [
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://10.0.0.1",
            "x y",
        ] {
            assert!(!super::is_loopback(far), "{far}");
        }
    }
}
