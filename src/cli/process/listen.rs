//! `listen`: a device in the terminal. Prints the messages of a token's owner, and acknowledges them.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{signals::StopSignals, state_file};
use crate::{
    cli::{
        io::{
            answer::read,
            exit::{ExitStatus, Failure},
            sanitize,
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, ConfigAccess, Runnable, Scope, Spec},
    },
    client::{self, HubClient, HubEvent},
    server::view::{MessageView, StatusChanged, Typing},
};

/// For one acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Before each attempt to reconnect.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Token of the phone or business user (see esh3ar token create)
    /// [env: ESH3AR_TOKEN]; visible to other users of this machine: --token-file FILE is not
    #[arg(long)]
    token: Option<String>,
    /// Server address [default: the server of the data folder]
    #[arg(long)]
    url: Option<String>,
    /// Exit after this many messages
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Do not acknowledge messages
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
        let what = format!("{url} rejected the token");
        let hint = "it has expired, was revoked, or belongs to another server; create one with esh3ar token create";
        return Failure::new(ExitStatus::Refused, what).hint(hint);
    }
    Failure::new(ExitStatus::Unavailable, format!("cannot connect to {url}: {error}"))
        .hint("check --url, and that esh3ar serve is running there")
}

async fn run(setup: &Setup, arguments: &ListenArgs) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let token = setup.remote.session_token(arguments.token.as_deref(), &setup.output);
    let token = token.ok_or_else(|| {
        Failure::new(ExitStatus::Usage, "missing token")
            .hint("use --token-file FILE or ESH3AR_TOKEN")
    })?;
    let url = match &arguments.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => {
            let found = state_file::running_server(&setup.data_dir).ok_or_else(|| {
                let what = format!("no server is running on {}", setup.data_dir.display());
                Failure::new(ExitStatus::Unavailable, what).hint("run: esh3ar serve, or use --url")
            })?;
            format!("http://{}", found.http)
        }
    };
    // A wrong address or token fails at once; a later loss of the connection is waited out.
    let hub = HubClient::connect(&url, &token).await.map_err(|error| connect_error(&url, error))?;
    tokio::select! {
        () = signals.next() => Ok(()),
        ended = follow(setup, arguments, (&url, &token), hub) => ended,
    }
}

/// Until enough messages came, or the token is rejected.
async fn follow(
    setup: &Setup,
    arguments: &ListenArgs,
    (url, token): (&str, &str),
    mut hub: HubClient,
) -> Result<(), Failure> {
    setup.output.note(&format!("connected to {url}"));
    let mut left = arguments.count.unwrap_or(usize::MAX);
    loop {
        let Ok(event) = hub.next().await else {
            setup.output.note("connection lost; reconnecting");
            hub = loop {
                tokio::time::sleep(RECONNECT_DELAY).await;
                match HubClient::connect(url, token).await {
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
            // A message whose acknowledgement is lost is redelivered on the next connection.
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

/// A status change or typing signal, in words.
fn signal(target: &str, told: &[Value]) -> Option<String> {
    let told = told.first()?;
    match target {
        "MessageStatusChanged" => {
            let StatusChanged { id, status, .. } = read(told).ok()?;
            Some(format!("{id} is {status}"))
        }
        "Typing" => {
            let Typing { from, .. } = read(told).ok()?;
            Some(format!("{from} is typing"))
        }
        _ => None,
    }
}

/// The messages that the server pushed with a call.
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
