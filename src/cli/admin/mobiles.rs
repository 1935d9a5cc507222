//! `mobile`: manages mobile users.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{audit_reason::AuditReason, privacy, query::Query, transport::AdminClient};
use crate::{
    cli::{
        io::{
            answer::{ResponsePage, columns, read},
            exit::{ExitStatus, Failure},
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CallerFiles, CommandFuture, Runnable, Spec},
    },
    client::encode,
    server::view::admin::{DoubtedView, MobileView},
};

/// Numbers per request.
const BATCH_SIZE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum MobileCommand {
    /// Add mobile users, or mark existing ones as verified
    Add {
        /// Phone numbers
        #[arg(required = true, value_name = "NUMBER")]
        phones: Vec<String>,
        /// Mark the numbers as verified, so that the phones may connect
        #[arg(long)]
        verified: bool,
        /// Address to which codes for the number may be mailed, or none
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Change the mail address of a mobile user
    Set {
        /// Phone number
        phone: String,
        /// Address to which codes for the number may be mailed, or none
        #[arg(long, value_name = "ADDRESS")]
        email: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// List mobile users by phone number
    List {
        /// Only numbers after this one
        #[arg(long, value_name = "NUMBER")]
        after: Option<String>,
        /// Maximum number of rows
        #[arg(long, default_value_t = 100, value_parser = super::query::limit)]
        limit: usize,
        #[command(flatten)]
        why: AuditReason,
    },
    /// List stored numbers that would be parsed differently today
    Check {
        /// Region by which the numbers were parsed when they were stored [default: phone.default_region]
        #[arg(long, value_name = "CODE")]
        region: Option<String>,
        /// Maximum number of rows
        #[arg(long, default_value_t = 1000, value_parser = super::query::limit)]
        limit: usize,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Show a mobile user
    Show {
        /// Phone number
        phone: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Block a phone: its tokens are refused, its connections close, messages to it stay pending
    Block {
        /// Phone number
        phone: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Unblock a phone
    Unblock {
        /// Phone number
        phone: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Export everything stored about a phone number
    Export {
        /// Phone number
        phone: String,
        /// Output file; without it, or with -, standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Permanently erase everything stored about a phone number
    Erase {
        /// Phone number
        phone: String,
        /// Only report how much would be erased
        #[arg(long)]
        dry_run: bool,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        why: AuditReason,
    },
}

impl Runnable for MobileCommand {
    fn spec(&self) -> Spec {
        match self {
            MobileCommand::List { .. }
            | MobileCommand::Check { .. }
            | MobileCommand::Show { .. } => Spec::ADMIN_READ,
            MobileCommand::Add { .. } => Spec { needs_installation: false, ..Spec::ADMIN },
            MobileCommand::Export { .. }
            | MobileCommand::Erase { .. }
            | MobileCommand::Set { .. }
            | MobileCommand::Block { .. }
            | MobileCommand::Unblock { .. } => Spec::ADMIN,
        }
    }

    fn run(self: Box<Self>, setup: &Setup, files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, *self, files.out).await })
    }

    fn open_files(&self) -> Result<CallerFiles, Failure> {
        let MobileCommand::Export { out, .. } = self else { return Ok(CallerFiles::default()) };
        CallerFiles::export(out.as_deref())
    }
}

const DOUBTED: &[&str] =
    columns!(DoubtedView<'_>: phone, messages, mobile_user, may_have_been, reason);
const COLUMNS: &[&str] = columns!(MobileView<'_>: id, phone, status, created_at, blocked_at, email);

async fn run(setup: &Setup, command: MobileCommand, file: Option<File>) -> Result<(), Failure> {
    let (admin, redis) = match &command {
        MobileCommand::Erase { .. } => privacy::open(setup).await?,
        _ => (AdminClient::open(setup).await?, None),
    };
    let result = act(setup, &admin, command, file).await;
    let result = admin.close(result).await;
    if let Some(redis) = redis {
        redis.end().await;
    }
    result
}

async fn act(
    setup: &Setup,
    admin: &AdminClient,
    command: MobileCommand,
    file: Option<File>,
) -> Result<(), Failure> {
    match command {
        MobileCommand::Add { phones, verified, email, why } => {
            if email.is_some() && phones.len() > 1 {
                let what = "--email is possible with one phone number only";
                return Err(Failure::new(ExitStatus::Usage, what));
            }
            let mut users: Vec<Value> = Vec::new();
            for chunk in phones.chunks(BATCH_SIZE) {
                let mut body = json!({ "phones": chunk, "verified": verified });
                if let Some(email) = &email {
                    body["email"] = json!(address(email));
                }
                let answer = admin.request(&why, "POST", "/mobile-users", Some(&body)).await?;
                users.extend(read::<ResponsePage>(&answer)?.items);
            }
            // One number prints one record, as scripts expect.
            match users.as_slice() {
                [user] => setup.output.record(user),
                users => setup.output.records(COLUMNS, users),
            }
        }
        MobileCommand::Set { phone, email, why } => {
            let place = format!("/mobile-users/{}", encode(&phone));
            let body = json!({ "email": address(&email) });
            setup.output.record(&admin.request(&why, "PATCH", &place, Some(&body)).await?);
        }
        MobileCommand::List { after, limit, why } => {
            let query = Query::default().with_some("afterPhone", after);
            let (users, _) = admin.list(&why, "/mobile-users", &query, limit).await?;
            setup.output.records(COLUMNS, &users);
        }
        MobileCommand::Check { region, limit, why } => {
            let query = Query::default().with_some("region", region);
            let (numbers, more) = admin.list(&why, "/number-check", &query, limit).await?;
            setup.output.records(DOUBTED, &numbers);
            if more {
                setup.output.note("there are more: raise --limit");
            }
        }
        MobileCommand::Show { phone, why } => {
            let place = format!("/mobile-users/{}", encode(&phone));
            setup.output.record(&admin.get(&why, &place).await?);
        }
        MobileCommand::Block { phone, why } => {
            let place = format!("/mobile-users/{}/block", encode(&phone));
            setup.output.record(&admin.request(&why, "POST", &place, Some(&json!({}))).await?);
            setup.output.note("its tokens stop working within a second");
        }
        MobileCommand::Unblock { phone, why } => {
            let place = format!("/mobile-users/{}/unblock", encode(&phone));
            setup.output.record(&admin.request(&why, "POST", &place, Some(&json!({}))).await?);
        }
        MobileCommand::Export { phone, out, why } => {
            let out = out.filter(|path| path != Path::new("-"));
            let to = file.zip(out.clone());
            privacy::export(setup, admin, &why, &phone, to, out.as_deref()).await?;
        }
        MobileCommand::Erase { phone, dry_run, yes, why } => {
            privacy::erase(setup, admin, &why, &phone, dry_run, yes).await?;
        }
    }
    Ok(())
}

/// An address as it is given: `none` is none.
fn address(text: &str) -> Option<&str> {
    Some(text).filter(|text| *text != "none")
}
