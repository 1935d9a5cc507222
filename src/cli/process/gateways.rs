//! What calls servers of others, as the configuration says.

use std::fs;

use crate::{
    cli::io::exit::{ExitStatus, Failure},
    config::Config,
    sms::SmsGateways,
};

/// Certificates that are trusted in addition to the system's, in PEM.
pub(crate) fn extra_roots(config: &Config) -> Result<Option<Vec<u8>>, Failure> {
    let Some(path) = &config.outbound.ca_file else { return Ok(None) };
    fs::read(path).map(Some).map_err(|error| {
        Failure::new(ExitStatus::Config, format!("outbound.ca_file: {}: {error}", path.display()))
            .hint("run: esh3ar config check")
    })
}

/// The gateways for SMS.
pub(crate) fn sms(config: &Config) -> Result<SmsGateways, Failure> {
    let gateways = config.sms.gateways.clone();
    if gateways.is_empty() {
        return Ok(SmsGateways::default());
    }
    let roots = extra_roots(config)?;
    SmsGateways::new(gateways, roots.as_deref()).map_err(|error| {
        Failure::new(ExitStatus::Config, format!("outbound.ca_file {error}"))
            .hint("run: esh3ar config check")
    })
}
