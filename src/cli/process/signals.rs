//! The signals of a process that serves.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::io::exit::{ExitStatus, Failure};

/// The signals that end the appliance.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(crate) fn listen() -> Result<StopSignals, Failure> {
        let failed = |error: std::io::Error| Failure::new(ExitStatus::Failed, error.to_string());
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The signals of `esh3ar drain`.
pub(crate) struct DrainSignals {
    begin: Signal,
    end: Signal,
}

impl DrainSignals {
    pub(crate) fn listen() -> Result<DrainSignals, Failure> {
        let failed = |error: std::io::Error| Failure::new(ExitStatus::Failed, error.to_string());
        Ok(DrainSignals {
            begin: signal(SignalKind::user_defined1()).map_err(failed)?,
            end: signal(SignalKind::user_defined2()).map_err(failed)?,
        })
    }

    /// Whether to begin draining, or to end it.
    pub(crate) async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.begin.recv() => true,
            _ = self.end.recv() => false,
        }
    }
}

/// SIGHUP: reload the configuration. Without a handler it would end the process.
pub(crate) struct ReloadSignal(Signal);

impl ReloadSignal {
    pub(crate) fn listen() -> Result<ReloadSignal, Failure> {
        let failed = |error: std::io::Error| Failure::new(ExitStatus::Failed, error.to_string());
        signal(SignalKind::hangup()).map(ReloadSignal).map_err(failed)
    }

    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}
