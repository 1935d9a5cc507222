//! Applies a changed configuration to the running process.

use super::{
    addresses, database,
    state_file::{ReloadOutcome, StateFile},
};
use crate::{
    app::{App, Clock},
    cli::{
        io::exit::{ExitStatus, Failure},
        setup::Setup,
    },
    config::{LoadedConfig, keys::is_reloadable},
    server::tls::Tls,
    telemetry::notify,
};

/// Reloads the configuration, and remembers what is in effect.
pub(crate) struct Reloader<'a> {
    setup: &'a Setup,
    /// In effect for the keys that may change; for all others, `setup` is.
    current: LoadedConfig,
    number: u64,
}

impl Reloader<'_> {
    pub(crate) fn new(setup: &Setup) -> Reloader<'_> {
        note_success();
        Reloader { setup, current: setup.loaded.clone(), number: 0 }
    }

    /// Applies the keys that are live ([`is_reloadable`]) and the certificate; reports the other changed keys as
    /// waiting for a restart. An invalid configuration changes nothing. The outcome goes into `state_file`,
    /// where `esh3ar reload` reads it.
    pub(crate) fn reload(
        &mut self,
        app: &App,
        tls: Option<&Tls>,
        state_file: &mut StateFile,
        status: &str,
    ) {
        notify::reloading();
        self.number += 1;
        let reloaded = self.apply(app, tls).unwrap_or_else(|failure| {
            tracing::error!(
                why = failure.what,
                "configuration not applied; run: esh3ar config check"
            );
            ReloadOutcome {
                number: self.number,
                taken_up: false,
                changed: Vec::new(),
                waiting: Vec::new(),
                why: Some(failure.what),
            }
        });
        let result = if reloaded.taken_up { "taken_up" } else { "refused" };
        metrics::counter!("esh3ar_config_reloads_total", "result" => result).increment(1);
        state_file.record_reload(&reloaded);
        notify::ready(status);
    }

    fn apply(&mut self, app: &App, tls: Option<&Tls>) -> Result<ReloadOutcome, Failure> {
        let loaded = addresses::load(self.setup.config_loader.read()?)?;
        // Everything that can fail comes first, so that nothing is applied by half.
        let settings = database::runtime_settings(&loaded.config)?;
        if let Some(keys) = app.keys() {
            keys.reload()?;
        }
        let level = &loaded.config.log.level;
        let levelled = self.setup.level.set(level);
        levelled.map_err(|error| Failure::new(ExitStatus::Config, error.to_string()))?;
        app.process.apply(settings);
        let renewed = tls.map_or(Ok(()), Tls::renew);
        let why = renewed.err().map(|error| {
            tracing::error!(%error, "keeping the old certificate");
            format!("keeping the old certificate: {error}")
        });
        let names = |keys: Vec<String>, live: bool| -> Vec<String> {
            keys.into_iter().filter(|key| is_reloadable(key) == live).collect()
        };
        let changed = names(loaded.changed_since(&self.current), true);
        let waiting = names(loaded.changed_since(&self.setup.loaded), false);
        let (current, left) = (changed.join(", "), waiting.join(", "));
        if waiting.is_empty() {
            tracing::info!(changed = current, "configuration applied");
        } else {
            tracing::warn!(
                changed = current,
                keys = left,
                "configuration applied; these keys need a restart"
            );
        }
        self.current = loaded;
        note_success();
        Ok(ReloadOutcome { number: self.number, taken_up: true, changed, waiting, why })
    }
}

fn note_success() {
    let now = Clock::System.now().unix_timestamp();
    metrics::gauge!("esh3ar_config_last_reload_success_timestamp_seconds").set(now as f64);
}
