//! The progress of a run, on a terminal.

use std::{
    io::IsTerminal as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::load::LoadProgress;

pub(super) struct Bar {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Bar {
    pub(super) fn start(progress: &Arc<LoadProgress>) -> Bar {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        let (drawn, progress) = (bar.clone(), Arc::clone(progress));
        let task = tokio::spawn(async move {
            loop {
                let read = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
                drawn.set_message(format!(
                    "{} connected, {} accepted, {} received",
                    read(&progress.connected),
                    read(&progress.accepted),
                    read(&progress.received)
                ));
                drawn.tick();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Bar { bar, task }
    }

    pub(super) fn end(self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
