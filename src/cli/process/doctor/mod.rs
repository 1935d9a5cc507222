//! `doctor`: the configuration, this machine and every dependency looked at, every fault with its
//! remedy. It changes nothing, and makes nothing that is not there.

mod check;
mod database;
mod machine;
mod services;

use clap::Args;

use super::privilege::OpenFiles;
use crate::cli::{
    io::{
        exit::{ExitStatus, Failure},
        output::{Format, Output, pluralize},
        sanitize,
    },
    setup::Setup,
    spec::{CommandFuture, Privilege, Runnable, Spec},
};
use crate::config::{ConfigErrors, Loaded};
use check::{Check, fail};

/// What a monitoring check has to know.
pub(crate) const HELP: &str = "Exit status: 0 all is well, 1 a check failed (with --strict: or warns), \
     78 the configuration is wrong";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The same as -o json
    #[arg(long)]
    json: bool,
    /// Warnings fail too
    #[arg(long)]
    strict: bool,
}

impl Runnable for DoctorArgs {
    fn spec(&self) -> Spec {
        Spec {
            name: "doctor",
            privilege: Privilege::Inspection,
            format: self.json.then_some(Format::Json),
            ..Spec::LOCAL
        }
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { Box::pin(run(setup, &self)).await })
    }

    fn check_config(
        &self,
        output: &Output,
        loaded: Result<&Loaded, &ConfigErrors>,
    ) -> Option<Result<(), Failure>> {
        loaded.err().map(|errors| Err(misconfigured(output, errors)))
    }
}

async fn run(setup: &Setup, arguments: &DoctorArgs) -> Result<(), Failure> {
    // That it could be read at all was checked before this.
    let mut checks = vec![machine::configuration(setup), machine::data_folder(setup)];
    checks.push(machine::disk(setup));
    checks.push(machine::open_files(setup));
    checks.push(machine::certificate(&setup.loaded.config));
    database::check(setup, &mut checks).await;
    services::check(setup, &mut checks).await;
    checks.push(machine::service(setup).await);
    tell(&setup.output, &checks);
    let count = |state: &str| checks.iter().filter(|check| check.state == state).count();
    let (faults, warnings) = (count("FAIL"), count("warn"));
    let what = match (faults, warnings) {
        (0, 0) => return Ok(()),
        (0, _) if !arguments.strict => return Ok(()),
        (0, warnings) => format!("{warnings} of {} checks warn", checks.len()),
        (faults, _) => format!("{faults} of {} checks failed", checks.len()),
    };
    Err(Failure::new(ExitStatus::Failed, what).hint("see the remedies above"))
}

/// What there is to say when the configuration cannot be used: nothing else can be looked at.
fn misconfigured(output: &Output, errors: &ConfigErrors) -> Failure {
    let faults: Vec<Check> = errors
        .0
        .iter()
        .map(|fault| {
            let found = format!("{}: {}", fault.source, fault.text);
            fail("configuration", found, "correct it; esh3ar config doc tells every key")
        })
        .collect();
    tell(output, &faults);
    Failure::new(
        ExitStatus::Config,
        format!("{} in the configuration", pluralize(faults.len(), "fault")),
    )
    .hint("nothing else was looked at; correct them and run this again")
}

/// For people a line for each check, and one below it for what to do: neither may be cut short.
fn tell(output: &Output, checks: &[Check]) {
    if !output.is_table() {
        output.records(&["check", "state", "found", "remedy"], checks);
        return;
    }
    let width = checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Check { check, state, found, remedy } in checks {
        text.push_str(&format!("{state:4}  {check:width$}  {}\n", sanitize::line(found)));
        if !remedy.is_empty() {
            text.push_str(&format!("      {:width$}  → {}\n", "", sanitize::line(remedy)));
        }
    }
    output.text(&text);
}
