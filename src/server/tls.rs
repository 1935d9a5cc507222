//! TLS of the listener: 1.2 and above, with certificates that can be renewed while the process runs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::tls::crypto_provider;

const CHECK_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    /// Certificate and key do not match.
    #[error("{} and {} do not match: {why}", cert.display(), key.display())]
    Pair { cert: PathBuf, key: PathBuf, why: String },
}

/// Cheap to clone; clones use a renewed certificate, too.
#[derive(Clone)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

type Stamp = Vec<Option<(SystemTime, u64)>>;

impl Tls {
    /// Loads PEM files: a chain that starts with the server's certificate, and its key.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn load(cert: &Path, key: &Path) -> Result<Tls, TlsError> {
        let current = Arc::new(RwLock::new(Arc::new(config(cert, key)?)));
        Ok(Tls { cert: cert.to_owned(), key: key.to_owned(), current })
    }

    /// An acceptor with the current certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }

    /// Reloads changed files until `stop`. A pair that cannot be used is logged and the old one kept, because a
    /// renewal writes two files one after the other.
    pub async fn watch(self, stop: CancellationToken) {
        let mut seen = self.stamp();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            let now = self.stamp();
            if now == seen {
                continue;
            }
            match self.renew() {
                Ok(()) => seen = now,
                Err(error) => {
                    tracing::warn!(%error, "certificate reload failed; keeping the old certificate")
                }
            }
        }
    }

    /// Reloads the files.
    ///
    /// # Errors
    /// The pair cannot be used; the old one is kept.
    pub fn renew(&self) -> Result<(), TlsError> {
        let config = config(&self.cert, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        tracing::info!(cert = %self.cert.display(), "certificate reloaded");
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        [&self.cert, &self.key]
            .map(|path| {
                let data = fs::metadata(path).ok()?;
                Some((data.modified().ok()?, data.len()))
            })
            .to_vec()
    }
}

/// Names and validity of a certificate.
#[derive(Clone, Debug)]
pub struct Validity {
    pub names: Vec<String>,
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
}

/// Reads a pair without using it. The certificate of the chain that expires first decides.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn inspect(cert: &Path, key: &Path) -> Result<Validity, TlsError> {
    config(cert, key)?;
    let unreadable = |why: String| TlsError::File { path: cert.to_owned(), why };
    let mut found: Option<Validity> = None;
    let chain = CertificateDer::pem_file_iter(cert).map_err(|e| unreadable(e.to_string()))?;
    for der in chain {
        let der = der.map_err(|error| unreadable(error.to_string()))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
        let (from, until) = (&parsed.validity().not_before, &parsed.validity().not_after);
        let (from, until) = (from.to_datetime(), until.to_datetime());
        match &mut found {
            Some(found) => {
                found.from = found.from.max(from);
                found.until = found.until.min(until);
            }
            None => found = Some(Validity { names: names(&parsed), from, until }),
        }
    }
    found.ok_or_else(|| unreadable("it contains no certificate".to_owned()))
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.into_iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match **bytes {
                [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
                ref bytes => {
                    let bytes: [u8; 16] = bytes.try_into().ok()?;
                    Some(std::net::Ipv6Addr::from(bytes).to_string())
                }
            },
            _ => None,
        })
        .collect()
}

fn config(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let unreadable = |path: &Path, why: String| TlsError::File { path: path.to_owned(), why };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable(cert, "it contains no certificate".to_owned()));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error.to_string()))?;
    let pair = |why: rustls::Error| TlsError::Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        why: why.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
