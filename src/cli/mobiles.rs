//! `mobile`: mobile users, known by phone number.

use clap::Subcommand;
use serde::Serialize;

use super::{Setup, exit::Failure, opened};
use crate::{
    app::App,
    store::accounts::{MobileStatus, MobileUser},
};

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
    },
    /// Mobile users by phone number
    List {
        /// Only those after this number
        #[arg(long, value_name = "NUMBER")]
        after: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// One mobile user
    Show {
        /// Phone number
        phone: String,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MobileView {
    id: uuid::Uuid,
    phone: String,
    status: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    created_at: time::OffsetDateTime,
}

impl From<MobileUser> for MobileView {
    fn from(user: MobileUser) -> Self {
        MobileView {
            id: user.id.0,
            phone: user.phone.as_str().to_owned(),
            status: user.status.name(),
            created_at: user.created_at,
        }
    }
}

const COLUMNS: &[&str] = &["id", "phone", "status", "createdAt"];

pub(super) async fn run(setup: &Setup, command: MobileCommand) -> Result<(), Failure> {
    let opened = opened::open(setup).await?;
    let result = act(setup, &opened.app, command).await;
    opened.close(result).await
}

async fn act(setup: &Setup, app: &App, command: MobileCommand) -> Result<(), Failure> {
    match command {
        MobileCommand::Add { phones, verified } => {
            let mut parsed = Vec::with_capacity(phones.len());
            for phone in &phones {
                let phone = app.parse_phone("phone", phone)?;
                if !parsed.contains(&phone) {
                    parsed.push(phone);
                }
            }
            let status = if verified { MobileStatus::Verified } else { MobileStatus::Pending };
            let mut users = app.put_mobiles(&parsed, status).await?;
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
        MobileCommand::List { after, limit } => {
            let after = after.map(|text| app.parse_phone("after", &text)).transpose()?;
            let users = app.list_mobiles(after.as_ref(), limit).await?;
            let views: Vec<MobileView> = users.into_iter().map(MobileView::from).collect();
            setup.output.records(COLUMNS, &views);
        }
        MobileCommand::Show { phone } => {
            let phone = app.parse_phone("phone", &phone)?;
            setup.output.record(&MobileView::from(app.find_mobile(&phone).await?));
        }
    }
    Ok(())
}
