//! Where the steps of traced messages go.

use tokio::sync::mpsc;

use crate::domain::{
    MessageId,
    trace::{TraceSampler, TraceStep},
};

/// Whether messages are traced, and where their steps go.
#[derive(Clone, Debug, Default)]
pub enum Traces {
    #[default]
    Off,
    On {
        sample: TraceSampler,
        /// To the exporter.
        steps: mpsc::Sender<TraceStep>,
    },
}

impl Traces {
    pub(super) fn is_on(&self) -> bool {
        matches!(self, Traces::On { .. })
    }

    pub(super) fn follow(&self, id: MessageId) -> bool {
        match self {
            Traces::Off => false,
            Traces::On { sample, .. } => sample.takes(id),
        }
    }

    pub(super) fn note(&self, step: TraceStep) {
        if let Traces::On { steps, .. } = self
            && steps.try_send(step).is_err()
        {
            metrics::counter!("esh3ar_trace_spans_total", "result" => "dropped").increment(1);
        }
    }
}
