//! `demo`: starts a server with a business user and a phone, and sends a message.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{appliance::Appliance, listen::messages, operator::operator, signals::StopSignals};
use crate::{
    app::{App, identity::tokens::Lifetime},
    cli::{
        config_loader::ConfigOverride,
        io::{
            answer::read,
            exit::{ExitStatus, Failure},
            sanitize,
        },
        privilege::{self, OpenFiles},
        setup::Setup,
        spec::{CommandFuture, ConfigAccess, Runnable, Spec},
    },
    client::{self, ApiClient, HubClient},
    domain::{Party, Permission, Permissions, Status},
    server::{
        http::messages::Receipt,
        timestamp,
        view::{ExplanationView, MessageView, StepView},
    },
    store::accounts::MobileStatus,
    telemetry::metrics,
};

const SHOP: &str = "Demo shop";
const PHONE: &str = "+967771234567";
/// For the message to arrive, and for its acknowledgement.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Exit after the acknowledgement
    #[arg(long)]
    once: bool,
    /// Address to listen on [default: 127.0.0.1:5000, or a free port if it is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

impl Runnable for DemoArgs {
    fn spec(&self) -> Spec {
        Spec { configuration: ConfigAccess::Lenient, default_data_dir, ..Spec::LOCAL }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { Box::pin(run(setup, &self)).await })
    }

    fn config_overrides(&self, overrides: &mut Vec<ConfigOverride>) {
        // The demo starts even if something else listens on the usual port.
        let usual = SocketAddr::from(([127, 0, 0, 1], 5000));
        let free = std::net::TcpListener::bind(usual).is_ok();
        let listen = match self.listen {
            Some(listen) => listen,
            None if free => usual,
            None => SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        overrides.push(("http.listen", listen.to_string(), "demo"));
        overrides.push(("metrics.listen", "127.0.0.1:0".to_owned(), "demo"));
    }
}

/// Never the folder of a real installation.
fn default_data_dir() -> PathBuf {
    let usual = privilege::default_data_dir();
    let name = usual.file_name().unwrap_or_default().to_string_lossy().into_owned();
    usual.with_file_name(format!("{name}-demo"))
}

fn from_client(error: client::Error) -> Failure {
    Failure::new(ExitStatus::Failed, format!("the demo's client: {error}"))
}

async fn run(setup: &Setup, arguments: &DemoArgs) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let say = |text: &str| setup.output.text(&format!("{text}\n"));
    say(&format!("Starting a demo server in {} …", setup.data_dir.display()));
    let recorder =
        metrics::install().map_err(|error| Failure::new(ExitStatus::Failed, error.to_string()))?;
    let appliance = Box::pin(Appliance::start(setup, recorder)).await?;
    let took = appliance.started_at().elapsed().as_millis();
    say(&format!("  ready in {took} ms at http://{}\n", appliance.http));
    let result = tokio::select! {
        result = Box::pin(show(setup, arguments, &appliance)) => result,
        () = signals.next() => Ok(()),
    };
    say("\nStopping …");
    let stopped = Box::pin(appliance.stop()).await;
    result.and(stopped)
}

