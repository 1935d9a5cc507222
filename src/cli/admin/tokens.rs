//! `token`: manages the tokens of business users and phones. A token is shown once, when it is created.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{audit_reason::AuditReason, query::Query, transport::AdminClient};
use crate::{
    app::Clock,
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
/// Tokens that expire within this time are pointed out.
const EXPIRY_WARNING: time::Duration = time::Duration::days(14);

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
        /// Lifetime: 30s, 1h, 90d or never [default: auth.admin_token_ttl for administrators, never for other business users, auth.access_token_ttl for phones]
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
    /// Show a token, without its secret
    Show {
        /// Token id
        id: String,
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
    /// Revoke a token, or all tokens of a user
    Revoke {
        /// Token id
        #[arg(required_unless_present_any = ["user", "mobile"], conflicts_with_all = ["user", "mobile"])]
        id: Option<String>,
        #[command(flatten)]
        owner: TokenOwnerArgs,
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
            TokenCommand::List { .. } | TokenCommand::Show { .. } => Spec::ADMIN_READ,
            TokenCommand::Create { .. } => Spec { needs_installation: false, ..Spec::ADMIN },
            TokenCommand::Rotate { .. } | TokenCommand::Revoke { .. } => Spec::ADMIN,
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self).await })
    }
}

const COLUMNS: &[&str] =
    columns!(TokenView<'_>: id, user, mobile, created_at, expires_at, revoked_at, last_used_at);

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
            let made = made.map_err(|failure| owner.hinted(failure))?;
            setup.output.record(&made);
            setup.output.note("this is the only time the token is shown");
            if let (Some(_), Some(end)) = (&owner.user, made["expiresAt"].as_str()) {
                setup
                    .output
                    .note(&format!("it expires at {end}; before that: esh3ar token rotate"));
            }
        }
        TokenCommand::List { owner, why } => {
            let query =
                Query::default().with_some("user", owner.user).with_some("mobile", owner.mobile);
            let (tokens, more) = admin.list(&why, "/tokens", &query, MAX_LISTED).await?;
            setup.output.records(COLUMNS, &tokens);
            if more {
                setup.output.note(&format!("only the newest {MAX_LISTED} are shown"));
            }
            let ending = tokens.iter().filter(|token| ends_soon(token)).count();
            if ending > 0 {
                let days = EXPIRY_WARNING.whole_days();
                setup.output.note(&format!(
                    "tokens of business users that expire within {days} days: {ending}; replace one \
                     with: esh3ar token rotate ID"
                ));
            }
        }
        TokenCommand::Show { id, why } => {
            let token = admin.get(&why, &format!("/tokens/{}", encode(&id))).await?;
            setup.output.record(&token);
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
        TokenCommand::Revoke { id: None, owner, even_last_admin, why } => {
            let body = json!({
                "user": owner.user, "mobile": owner.mobile, "evenLastAdmin": even_last_admin,
            });
            let answer = admin.request(&why, "POST", "/tokens/revoke", Some(&body)).await;
            setup.output.record(&answer.map_err(|failure| last_admin_hint(admin, failure))?);
            setup.output.note("they stop working within a second");
        }
        TokenCommand::Revoke { id: Some(id), even_last_admin, why, .. } => {
            let query = Query::default().with("evenLastAdmin", even_last_admin);
            let place = format!("/tokens/{}{query}", encode(&id));
            let revoked = admin.request(&why, "DELETE", &place, None).await;
            revoked.map_err(|failure| last_admin_hint(admin, failure))?;
            setup.output.note("revoked; it stops working within a second");
        }
    }
    Ok(())
}

fn last_admin_hint(admin: &AdminClient, failure: Failure) -> Failure {
    match failure.kind {
        ExitStatus::Refused if admin.is_in_process() => failure
            .hint("or use --even-last-admin: commands on the server work without an administrator"),
        _ => failure,
    }
}

/// Whether a listed token is a business user's, valid, and expires soon.
fn ends_soon(token: &Value) -> bool {
    let now = Clock::System.now();
    let end =
        token["expiresAt"].as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    token["user"].is_string()
        && token["revokedAt"].is_null()
        && end.is_some_and(|end| end > now && end <= now + EXPIRY_WARNING)
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
            (ExitStatus::Refused, None, Some(number)) if failure.what.contains("is blocked") => {
                failure.hint(format!("unblock it: esh3ar mobile unblock {number}"))
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
