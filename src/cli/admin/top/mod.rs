//! `top`: a live dashboard in the terminal, or a report as text or JSON.

mod model;
mod panel;
mod report;
mod rows;
mod source;
mod state;
mod terminal;
mod text;
mod view;

use std::sync::{Arc, atomic::Ordering};

use clap::Args;
use tokio::sync::mpsc;

use super::{audit_reason::AuditReason, transport::AdminClient};
use crate::{
    app::Clock,
    cli::{
        io::{
            answer::read,
            exit::{ExitStatus, Failure},
            output::{self, Format},
            sanitize,
        },
        privilege::OpenFiles,
        process::{database, signals::StopSignals},
        setup::Setup,
        spec::{CommandFuture, LogLevel, Runnable, Spec, TOP_NAME},
    },
};
use model::{Effect, Model, Msg, Theme};
use source::{POLL_INTERVAL, PollRequests, StatsSource};
use terminal::{Keys, Screen};

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Print once and exit, also on a terminal
    #[arg(long)]
    once: bool,
    /// Disable changes, such as requeue
    #[arg(long)]
    readonly: bool,
    /// Show full phone numbers; each is recorded in the audit log
    #[arg(long)]
    numbers: bool,
    #[command(flatten)]
    why: AuditReason,
}

impl Runnable for TopArgs {
    fn spec(&self) -> Spec {
        let log = if self.once { LogLevel::Warnings } else { LogLevel::OffOnScreen };
        Spec { name: TOP_NAME, log, ..Spec::ADMIN }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { Box::pin(run(setup, &self)).await })
    }
}

async fn run(setup: &Setup, arguments: &TopArgs) -> Result<(), Failure> {
    if !arguments.once && output::is_full_screen(setup.output.format()) {
        return live(setup, arguments).await;
    }
    let mut signals = StopSignals::listen()?;
    let admin = AdminClient::open(setup).await?;
    let source = StatsSource { transport: admin.clone(), why: Arc::new(arguments.why.clone()) };
    let stream = setup.output.format() == Format::Jsonl && !arguments.once;
    let result = tokio::select! {
        result = print(setup, &source, arguments, stream) => result,
        () = signals.next() => Ok(()),
    };
    drop(source);
    admin.close(result).await
}

