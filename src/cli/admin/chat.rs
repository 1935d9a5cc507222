//! `chat`: a conversation in the terminal, as any client of the hub.

use std::{
    collections::HashSet,
    io::{BufRead as _, IsTerminal as _},
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    app::{
        App,
        identity::tokens::{Issued, Lifetime},
    },
    cli::{
        io::{
            answer::read,
            exit::{ExitStatus, Failure},
            output::{self, pluralize},
            sanitize,
        },
        privilege::OpenFiles,
        process::{database, operator::operator, signals::StopSignals, state_file::running_server},
        setup::Setup,
        spec::{CommandFuture, ConfigAccess, Runnable, Scope, Spec},
    },
    client::{self, ApiClient, HubClient, HubEvent},
    domain::{Party, TokenId},
    server::view::{ConversationView, MessageView},
};

/// For one call of the hub.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Before each attempt to reconnect.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// For a server that was started just before.
const SERVER_START_TIMEOUT: Duration = Duration::from_secs(15);
/// Earlier messages that are shown first.
const MAX_HISTORY_LEN: usize = 10;
/// Typed lines that wait to be sent.
const INPUT_QUEUE_CAPACITY: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// User or phone to chat as: a business user's name or a phone number; creates a token for the session
    #[arg(long = "as", value_name = "WHO", conflicts_with = "token")]
    who: Option<String>,
    /// Token to use instead of --as [env: ESH3AR_TOKEN]; visible to other users of this machine: --token-file
    /// FILE is not
    #[arg(long)]
    token: Option<String>,
    /// Phone number of the other side
    #[arg(long, value_name = "NUMBER")]
    with: String,
    /// Server address [default: the server of the data folder]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

impl Runnable for ChatArgs {
    fn spec(&self) -> Spec {
        let needs_nothing_here = self.url.is_some() && self.who.is_none();
        Spec {
            scope: Scope::OwnOption,
            configuration: ConfigAccess::lenient_if(needs_nothing_here),
            ..Spec::LOCAL
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { Box::pin(run(setup, &self)).await })
    }
}

impl ChatArgs {
    fn token(&self, setup: &Setup) -> Result<String, Failure> {
        let token = setup.remote.session_token(self.token.as_deref(), &setup.output);
        token.ok_or_else(|| {
            Failure::new(ExitStatus::Usage, "missing --as: choose the user or phone to chat as")
                .hint("or use --token-file FILE or ESH3AR_TOKEN")
        })
    }
}

async fn run(setup: &Setup, arguments: &ChatArgs) -> Result<(), Failure> {
    let url = match &arguments.url {
        Some(url) => url.clone(),
        None => format!("http://{}", server_address(setup).await?),
    };
    let Some(who) = &arguments.who else {
        return talk(setup, url, arguments.token(setup)?, &arguments.with).await;
    };
    let issued = create_token(setup, who).await?;
    let talked = talk(setup, url, issued.token, &arguments.with).await;
    // The token is for this session only.
    let revoked = revoke(setup, issued.id).await;
    talked.and(revoked)
}

async fn talk(setup: &Setup, url: String, token: String, with: &str) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let talk = async {
        let mut talk = ChatSession::start(setup, url, token, with).await?;
        talk.run_loop(read_lines()).await?;
        talk.check_refusals()
    };
    tokio::select! {
        done = talk => done,
        () = signals.next() => Ok(()),
    }
}

