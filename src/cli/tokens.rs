//! `token`: tokens of business users and phones. A token is shown when it is made and never again.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Setup,
    exit::{Failure, Kind},
    opened,
    why::Why,
};
use crate::{
    app::{App, tokens::Lifetime},
    config::duration,
    domain::{Party, TokenId},
    server::view::admin::TokenView,
    store::accounts::MobileStatus,
};

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct Owner {
    /// A business user, by name or id
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A mobile user, by phone number
    #[arg(long, value_name = "NUMBER")]
    mobile: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token
    Create {
        #[command(flatten)]
        owner: Owner,
        /// How long it is valid: 30s, 1h, 90d or never [default: never for users, auth.access_token_ttl for phones]
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Tokens, newest first; never the tokens themselves
    List {
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        why: Why,
    },
    /// Revoke a token: it opens nothing any more
    Revoke {
        /// The token's id
        id: String,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IssuedView {
    id: uuid::Uuid,
    token: String,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<time::OffsetDateTime>,
}

pub(super) async fn run(setup: &Setup, command: TokenCommand) -> Result<(), Failure> {
    let opened = opened::open(setup).await?;
    let result = act(setup, &opened.app, command).await;
    opened.close(result).await
}

async fn act(setup: &Setup, app: &App, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { owner, expires, why } => {
            let lifetime = lifetime(expires.as_deref())?;
            let Some(owner) = find(app, &owner, true).await? else {
                return Err(Failure::new(Kind::Usage, "a token needs an owner")
                    .hint("give --user NAME or --mobile NUMBER"));
            };
            let issued = app.issue_token(&setup.by(&why)?, &owner, lifetime).await?;
            setup.output.record(&IssuedView {
                id: issued.id.0,
                token: issued.token,
                expires_at: issued.expires_at,
            });
            setup.output.note("this is the only time the token is shown");
        }
        TokenCommand::List { owner, why } => {
            let owner = find(app, &owner, false).await?;
            let listed = app.list_tokens(&setup.by(&why)?, owner.as_ref(), None, 1000).await?;
            let listed: Vec<TokenView> = listed.into_iter().map(TokenView::from).collect();
            let columns = ["id", "user", "mobile", "createdAt", "expiresAt", "revokedAt"];
            setup.output.records(&columns, &listed);
        }
        TokenCommand::Revoke { id, why } => {
            let id: TokenId =
                id.parse().map_err(|_| Failure::new(Kind::NotFound, "there is no such token"))?;
            app.revoke_token(&setup.by(&why)?, id).await?;
            setup.output.note("revoked; it opens nothing any more within a second");
        }
    }
    Ok(())
}

async fn find(app: &App, owner: &Owner, making: bool) -> Result<Option<Party>, Failure> {
    if let Some(name) = &owner.user {
        let user = app.find_user(name).await.map_err(|error| {
            Failure::from(error).hint(format!("make the user: esh3ar user add {name}"))
        })?;
        if making && user.disabled_at.is_some() {
            return Err(Failure::new(Kind::Refused, format!("{} is disabled", user.name))
                .hint(format!("let it in again: esh3ar user set {name} --enable")));
        }
        return Ok(Some(Party::Business(user.id)));
    }
    let Some(number) = &owner.mobile else { return Ok(None) };
    let phone = app.parse_phone("mobile", number)?;
    let hint = format!("esh3ar mobile add {number} --verified");
    let user = app
        .find_mobile(&phone)
        .await
        .map_err(|error| Failure::from(error).hint(format!("make the user: {hint}")))?;
    if making && user.status != MobileStatus::Verified {
        let what = format!("the mobile user is {}, not verified", user.status.name());
        return Err(Failure::new(Kind::Refused, what).hint(format!("run: {hint}")));
    }
    Ok(Some(Party::Mobile(phone)))
}

fn lifetime(text: Option<&str>) -> Result<Lifetime, Failure> {
    match text {
        None => Ok(Lifetime::Usual),
        Some("never") => Ok(Lifetime::Endless),
        Some(text) => duration::parse(text)
            .filter(|lifetime| !lifetime.is_zero() && *lifetime <= duration::LONGEST)
            .map(Lifetime::For)
            .ok_or_else(|| {
                Failure::new(Kind::Usage, format!("'{text}' is no duration"))
                    .hint("write 30s, 10m, 1h, 90d or never")
            }),
    }
}