async fn show(setup: &Setup, arguments: &DemoArgs, appliance: &Appliance) -> Result<(), Failure> {
    let say = |text: &str| setup.output.text(&format!("{text}\n"));
    let base = format!("http://{}", appliance.http);
    let (shop_token, phone_token) = people(&appliance.app).await?;
    say(&format!("Created a business user, \"{SHOP}\", and a phone, {PHONE}, each with a token."));
    let mut phone = HubClient::connect(&base, &phone_token).await.map_err(from_client)?;
    say("The phone has connected to the hub.\n");
    let shop = ApiClient::new(&base, &shop_token).map_err(from_client)?;
    let body = json!({ "to": PHONE, "subject": "Welcome", "content": "Your order is on its way." });
    let sent = Instant::now();
    let answer = shop.post("/api/v1/messages", &body).await.map_err(from_client)?;
    let answered = sent.elapsed();
    let Receipt { id, .. } = read(&answer.body)?;
    say(&format!("POST /api/v1/messages  →  {} {id}", answer.status));
    let received = tokio::time::timeout(DELIVERY_TIMEOUT, receive(&mut phone, id))
        .await
        .map_err(|_| Failure::new(ExitStatus::Failed, "the message did not arrive"))??;
    let received: MessageView<'_> = read(&received)?;
    let arrived = sent.elapsed();
    say(&format!(
        "  answered after {:.1} ms, received by the phone after {:.1} ms: \"{}\"",
        answered.as_secs_f64() * 1e3,
        arrived.as_secs_f64() * 1e3,
        received.content
    ));
    phone.call("Acknowledge", vec![json!([id])], DELIVERY_TIMEOUT).await.map_err(from_client)?;
    say(&format!("  acknowledged after {:.1} ms\n", sent.elapsed().as_secs_f64() * 1e3));
    let timeline =
        shop.get(&format!("/api/v1/messages/{id}/timeline")).await.map_err(from_client)?;
    say("Its timeline:");
    let ExplanationView { steps, status, .. } = read(&timeline.body)?;
    for StepView { at, step, detail, .. } in &steps {
        say(&format!("  {:28}  {step:10} {detail}", timestamp::text(*at)));
    }
    if status != Status::Delivered.name() {
        return Err(Failure::new(ExitStatus::Failed, "the message was not delivered"));
    }
    if arguments.once {
        phone.close().await;
        return Ok(());
    }
    say(&instructions(&base, &shop_token, &phone_token));
    follow(setup, &base, &phone_token, phone).await
}

async fn people(app: &App) -> Result<(String, String), Failure> {
    let may = Permissions::NONE.with(Permission::SendMessages).with(Permission::Admin);
    let by = operator();
    let shop = match app.identity.find_user(SHOP).await {
        Ok(shop) => shop,
        Err(_) => app.identity.add_user(&by, SHOP, may, None).await?,
    };
    let phone = app.identity.parse_phone("phone", PHONE)?;
    app.identity.put_mobiles(&by, std::slice::from_ref(&phone), MobileStatus::Verified).await?;
    let shop = app.identity.issue_token(&by, &Party::Business(shop.id), Lifetime::Usual).await?;
    let phone = app.identity.issue_token(&by, &Party::Mobile(phone), Lifetime::Usual).await?;
    Ok((shop.token, phone.token))
}

/// Waits for one message, and acknowledges the others that arrive before it.
async fn receive(phone: &mut HubClient, wanted: Uuid) -> Result<Value, Failure> {
    loop {
        let event = phone.next().await.map_err(from_client)?;
        for message in messages(event) {
            let MessageView { id, .. } = read(&message)?;
            if id == wanted {
                return Ok(message);
            }
            let ids = json!([id]);
            phone.call("Acknowledge", vec![ids], DELIVERY_TIMEOUT).await.map_err(from_client)?;
        }
    }
}

/// Shows and acknowledges messages for as long as the demo runs.
async fn follow(
    setup: &Setup,
    base: &str,
    token: &str,
    mut phone: HubClient,
) -> Result<(), Failure> {
    loop {
        match phone.next().await {
            Ok(event) => {
                for message in messages(event) {
                    let MessageView { id, from, content, .. } = read(&message)?;
                    let line = format!("  the phone received {id} from {from}: {content}");
                    setup.output.text(&format!("{}\n", sanitize::line(&line)));
                    let ids = json!([id]);
                    let _ = phone.call("Acknowledge", vec![ids], DELIVERY_TIMEOUT).await;
                }
            }
            // Clients reconnect until they succeed.
            Err(_) => loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Ok(again) = HubClient::connect(base, token).await {
                    phone = again;
                    break;
                }
            },
        }
    }
}

fn instructions(base: &str, shop: &str, phone: &str) -> String {
    format!(
        "
The server keeps running. Send another message from a second terminal; the phone shows it here:

  curl -s {base}/api/v1/messages -H 'Authorization: Bearer {shop}' \\
    -H 'Content-Type: application/json' -d '{{\"to\":\"{PHONE}\",\"content\":\"Hello from curl\"}}'

List the messages that the shop has sent:

  curl -s {base}/api/v1/messages -H 'Authorization: Bearer {shop}'

Connect your own phone with any SignalR client:

  hub    {base}/hub
  token  {phone}

Ctrl-C stops the server.
"
    )
}
