//! `listen`: a device in a terminal. Shows what a token's owner is sent, and acknowledges it.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{privilege::OpenFiles, signals::StopSignals, state_file};
use crate::cli::{
    io::{
        answer::read,
        exit::{ExitStatus, Failure},
        sanitize,
    },
    setup::Setup,
    spec::{CommandFuture, ConfigAccess, Runnable, Scope, Spec},
};
use crate::{
    client::{self, HubClient, HubEvent},
    server::view::{MessageView, StatusChanged, Typing},
};

/// How long an acknowledgement may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait before it connects again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Token of the phone or business user (esh3ar token create)
    #[arg(long, env = "ESH3AR_TOKEN", hide_env_values = true)]
    token: String,
    /// Where a gateway is [default: the one that serves this data folder]
    #[arg(long)]
    url: Option<String>,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Show messages without acknowledging them
    #[arg(long)]
    keep: bool,
}

impl Runnable for ListenArgs {
    fn spec(&self) -> Spec {
        let needs_nothing_here = self.url.is_some();
        Spec {
            scope: Scope::OwnOption,
            configuration: ConfigAccess::lenient_if(needs_nothing_here),
            ..Spec::LOCAL
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, &self).await })
    }
}

fn connect_error(url: &str, error: client::Error) -> Failure {
    if error.is_auth_error() {
        let what = format!("{url} does not take this token");
        let hint = "it expired or was revoked, or is another server's: make a new one with esh3ar token create";
        return Failure::new(ExitStatus::Refused, what).hint(hint);
    }
    Failure::new(ExitStatus::Unavailable, format!("{url} cannot be listened to: {error}"))
        .hint("check --url, and that esh3ar serve runs there")
}

async fn run(setup: &Setup, arguments: &ListenArgs) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let url = match &arguments.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => {
            let found = state_file::running_server(&setup.data_dir).ok_or_else(|| {
                let what = format!("nobody serves {}", setup.data_dir.display());
                Failure::new(ExitStatus::Unavailable, what)
                    .hint("start esh3ar serve, or give --url")
            })?;
            format!("http://{}", found.http)
        }
    };
    // A wrong address or token is told at once; whatever comes later is waited out.
    let hub = HubClient::connect(&url, &arguments.token)
        .await
        .map_err(|error| connect_error(&url, error))?;
    tokio::select! {
        () = signals.next() => Ok(()),
        ended = follow(setup, arguments, &url, hub) => ended,
    }
}

/// Until there were messages enough, or the token is good for nothing any more.
async fn follow(
    setup: &Setup,
    arguments: &ListenArgs,
    url: &str,
    mut hub: HubClient,
) -> Result<(), Failure> {
    setup.output.note(&format!("connected to {url}"));
    let mut left = arguments.count.unwrap_or(usize::MAX);
    loop {
        let Ok(event) = hub.next().await else {
            setup.output.note("the connection was lost; connecting again");
            hub = loop {
                tokio::time::sleep(RECONNECT_DELAY).await;
                match HubClient::connect(url, &arguments.token).await {
                    Ok(again) => break again,
                    Err(error) if error.is_auth_error() => return Err(connect_error(url, error)),
                    Err(_) => {}
                }
            };
            setup.output.note(&format!("connected to {url}"));
            continue;
        };
        if let HubEvent::Invocation { target, arguments: told } = &event
            && let Some(line) = signal(target, told)
        {
            setup.output.note(&line);
        }
        let messages = messages(event);
        let views: Vec<MessageView<'_>> = messages.iter().map(read).collect::<Result<_, _>>()?;
        let ids: Vec<uuid::Uuid> = views.iter().map(|view| view.id).collect();
        for (message, view) in messages.iter().zip(&views) {
            show(setup, message, view);
            left = left.saturating_sub(1);
        }
        if !arguments.keep && !ids.is_empty() {
            // One that is lost comes again, with the next connection.
            let _ = hub.call("Acknowledge", vec![json!(ids)], ACK_TIMEOUT).await;
        }
        if left == 0 {
            hub.close().await;
            return Ok(());
        }
    }
}

fn show(setup: &Setup, message: &Value, view: &MessageView<'_>) {
    let MessageView { id, seq, from, subject, content, .. } = view;
    let seq = seq.map(|seq| format!(" #{seq}")).unwrap_or_default();
    let subject = subject.map(|s| format!("{s}: ")).unwrap_or_default();
    let line = format!("{id}{seq}  {from}  {subject}{content}");
    setup.output.event(&sanitize::line(&line), message);
}

/// What is told beside messages, in words.
fn signal(target: &str, told: &[Value]) -> Option<String> {
    let told = told.first()?;
    match target {
        "MessageStatusChanged" => {
            let StatusChanged { id, status, .. } = read(told).ok()?;
            Some(format!("{id} is {status}"))
        }
        "Typing" => {
            let Typing { from, .. } = read(told).ok()?;
            Some(format!("{from} is writing"))
        }
        _ => None,
    }
}

/// The messages of a call of the server's.
pub(crate) fn messages(event: HubEvent) -> Vec<Value> {
    match event {
        HubEvent::Invocation { target, arguments } if target == "ReceiveMessage" => arguments,
        HubEvent::Invocation { target, mut arguments } if target == "ReceivePendingMessages" => {
            match arguments.pop() {
                Some(Value::Array(messages)) => messages,
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}
