//! `mobile`: mobile users, known by phone number.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{audit_reason::AuditReason, privacy, query::Query, transport::AdminClient};
use crate::cli::{
    io::{
        answer::{ListPage, columns, read},
        exit::Failure,
    },
    process::privilege::OpenFiles,
    setup::Setup,
    spec::{CallerFiles, CommandFuture, Runnable, Spec},
};
use crate::{
    client::encode,
    server::view::admin::{DoubtedView, MobileView},
};

/// Numbers that are added in one call.
const BATCH_SIZE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum MobileCommand {
    /// Add mobile users, or verify those that are there
    Add {
        /// Phone numbers
        #[arg(required = true, value_name = "NUMBER")]
        phones: Vec<String>,
        /// They have proved their number: they may connect
        #[arg(long)]
        verified: bool,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Mobile users by phone number
    List {
        /// Only those after this number
        #[arg(long, value_name = "NUMBER")]
        after: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 100, value_parser = super::query::limit)]
        limit: usize,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Numbers that are stored and to be looked at: read today they would be others, or none
    Check {
        /// Region by which numbers were read when they were stored [default: phone.default_region]
        #[arg(long, value_name = "CODE")]
        region: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 1000, value_parser = super::query::limit)]
        limit: usize,
        #[command(flatten)]
        why: AuditReason,
    },
    /// One mobile user
    Show {
        /// Phone number
        phone: String,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Write out everything that is stored of a phone number
    Export {
        /// Phone number
        phone: String,
        /// Where to; without it, or with -, to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        why: AuditReason,
    },
    /// Erase everything of a phone number, for good
    Erase {
        /// Phone number
        phone: String,
        /// Only say how much it would be
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
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
            MobileCommand::Export { .. } | MobileCommand::Erase { .. } => Spec::ADMIN,
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
const COLUMNS: &[&str] = columns!(MobileView<'_>: id, phone, status, created_at);

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
        MobileCommand::Add { phones, verified, why } => {
            let mut users: Vec<Value> = Vec::new();
            for chunk in phones.chunks(BATCH_SIZE) {
                let body = json!({ "phones": chunk, "verified": verified });
                let answer = admin.ask(&why, "POST", "/mobile-users", Some(&body)).await?;
                users.extend(read::<ListPage>(&answer)?.items);
            }
            // One is answered with one, as scripts expect.
            match users.as_slice() {
                [user] => setup.output.record(user),
                users => setup.output.records(COLUMNS, users),
            }
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
                setup.output.note("there are more: give a higher --limit");
            }
        }
        MobileCommand::Show { phone, why } => {
            let place = format!("/mobile-users/{}", encode(&phone));
            setup.output.record(&admin.get(&why, &place).await?);
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
