//! `mobile`: mobile users, known by phone number.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Setup,
    exit::Failure,
    remote::{Admin, Query},
    why::Why,
};
use crate::client::encode;

/// Numbers that are added in one call.
const AT_ONCE: usize = 1000;

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
}

const COLUMNS: &[&str] = &["id", "phone", "status", "createdAt"];

pub(super) async fn run(setup: &Setup, command: MobileCommand) -> Result<(), Failure> {
    let admin = Admin::open(setup).await?;
    let result = act(setup, &admin, command).await;
    admin.close(result).await
}

async fn act(setup: &Setup, admin: &Admin, command: MobileCommand) -> Result<(), Failure> {
    match command {
        MobileCommand::Add { phones, verified, why } => {
            let mut users: Vec<Value> = Vec::new();
            for chunk in phones.chunks(AT_ONCE) {
                let body = json!({ "phones": chunk, "verified": verified });
                let mut answer = admin.ask(&why, "POST", "/mobile-users", Some(&body)).await?;
                if let Value::Array(added) = answer["items"].take() {
                    users.extend(added);
                }
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
        MobileCommand::Show { phone, why } => {
            let place = format!("/mobile-users/{}", encode(&phone));
            setup.output.record(&admin.get(&why, &place).await?);
        }
    }
    Ok(())
}
