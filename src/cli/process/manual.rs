//! `completions` and `man`.

use std::{fs, path::PathBuf};

use clap::Args;
use clap_mangen::Man;

use crate::cli::{
    io::{
        exit::{ExitStatus, Failure},
        output::Output,
    },
    privilege::OpenFiles,
    setup::Setup,
    spec::{CommandFuture, Runnable, Spec},
};

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell
    shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write one page per command into this folder, instead of printing the main page
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Runnable for CompletionsArgs {
    fn spec(&self) -> Spec {
        Spec::PRINTS
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { completions(self.shell, setup) })
    }
}

impl Runnable for ManArgs {
    fn spec(&self) -> Spec {
        Spec::PRINTS
    }

    fn run(self: Box<Self>, setup: &Setup, _files: OpenFiles) -> CommandFuture<'_> {
        Box::pin(async move { pages(&self, setup) })
    }
}

/// The end of the first page: what holds for every command.
const REST: &str = r#".SH FILES
.TP
/etc/esh3ar/esh3ar.toml
The configuration; every key is optional. See \fBesh3ar config doc\fR.
.TP
/var/lib/esh3ar
The data folder of a service, with the embedded Postgres.
.SH ENVIRONMENT
.TP
ESH3AR_CONFIG
The configuration file.
.TP
ESH3AR__SECTION__KEY
Overrides \fIsection.key\fR of the file.
.TP
NO_COLOR
No colours.
.SH "EXIT STATUS"
0 success, 1 failure, 2 usage error, 3 partial success, 4 not found, 5 refused, 69 dependency
unavailable, 78 invalid configuration or data folder.
"#;

fn completions(shell: clap_complete::Shell, setup: &Setup) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut (setup.command_line)(), "esh3ar", &mut text);
    print(text, &setup.output)
}

fn pages(arguments: &ManArgs, setup: &Setup) -> Result<(), Failure> {
    let Some(folder) = &arguments.dir else { return print(first_page(setup)?, &setup.output) };
    let failed = |error: std::io::Error| {
        Failure::new(ExitStatus::Failed, format!("{}: {error}", folder.display()))
            .hint("choose another --dir")
    };
    fs::create_dir_all(folder).map_err(failed)?;
    // A page for the command `help` would be useless.
    let command = (setup.command_line)().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder).map_err(failed)?;
    fs::write(folder.join("esh3ar.1"), first_page(setup)?).map_err(failed)
}

fn first_page(setup: &Setup) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let failed = |error: std::io::Error| Failure::new(ExitStatus::Failed, error.to_string());
    Man::new((setup.command_line)().disable_help_subcommand(true))
        .render(&mut text)
        .map_err(failed)?;
    text.extend_from_slice(REST.as_bytes());
    Ok(text)
}

fn print(text: Vec<u8>, output: &Output) -> Result<(), Failure> {
    let text = String::from_utf8(text)
        .map_err(|_| Failure::new(ExitStatus::Failed, "the text is not UTF-8"))?;
    output.text(&text);
    Ok(())
}
