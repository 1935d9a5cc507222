//! `token`: manages the tokens of business users and phones. A token is shown once, when it is created.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{audit_reason::AuditReason, query::Query, transport::AdminClient};
use crate::{
    cli::{
        io::{
            answer::columns,
            exit::{ExitStatus, Failure},
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Runnable, Spec},
    },
    client::encode,
    config::duration,
    server::view::admin::TokenView,
};

const MAX_LISTED: usize = 1000;

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct TokenOwnerArgs {
    /// Business user, by name or id
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Mobile user, by phone number
    #[arg(long, value_name = "NUMBER")]
    mobile: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token
    Create {
        #[command(flatten)]
        owner: TokenOwnerArgs,
        /// Lifetime: 30s, 1h, 90d or never [default: never for business users, auth.access_token_ttl for phones]
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        #[command(flatten)]
        why: AuditReason,
    },
    /// List tokens, newest first, without their secrets
    List {
        #[command(flatten)]
        owner: TokenOwnerArgs,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Replace a token with a new one of the same owner
    Rotate {
        /// Token id
        id: String,
        /// How long the old token keeps working [default: not at all]
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
        /// Lifetime of the new token, or never [default: that of the old one]
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Revoke a token
    Revoke {
        /// Token id
        id: String,
        /// Revoke the token even if no administrator can use the API afterwards
        #[arg(long)]
        even_last_admin: bool,
        #[command(flatten)]
        why: AuditReason,
    },
}

impl Runnable for TokenCommand {
    fn spec(&self) -> Spec {
        match self {
            TokenCommand::List { .. } => Spec::ADMIN_READ,
            TokenCommand::Create { .. } => Spec { needs_installation: false, ..Spec::ADMIN },
            TokenCommand::Rotate { .. } | TokenCommand::Revoke { .. } => Spec::ADMIN,
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self).await })
    }
}

const COLUMNS: &[&str] =
    columns!(TokenView<'_>: id, user, mobile, created_at, expires_at, revoked_at);

async fn run(setup: &Setup, command: TokenCommand) -> Result<(), Failure> {
    let admin = AdminClient::open(setup).await?;
    let result = act(setup, &admin, command).await;
    admin.close(result).await
}

async fn act(setup: &Setup, admin: &AdminClient, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { owner, expires, why } => {
            let mut body = json!({ "user": owner.user, "mobile": owner.mobile });
            if let Some(expires) = expires {
                body["expiresIn"] = lifetime(&expires)?;
            }
            if owner.user.is_none() && owner.mobile.is_none() {
                return Err(Failure::new(ExitStatus::Usage, "a token needs an owner")
                    .hint("give --user NAME or --mobile NUMBER"));
            }
            let made = admin.request(&why, "POST", "/tokens", Some(&body)).await;
            setup.output.record(&made.map_err(|failure| owner.hinted(failure))?);
            setup.output.note("this is the only time the token is shown");
        }
        TokenCommand::List { owner, why } => {
            let query =
                Query::default().with_some("user", owner.user).with_some("mobile", owner.mobile);
            let (tokens, more) = admin.list(&why, "/tokens", &query, MAX_LISTED).await?;
            setup.output.records(COLUMNS, &tokens);
            if more {
                setup.output.note(&format!("only the newest {MAX_LISTED} are shown"));
            }
        }
        TokenCommand::Rotate { id, overlap, expires, why } => {
            let mut body = json!({ "overlap": 0 });
            if let Some(text) = &overlap {
                body["overlap"] = seconds(text)?.as_secs_f64().into();
            }
            if let Some(expires) = expires {
                body["expiresIn"] = lifetime(&expires)?;
            }
            let place = format!("/tokens/{}/rotate", encode(&id));
            setup.output.record(&admin.request(&why, "POST", &place, Some(&body)).await?);
            let old = match &overlap {
                Some(_) => "the old one works until oldUntil",
                None => "the old one stops working within a second",
            };
            setup.output.note(&format!("this is the only time the token is shown; {old}"));
        }
        TokenCommand::Revoke { id, even_last_admin, why } => {
            let query = Query::default().with("evenLastAdmin", even_last_admin);
            let place = format!("/tokens/{}{query}", encode(&id));
            admin.request(&why, "DELETE", &place, None).await.map_err(|failure| {
                match failure.kind {
                    ExitStatus::Refused if admin.is_in_process() => failure
                        .hint("or use --even-last-admin: commands on the server work without an administrator"),
                    _ => failure,
                }
            })?;
            setup.output.note("revoked; it stops working within a second");
        }
    }
    Ok(())
}

impl TokenOwnerArgs {
    /// Adds a hint if the owner does not exist or is disabled.
    fn hinted(&self, failure: Failure) -> Failure {
        match (failure.kind, &self.user, &self.mobile) {
            (ExitStatus::NotFound, Some(name), _) => {
                failure.hint(format!("create the user: esh3ar user add {name}"))
            }
            (ExitStatus::Refused, Some(name), _) => {
                failure.hint(format!("re-enable it: esh3ar user set {name} --enable"))
            }
            (ExitStatus::NotFound | ExitStatus::Refused, None, Some(number)) => {
                failure.hint(format!("run: esh3ar mobile add {number} --verified"))
            }
            _ => failure,
        }
    }
}

/// A lifetime as the API takes it.
fn lifetime(text: &str) -> Result<Value, Failure> {
    match text {
        "never" => Ok("never".into()),
        text => Ok(seconds(text)?.as_secs_f64().into()),
    }
}

fn seconds(text: &str) -> Result<std::time::Duration, Failure> {
    duration::parse(text)
        .filter(|lifetime| !lifetime.is_zero() && *lifetime <= duration::MAX_DURATION)
        .ok_or_else(|| {
            Failure::new(ExitStatus::Usage, format!("'{text}' is not a valid duration"))
                .hint("for example 30s, 10m, 1h or 90d")
        })
}
