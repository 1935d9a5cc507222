//! The terminal: taken, drawn on, read from, and restored however the program ends.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEvent, KeyEventKind},
};
use tokio::sync::mpsc;

use super::{model::Model, view};
use crate::cli::io::exit::{ExitStatus, Failure};

/// The whole terminal. Restored on drop, and by a hook when the program panics.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    gone: Arc<AtomicBool>,
}

/// How often the key thread checks whether the screen still exists.
const KEY_POLL_INTERVAL: Duration = Duration::from_millis(100);

fn failed(error: &io::Error) -> Failure {
    Failure::new(ExitStatus::Failed, format!("the terminal: {error}"))
        .hint("use: esh3ar top --once")
}

impl Screen {
    pub(super) fn take() -> Result<Screen, Failure> {
        let terminal = ratatui::try_init().map_err(|error| {
            let _ = ratatui::try_restore();
            failed(&error)
        })?;
        Ok(Screen { terminal, gone: Arc::default() })
    }

    pub(super) fn draw(&mut self, model: &Model) -> Result<(), Failure> {
        failpoint(model);
        let drawn = self.terminal.draw(|frame| view::draw(frame, model));
        drawn.map(|_| ()).map_err(|error| failed(&error))
    }

    /// The typed keys. A thread reads them, and ends soon after the screen is dropped.
    pub(super) fn keys(&self) -> Keys {
        let (tell, told) = mpsc::channel(64);
        let gone = Arc::clone(&self.gone);
        std::thread::spawn(move || {
            while !gone.load(Ordering::Acquire) {
                let event = match event::poll(KEY_POLL_INTERVAL) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let typed = match event {
                    Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => Some(key),
                    Ok(Event::Resize(..)) => None,
                    Ok(_) => continue,
                    // The terminal is gone.
                    Err(_) => return,
                };
                if tell.blocking_send(typed).is_err() {
                    return;
                }
            }
        });
        Keys { told }
    }
}

/// Where a test makes the dashboard panic, in development builds only.
fn failpoint(model: &Model) {
    let here = cfg!(debug_assertions) && model.data.is_some();
    if here && std::env::var("ESH3AR_FAILPOINT").is_ok_and(|name| name == "top_draw") {
        panic!("a test wanted this");
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
        ratatui::restore();
    }
}

pub(super) struct Keys {
    told: mpsc::Receiver<Option<KeyEvent>>,
}

impl Keys {
    /// The next key, `Some(None)` when the terminal was resized, or `None` when it is gone.
    pub(super) async fn next(&mut self) -> Option<Option<KeyEvent>> {
        self.told.recv().await
    }
}
