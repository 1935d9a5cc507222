//! An example of a command.

use clap::Args;

use super::{
    Setup,
    privilege::Given,
    spec::{Run, Running, Spec},
};

#[derive(Debug, Args)]
pub(super) struct ExampleArgs {}

impl Run for ExampleArgs {
    fn spec(&self) -> Spec {
        Spec::PRINTS
    }

    fn run(self: Box<Self>, setup: &Setup, _files: Given) -> Running<'_> {
        Box::pin(async move {
            setup.output.text("an example\n");
            Ok(())
        })
    }
}
