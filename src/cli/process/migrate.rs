//! `migrate`: applies migrations, or shows which are applied.

use clap::Args;
use serde::Serialize;

use super::database;
use crate::{
    cli::{
        io::exit::Failure,
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Runnable, Scope, Spec},
    },
    store::{embedded::Purpose, migrate, roles},
};

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Show which migrations are applied
    #[arg(long)]
    status: bool,
    /// Show which migrations would be applied
    #[arg(long, conflicts_with = "status")]
    dry_run: bool,
    /// Print the SQL that creates the roles for database.owner_url and database.url; change nothing
    #[arg(long, conflicts_with_all = ["status", "dry_run"])]
    roles: bool,
}

impl Runnable for MigrateArgs {
    fn spec(&self) -> Spec {
        Spec {
            name: "migrate",
            scope: Scope::THIS_MACHINE_WRITES,
            needs_installation: self.status || self.dry_run,
            ..Spec::LOCAL
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { run(setup, &self).await })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MigrationView {
    version: i32,
    name: String,
    state: &'static str,
    #[serde(with = "crate::server::timestamp::option")]
    applied_at: Option<time::OffsetDateTime>,
}

const COLUMNS: &[&str] = &["version", "name", "state", "appliedAt"];

async fn run(setup: &Setup, arguments: &MigrateArgs) -> Result<(), Failure> {
    if arguments.roles {
        setup.output.text(&roles::setup_sql());
        return Ok(());
    }
    let opened = database::open_database(setup, Purpose::Command).await?;
    let result = migrate_or_tell(setup, &opened, arguments).await;
    let closed = opened.close().await;
    result.and(closed)
}

async fn migrate_or_tell(
    setup: &Setup,
    opened: &database::OpenDatabase,
    arguments: &MigrateArgs,
) -> Result<(), Failure> {
    if !arguments.status && !arguments.dry_run {
        let done = opened.migrate().await?;
        setup.output.note(&match done.len() {
            0 => "the schema is up to date".to_owned(),
            count => format!("{count} migrations applied"),
        });
    }
    let client = opened.store.client().await?;
    let lines: Vec<MigrationView> = migrate::status(&client)
        .await?
        .into_iter()
        .filter(|state| !arguments.dry_run || state.applied_at.is_none())
        .map(|state| MigrationView {
            version: state.version,
            name: state.name,
            state: match (state.applied_at, arguments.dry_run) {
                (Some(_), _) => "applied",
                (None, true) => "would be applied",
                (None, false) => "pending",
            },
            applied_at: state.applied_at,
        })
        .collect();
    setup.output.records(COLUMNS, &lines);
    Ok(())
}
