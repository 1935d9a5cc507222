//! Options that name a server elsewhere.

use std::{
    fs::File,
    io::Read as _,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    cli::{
        io::{
            exit::{ExitStatus, Failure},
            output::Output,
        },
        privilege,
    },
    client::ApiClient,
    config,
};

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RemoteArgs {
    /// Administer the server at this address over its API, not the database of this machine
    /// [env: ESH3AR_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File with the token for --url, listen or chat; - for standard input [env: ESH3AR_TOKEN, the token
    /// itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Also trust the certificates in this PEM file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The content of the file.
    #[arg(skip)]
    pub(super) token: Option<String>,
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

    /// The token in the file of `--token-file`, if there is one.
    pub(super) fn read_token_file(&self, output: &Output) -> Result<Option<String>, Failure> {
        let Some(path) = &self.token_file else { return Ok(None) };
        if let Some(token) = privilege::inherited_token() {
            return Ok(Some(token));
        }
        let text = if path == Path::new("-") {
            read_line_of_input()?
        } else {
            // A pipe has no mode to mind.
            let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
            if file.is_some_and(|file| file.permissions().mode() & 0o077 != 0) {
                let path = path.display();
                output.note(&format!("others can read {path}; run: chmod 600 {path}"));
            }
            read_text(path, config::MAX_SECRET_LEN)?
        };
        Ok(Some(text.trim().to_owned()))
    }

    /// The token of `listen` and `chat`: from `--token`, which warns, from `--token-file`, or from
    /// `ESH3AR_TOKEN`.
    pub(super) fn session_token(&self, argument: Option<&str>, output: &Output) -> Option<String> {
        if argument.is_some() {
            output.note(
                "--token is visible in the list of processes; use --token-file or ESH3AR_TOKEN",
            );
        }
        let exported = || std::env::var("ESH3AR_TOKEN").ok();
        let token = argument.map(str::to_owned).or_else(|| self.token.clone()).or_else(exported);
        token.filter(|token| !token.is_empty())
    }

    fn token(&self) -> Result<String, Failure> {
        let exported = || std::env::var("ESH3AR_TOKEN").unwrap_or_default();
        let token = self.token.clone().unwrap_or_else(exported);
        let token = token.trim();
        if token.is_empty() || token.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Failure::new(ExitStatus::Usage, "--url needs an administrator's token")
                .hint("use --token-file FILE or ESH3AR_TOKEN; create a token on the server: esh3ar token create --user NAME"));
        }
        Ok(token.to_owned())
    }
}

/// The first line of standard input, byte by byte: the rest is the command's.
fn read_line_of_input() -> Result<String, Failure> {
    let failed = |what: String| Failure::new(ExitStatus::Config, what);
    let input = std::io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let mut input = input.map_err(|error| failed(format!("standard input: {error}")))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() as u64 <= config::MAX_SECRET_LEN {
        match input.read(&mut byte) {
            Ok(1) if byte != *b"\n" => line.extend_from_slice(&byte),
            Ok(_) => break,
            Err(error) => return Err(failed(format!("standard input: {error}"))),
        }
    }
    String::from_utf8(line).map_err(|_| failed("standard input is not text".to_owned()))
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
