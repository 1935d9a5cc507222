//! What is wrong with a configuration, and where its values came from.

use std::fmt;

/// The source of a value, from lowest to highest precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    Default,
    File {
        name: String,
        /// Line number, if known.
        line: Option<usize>,
    },
    /// Environment variable.
    Environment(String),
    /// Command-line option.
    Flag(String),
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigSource::Default => f.write_str("default"),
            ConfigSource::File { name, line: Some(line) } => write!(f, "{name}:{line}"),
            ConfigSource::File { name, line: None } => f.write_str(name),
            ConfigSource::Environment(name) => write!(f, "environment {name}"),
            ConfigSource::Flag(name) => write!(f, "option {name}"),
        }
    }
}

/// A problem in the configuration.
#[derive(Clone, Debug)]
pub struct ConfigProblem {
    pub source: ConfigSource,
    pub text: String,
}

/// All problems in the configuration.
#[derive(Clone, Debug, Default)]
pub struct ConfigErrors(pub Vec<ConfigProblem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {}", problem.source, problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