/// Prints once, or every two seconds while somebody reads.
async fn print(
    setup: &Setup,
    source: &StatsSource,
    arguments: &TopArgs,
    stream: bool,
) -> Result<(), Failure> {
    loop {
        let stats = source.stats(arguments.numbers).await?;
        if setup.output.is_table() {
            setup.output.text(&sanitize::text(&report::page(&read(&stats)?)));
        } else {
            setup.output.record(&stats);
        }
        if !stream || !setup.output.has_reader() {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Colour unless NO_COLOR is set; other characters than ASCII if the locale has them.
fn theme(variable: impl Fn(&str) -> Option<String>) -> Theme {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let locale = given("LC_ALL").or_else(|| given("LC_CTYPE")).or_else(|| given("LANG"));
    let locale = locale.unwrap_or_default().to_lowercase();
    Theme {
        colour: given("NO_COLOR").is_none(),
        ascii: !locale.contains("utf-8") && !locale.contains("utf8"),
    }
}

async fn live(setup: &Setup, arguments: &TopArgs) -> Result<(), Failure> {
    // An invalid reason is reported before the screen is taken.
    setup.by(&arguments.why)?;
    let mut signals = StopSignals::listen()?;
    let theme = theme(|name| std::env::var(name).ok());
    let mut model = Model::new(theme, arguments.readonly, arguments.numbers, Clock::System.now());
    // Remarks on the connection are printed before the screen is taken, too.
    let there = AdminClient::remote(setup)?;
    let mut screen = Screen::take()?;
    let mut keys = screen.keys();
    // Something to see before the first answer.
    screen.draw(&model)?;
    let opening = Box::pin(async {
        match there {
            Some(there) => Ok(there),
            None => database::open(setup).await.map(AdminClient::in_process),
        }
    });
    let admin = tokio::select! {
        admin = opening => admin,
        () = quit(&mut keys, &mut model, &mut screen) => {
            drop(screen);
            return Ok(());
        }
        () = signals.next() => return Ok(()),
    };
    let admin = admin?;
    let source = StatsSource { transport: admin.clone(), why: Arc::new(arguments.why.clone()) };
    let result = tokio::select! {
        result = drive(&mut model, &mut screen, &mut keys, source) => result,
        () = signals.next() => Ok(()),
    };
    // The terminal first: closing may take a moment.
    drop(screen);
    admin.close(result).await
}

/// Waits for a key that quits.
async fn quit(keys: &mut Keys, model: &mut Model, screen: &mut Screen) {
    while let Some(key) = keys.next().await {
        if key.is_some_and(|key| model.update(Msg::Key(key)) == Some(Effect::Quit)) {
            return;
        }
        let _ = screen.draw(model);
    }
}

async fn drive(
    model: &mut Model,
    screen: &mut Screen,
    keys: &mut Keys,
    source: StatsSource,
) -> Result<(), Failure> {
    let (tell, mut told) = mpsc::channel(16);
    let requests = Arc::new(PollRequests::default());
    requests.numbers.store(model.numbers, Ordering::Release);
    let mut watching = tokio::spawn(source.clone().watch(tell.clone(), Arc::clone(&requests)));
    let mut seconds = tokio::time::interval(std::time::Duration::from_secs(1));
    seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let result = loop {
        let msg = tokio::select! {
            key = keys.next() => match key {
                Some(Some(key)) => Msg::Key(key),
                // The terminal was resized.
                Some(None) => Msg::Tick(Clock::System.now()),
                None => break Ok(()),
            },
            Some(msg) = told.recv() => msg,
            _ = seconds.tick() => Msg::Tick(Clock::System.now()),
            ended = &mut watching => {
                let why = ended.err().map_or_else(|| "it stopped".to_owned(), |e| e.to_string());
                break Err(Failure::new(ExitStatus::Failed, format!("the refresh failed: {why}")));
            }
        };
        model.now = Clock::System.now();
        match model.update(msg) {
            Some(Effect::Quit) => break Ok(()),
            Some(Effect::Refresh) => {
                requests.numbers.store(model.numbers, Ordering::Release);
                requests.refresh.notify_one();
            }
            Some(effect) => act(effect, &source, &tell),
            None => {}
        }
        if let Err(failure) = screen.draw(model) {
            break Err(failure);
        }
    };
    watching.abort();
    result
}

/// Performs an effect in a task of its own: the screen never waits.
fn act(effect: Effect, source: &StatsSource, tell: &mpsc::Sender<Msg>) {
    let (source, tell) = (source.clone(), tell.clone());
    match effect {
        Effect::Quit | Effect::Refresh => {}
        Effect::Explain(id) => {
            tokio::spawn(async move {
                let story = source.story(id).await.map_err(|failure| failure.what);
                let _ = tell.send(Msg::Explained(id, Box::new(story))).await;
            });
        }
        Effect::Requeue(id) => {
            tokio::spawn(async move {
                let done = source.requeue(id).await.map_err(|failure| failure.what);
                let _ = tell.send(Msg::Requeued(id, done)).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_follows_the_environment() {
        let with = |variables: &'static [(&str, &str)]| {
            theme(move |name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let plain = with(&[]);
        assert!(plain.ascii && plain.colour);
        let modern = with(&[("LANG", "ar_YE.UTF-8"), ("NO_COLOR", "")]);
        assert!(!modern.ascii && modern.colour);
        let bare = with(&[("LANG", "en_US.utf8"), ("LC_ALL", "C"), ("NO_COLOR", "1")]);
        assert!(bare.ascii && !bare.colour);
    }
}
