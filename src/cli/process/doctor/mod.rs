//! `doctor`: checks the configuration, this machine and every dependency, and prints a remedy for every
//! problem. It creates nothing.

mod check;
mod database;
mod encryption;
mod keys;
mod machine;
mod registration;
mod services;

use clap::Args;

use crate::{
    cli::{
        io::{
            exit::{ExitStatus, Failure},
            output::{Format, Output, pluralize},
            sanitize,
        },
        privilege::OpenFiles,
        setup::Setup,
        spec::{CommandFuture, Privilege, Runnable, Spec},
    },
    config::{ConfigErrors, LoadedConfig},
};
use check::{Check, fail};

/// For monitoring.
pub(crate) const HELP: &str = "Exit status: 0 all checks passed, 1 a check failed (with --strict: or warned), \
     78 invalid configuration";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Same as -o json
    #[arg(long)]
    json: bool,
    /// Fail on warnings
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
        loaded: Result<&LoadedConfig, &ConfigErrors>,
    ) -> Option<Result<(), Failure>> {
        loaded.err().map(|errors| Err(misconfigured(output, errors)))
    }
}

async fn run(setup: &Setup, arguments: &DoctorArgs) -> Result<(), Failure> {
    // The configuration itself was checked before this.
    let mut checks = vec![machine::configuration(setup), machine::data_folder(setup)];
    checks.push(machine::disk(setup));
    checks.push(machine::open_files(setup));
    checks.push(machine::certificate(&setup.loaded.config));
    database::check(setup, &mut checks).await;
    services::check(setup, &mut checks).await;
    checks.push(registration::check(&setup.loaded.config));
    encryption::check(setup, &mut checks);
    checks.push(machine::service(setup).await);
    tell(&setup.output, &checks);
    let count = |state: &str| checks.iter().filter(|check| check.state == state).count();
    let (faults, warnings) = (count("FAIL"), count("warn"));
    let what = match (faults, warnings) {
        (0, 0) => return Ok(()),
        (0, _) if !arguments.strict => return Ok(()),
        (0, warnings) => format!("{warnings} of {} checks warned", checks.len()),
        (faults, _) => format!("{faults} of {} checks failed", checks.len()),
    };
    Err(Failure::new(ExitStatus::Failed, what).hint("see the remedies above"))
}

/// Reports an invalid configuration, with which nothing else can be checked.
fn misconfigured(output: &Output, errors: &ConfigErrors) -> Failure {
    let faults: Vec<Check> = errors
        .0
        .iter()
        .map(|fault| {
            let found = format!("{}: {}", fault.source, fault.text);
            fail("configuration", found, "fix it; esh3ar config doc describes every key")
        })
        .collect();
    tell(output, &faults);
    Failure::new(
        ExitStatus::Config,
        format!("{} in the configuration", pluralize(faults.len(), "error")),
    )
    .hint("nothing else was checked; fix the configuration and run this again")
}

/// For people, a line per check and one below it for the remedy: neither is truncated.
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
