//! `mobile`: mobile users, known by phone number.

use std::{fs::File, path::PathBuf};

use clap::Subcommand;

use super::{Setup, exit::Failure, opened, personal, why::Why};
use crate::{app::App, server::view::admin::MobileView, store::accounts::MobileStatus};

#[derive(Debug, Subcommand)]
pub(super) enum MobileCommand {
    /// Add mobile users, or verify those that are there
    Add {
        /// Phone numbers
        #[arg(required = true, value_name = "NUMBER")]
        phones: Vec<String>,
        /// They have proved their number: they may connect
        #[arg(long)]
        verified: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Mobile users by phone number
    List {
        /// Only those after this number
        #[arg(long, value_name = "NUMBER")]
        after: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        why: Why,
    },
    /// One mobile user
    Show {
        /// Phone number
        phone: String,
        #[command(flatten)]
        why: Why,
    },
    /// Write out everything that is stored of a phone number
    Export {
        /// Phone number
        phone: String,
        /// Where to; without it to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        why: Why,
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
        why: Why,
    },
}

impl MobileCommand {
    /// Opens the file of an export. Before the process becomes the owner of the data: the file is for
    /// whoever calls the command.
    pub(super) fn open_file(&self) -> Result<Option<File>, Failure> {
        match self {
            MobileCommand::Export { out: Some(path), .. } => personal::open_file(path),
            _ => Ok(None),
        }
    }
}

const COLUMNS: &[&str] = &["id", "phone", "status", "createdAt"];

pub(super) async fn run(
    setup: &Setup,
    command: MobileCommand,
    file: Option<File>,
) -> Result<(), Failure> {
    let opened = opened::open(setup).await?;
    let result = act(setup, &opened.app, command, file).await;
    opened.close(result).await
}

async fn act(
    setup: &Setup,
    app: &App,
    command: MobileCommand,
    file: Option<File>,
) -> Result<(), Failure> {
    match command {
        MobileCommand::Add { phones, verified, why } => {
            let mut parsed = Vec::with_capacity(phones.len());
            for phone in &phones {
                let phone = app.parse_phone("phone", phone)?;
                if !parsed.contains(&phone) {
                    parsed.push(phone);
                }
            }
            let status = if verified { MobileStatus::Verified } else { MobileStatus::Pending };
            let mut users = app.put_mobiles(&setup.by(&why)?, &parsed, status).await?;
            // One is answered with one, as scripts expect.
            match (users.pop(), users.is_empty()) {
                (Some(user), true) => setup.output.record(&MobileView::from(user)),
                (last, _) => {
                    let views: Vec<MobileView> =
                        users.into_iter().chain(last).map(MobileView::from).collect();
                    setup.output.records(COLUMNS, &views);
                }
            }
        }
        MobileCommand::List { after, limit, why } => {
            let after = after.map(|text| app.parse_phone("after", &text)).transpose()?;
            let users =
                app.list_mobiles(&setup.by(&why)?, after.as_ref(), limit.clamp(1, 10_000)).await?;
            let views: Vec<MobileView> = users.into_iter().map(MobileView::from).collect();
            setup.output.records(COLUMNS, &views);
        }
        MobileCommand::Show { phone, why } => {
            let phone = app.parse_phone("phone", &phone)?;
            let user = app.show_mobile(&setup.by(&why)?, &phone).await?;
            setup.output.record(&MobileView::from(user));
        }
        MobileCommand::Export { phone, out, why } => {
            let phone = app.parse_phone("phone", &phone)?;
            let to = file.zip(out.clone());
            personal::export(setup, app, &setup.by(&why)?, &phone, to, out.as_deref()).await?;
        }
        MobileCommand::Erase { phone, dry_run, yes, why } => {
            let phone = app.parse_phone("phone", &phone)?;
            personal::erase(setup, app, &setup.by(&why)?, &phone, dry_run, yes).await?;
        }
    }
    Ok(())
}