/// The address of the data folder's server; waits for one that is starting.
async fn server_address(setup: &Setup) -> Result<std::net::SocketAddr, Failure> {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(found) = running_server(&setup.data_dir) {
            return Ok(found.http);
        }
        if begun.elapsed() > SERVER_START_TIMEOUT {
            let what = format!("no server is running on {}", setup.data_dir.display());
            return Err(
                Failure::new(ExitStatus::Unavailable, what).hint("run: esh3ar serve, or use --url")
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn revoke(setup: &Setup, id: TokenId) -> Result<(), Failure> {
    let opened = database::open(setup).await?;
    let result = async {
        let by = operator().because(Some("the end of esh3ar chat"))?;
        // An administrator's other tokens are still there.
        Ok(opened.app.identity.revoke_token(&by, id, true).await?)
    }
    .await;
    opened.close(result).await
}

async fn create_token(setup: &Setup, who: &str) -> Result<Issued, Failure> {
    let opened = database::open(setup).await?;
    let result = issue(&opened.app, who).await;
    opened.close(result).await
}

async fn issue(app: &App, who: &str) -> Result<Issued, Failure> {
    let party = if who.starts_with('+') {
        let phone = app.identity.parse_phone("as", who)?;
        app.identity.find_mobile(&phone).await?;
        Party::Mobile(phone)
    } else {
        Party::Business(app.identity.find_user(who).await?.id)
    };
    let by = operator().because(Some("for esh3ar chat"))?;
    let day = Lifetime::For(Duration::from_secs(24 * 3600));
    Ok(app.identity.issue_token(&by, &party, day).await?)
}

/// Reads lines in a thread: reading a terminal blocks.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(INPUT_QUEUE_CAPACITY);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if !line.trim().is_empty() && sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// One side of a conversation.
struct ChatSession<'a> {
    setup: &'a Setup,
    url: String,
    token: String,
    hub: HubClient,
    id: Uuid,
    /// Ids that were shown or sent: a redelivered message is not shown again.
    known: HashSet<Uuid>,
    /// Lines that were sent, and that were refused.
    sent: usize,
    refused: usize,
}

impl ChatSession<'_> {
    async fn start<'a>(
        setup: &'a Setup,
        url: String,
        token: String,
        with: &str,
    ) -> Result<ChatSession<'a>, Failure> {
        let api = ApiClient::new(&url, &token).map_err(failed)?;
        let body = json!({ "phone": with });
        let answer = api.post("/api/v1/conversations", &body).await.map_err(failed)?;
        let ConversationView { id, business_name, phone, .. } = read(&answer.body)?;
        let hub = HubClient::connect(&url, &token).await.map_err(failed)?;
        let known = Default::default();
        let mut talk = ChatSession { setup, url, token, hub, id, known, sent: 0, refused: 0 };
        talk.setup.output.note(&format!(
            "{business_name} and {phone}: type a line and press Enter to send; Ctrl-D quits."
        ));
        let argument = json!({ "conversationId": talk.id, "limit": MAX_HISTORY_LEN });
        let earlier = talk.call("GetHistory", argument).await.map_err(failed)?;
        for message in earlier.as_array().into_iter().flatten().rev() {
            talk.show(message);
        }
        Ok(talk)
    }

    async fn call(&mut self, method: &str, argument: Value) -> Result<Value, client::Error> {
        self.hub.call(method, vec![argument], CALL_TIMEOUT).await
    }

    async fn run_loop(&mut self, mut lines: mpsc::Receiver<String>) -> Result<(), Failure> {
        loop {
            let done = tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => {
                        let sent = self.send(&line).await;
                        match &sent {
                            Ok(()) => self.sent += 1,
                            Err(_) => self.refused += 1,
                        }
                        sent
                    }
                    None => return Ok(()),
                },
                event = self.hub.next() => match event {
                    Ok(event) => self.handle_event(event).await,
                    Err(error) => Err(error),
                },
            };
            match done {
                Ok(()) => {}
                Err(error) => match error.call_text() {
                    Some(text) => self.setup.output.note(&format!("not sent: {text}")),
                    None => self.reconnect().await?,
                },
            }
        }
    }

    /// At the end, a script is told of refused lines; on a terminal each was shown.
    fn check_refusals(&self) -> Result<(), Failure> {
        if self.refused == 0 || std::io::stdin().is_terminal() {
            return Ok(());
        }
        let all = self.sent + self.refused;
        let what = format!("not sent: {} of {}", self.refused, pluralize(all, "line"));
        Err(Failure::new(ExitStatus::Partly, what).hint("the reasons are above"))
    }

    /// Reconnects until it succeeds, or the token is rejected.
    async fn reconnect(&mut self) -> Result<(), Failure> {
        self.setup.output.note("connection lost; reconnecting");
        loop {
            tokio::time::sleep(RECONNECT_DELAY).await;
            match HubClient::connect(&self.url, &self.token).await {
                Ok(hub) => {
                    self.hub = hub;
                    return Ok(());
                }
                Err(error) if error.is_auth_error() => return Err(failed(error)),
                Err(_) => {}
            }
        }
    }

    /// Sends a line until it is accepted: the client message id makes repeating it harmless.
    async fn send(&mut self, line: &str) -> Result<(), client::Error> {
        let name = Uuid::now_v7().to_string();
        loop {
            let argument =
                json!({ "conversationId": self.id, "content": line, "clientMessageId": name });
            match self.call("SendMessage", argument).await {
                Ok(message) => {
                    self.known.extend(read(&message).ok().map(|view: MessageView<'_>| view.id));
                    return Ok(());
                }
                Err(error @ client::Error::Call(_)) => return Err(error),
                Err(error) => {
                    if self.reconnect().await.is_err() {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn handle_event(&mut self, event: HubEvent) -> Result<(), client::Error> {
        let HubEvent::Invocation { target, arguments } = event else { return Ok(()) };
        let messages: Vec<Value> = match (target.as_str(), arguments.into_iter().next()) {
            ("ReceiveMessage", Some(message)) => vec![message],
            ("ReceivePendingMessages", Some(Value::Array(messages))) => messages,
            _ => return Ok(()),
        };
        let views: Vec<MessageView<'_>> = messages.iter().filter_map(|it| read(it).ok()).collect();
        let acknowledged = json!(views.iter().map(|view| view.id).collect::<Vec<_>>());
        for message in &messages {
            self.show(message);
        }
        self.call("Acknowledge", acknowledged).await?;
        let last = views.iter().rev().find(|view| view.conversation_id == Some(self.id));
        if let Some(last) = last {
            let place = json!({ "conversationId": self.id, "upToSeq": last.seq });
            self.call("MarkRead", place).await?;
        }
        Ok(())
    }

    fn show(&mut self, message: &Value) {
        let Ok(view) = read::<MessageView<'_>>(message) else { return };
        if !self.known.insert(view.id) {
            return;
        }
        if !self.setup.output.is_table() {
            self.setup.output.text(&output::json_line(message));
            return;
        }
        let (hour, minute) = (view.created_at.hour(), view.created_at.minute());
        let here = view.conversation_id == Some(self.id);
        let elsewhere = if here { "" } else { " (elsewhere)" };
        let (from, content) = (sanitize::line(view.from), sanitize::line(view.content));
        let line = format!("{hour:02}:{minute:02}  {from}{elsewhere}: {content}\n");
        self.setup.output.text(&line);
    }
}

fn failed(error: client::Error) -> Failure {
    let kind = match &error {
        client::Error::Refused { status: 401 | 403 | 404 | 400, .. } => ExitStatus::Refused,
        _ => ExitStatus::Unavailable,
    };
    Failure::new(kind, error.to_string())
        .hint("a business user needs the permission Chat; from a phone, --with is the business user's phone number")
}
