//! Completions and the manual page.

use super::exit::{Failure, Kind};
use super::{
    description,
    output::{Format, Output},
};

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut description(), "esh3ar", &mut text);
    print(text)
}

pub(super) fn page() -> Result<(), Failure> {
    let mut text = Vec::new();
    let failed = |error: std::io::Error| Failure::new(Kind::Failed, error.to_string());
    clap_mangen::Man::new(description()).render(&mut text).map_err(failed)?;
    print(text)
}

fn print(text: Vec<u8>) -> Result<(), Failure> {
    let text =
        String::from_utf8(text).map_err(|_| Failure::new(Kind::Failed, "the text is not UTF-8"))?;
    Output::new(Format::Table, false).text(&text);
    Ok(())
}
