//! TLS as a client: the one crypto provider, and the one loader of the certificates that the system trusts.
//!
//! Every room that opens a TLS connection by itself takes its configuration from here. The certificate that
//! the gateway shows is in `server/tls.rs`.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};

/// The crypto provider of the whole process: ring.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes it the default, for libraries that take the provider of the process.
pub fn install_crypto_provider() {
    // Fails only when a provider is installed already, and there is no other than this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The certificates that the system trusts. An unreadable one is skipped, so that it does not keep the
/// others from use.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        let _ = roots.add(certificate);
    }
    roots
}

/// A client configuration that trusts what the system trusts.
///
/// # Errors
/// The provider supports no version of TLS that is considered safe.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(system_roots())
        .with_no_client_auth())
}
