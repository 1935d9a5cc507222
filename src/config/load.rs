//! Loads a [`Config`](super::Config) from all sources, and reports all problems at once.

mod origin;
mod text;

use std::collections::BTreeMap;

pub use origin::{ConfigOrigin, LoadedConfig};

use config::{Environment, File, FileFormat, ValueKind};

use super::{
    MAX_SECRET_LEN, keys,
    problem::{ConfigErrors, ConfigProblem, ConfigSource},
    read_bounded,
    reader::{Reader, Values},
    sections,
};

#[derive(Debug, Default)]
pub struct ConfigSources {
    /// The file's name and contents.
    pub file: Option<(String, String)>,
    pub environment: Vec<(String, String)>,
    /// Command-line options: key, value, and name of the option.
    pub flags: Vec<(&'static str, String, &'static str)>,
}

/// Prefix of environment variables; `__` also separates sections.
const ENV_PREFIX: &str = "ESH3AR__";

/// Loads and validates the configuration.
///
/// # Errors
/// All problems at once.
pub fn load(sources: ConfigSources) -> Result<LoadedConfig, ConfigErrors> {
    let mut problems = Vec::new();
    let mut values = Values::new();
    if let Some((name, text)) = &sources.file {
        read_file(name, text, &mut values, &mut problems);
    }
    read_environment(&sources.environment, &mut values, &mut problems);
    for (key, value, option) in sources.flags {
        values.insert(key.to_owned(), (value, ConfigSource::Flag(option.to_owned())));
    }
    take_secrets_from_files(&mut values, &mut problems);
    values.retain(|name, (_, source)| {
        let known = keys::find(name).is_some();
        if !known {
            problems.push(ConfigProblem { source: source.clone(), text: keys::unknown(name) });
        }
        known
    });
    let mut reader = Reader { values, problems };
    match sections::read(&mut reader) {
        Some(config) if reader.problems.is_empty() => Ok(LoadedConfig::new(config, &reader)),
        _ => Err(ConfigErrors(reader.problems)),
    }
}

fn read_file(name: &str, text: &str, values: &mut Values, problems: &mut Vec<ConfigProblem>) {
    let parsed = config::Config::builder()
        .add_source(File::from_str(&text::as_texts(text), FileFormat::Toml))
        .build();
    match parsed {
        Ok(parsed) => {
            let mut flat = Vec::new();
            flatten("", &parsed.cache, &mut flat);
            for (key, value) in flat {
                let source =
                    ConfigSource::File { name: name.to_owned(), line: line_of(text, &key) };
                values.insert(key, (value, source));
            }
        }
        Err(error) => {
            let source = ConfigSource::File { name: name.to_owned(), line: None };
            problems
                .push(ConfigProblem { source, text: text::without_excerpt(&error.to_string()) });
        }
    }
}

fn read_environment(
    environment: &[(String, String)],
    values: &mut Values,
    problems: &mut Vec<ConfigProblem>,
) {
    let ours: config::Map<String, String> =
        environment.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).cloned().collect();
    let names: BTreeMap<String, String> = ours
        .keys()
        .map(|name| (name[ENV_PREFIX.len()..].to_lowercase().replace("__", "."), name.clone()))
        .collect();
    let source = Environment::with_prefix("ESH3AR")
        .prefix_separator("__")
        .separator("__")
        .source(Some(ours));
    match config::Config::builder().add_source(source).build() {
        Ok(parsed) => {
            let mut flat = Vec::new();
            flatten("", &parsed.cache, &mut flat);
            for (key, value) in flat {
                let name = names.get(&key).cloned().unwrap_or_else(|| key.clone());
                values.insert(key, (value, ConfigSource::Environment(name)));
            }
        }
        Err(error) => problems.push(ConfigProblem {
            source: ConfigSource::Environment(format!("{ENV_PREFIX}*")),
            text: error.to_string(),
        }),
    }
}

fn flatten(prefix: &str, value: &config::Value, flat: &mut Vec<(String, String)>) {
    if let ValueKind::Table(table) = &value.kind {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            flatten(&key, value, flat);
        }
    } else if let ValueKind::Array(list) = &value.kind
        && list.iter().any(|item| matches!(item.kind, ValueKind::Table(_)))
    {
        for (index, item) in list.iter().enumerate() {
            flatten(&format!("{prefix}.{index}"), item, flat);
        }
    } else if let ValueKind::Array(list) = &value.kind {
        let texts = list.iter().map(|item| item.clone().into_string().unwrap_or_default());
        flat.push((prefix.to_owned(), texts.collect::<Vec<_>>().join(",")));
    } else {
        flat.push((prefix.to_owned(), value.clone().into_string().unwrap_or_default()));
    }
}

/// The line that sets a key in a TOML file. Of an inline table, it is that of the table.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut section = String::new();
    // The tables of each list so far.
    let mut tables: BTreeMap<String, usize> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.split(']').next()) {
            let name = name.trim();
            let index = tables.entry(name.to_owned()).and_modify(|last| *last += 1).or_insert(0);
            section = format!("{name}.{index}.");
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = name.trim();
            let outer = tables.iter().find_map(|(list, last)| {
                let rest = name.strip_prefix(list.as_str())?.strip_prefix('.')?;
                Some(format!("{list}.{last}.{rest}."))
            });
            section = outer.unwrap_or_else(|| format!("{name}."));
        } else if let Some((name, value)) = line.split_once('=') {
            let name = format!("{section}{}", name.trim());
            let rest = key.strip_prefix(&name);
            let is_inside = |rest: &str| rest.starts_with('.') && value.trim().starts_with('{');
            if rest.is_some_and(|rest| rest.is_empty() || is_inside(rest)) {
                return Some(number + 1);
            }
        }
    }
    None
}

fn take_secrets_from_files(values: &mut Values, problems: &mut Vec<ConfigProblem>) {
    let secret = |name: &String| {
        let key = name.strip_suffix("_file")?;
        keys::find(key).filter(|found| found.secret).map(|_| (name.clone(), key.to_owned()))
    };
    let files: Vec<(String, String)> = values.keys().filter_map(secret).collect();
    for (name, key) in files {
        let Some((path, source)) = values.remove(&name) else { continue };
        match read_bounded(path.as_ref(), MAX_SECRET_LEN) {
            Ok(text) => {
                // A secret of a gateway may begin or end with a space.
                let text = match keys::is_in_list(&key) {
                    true => text
                        .strip_suffix('\n')
                        .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line)),
                    false => text.trim(),
                };
                values.insert(key, (text.to_owned(), source));
            }
            Err(error) => {
                problems
                    .push(ConfigProblem { source, text: format!("cannot read {path}: {error}") });
            }
        }
    }
}

#[cfg(test)]
mod tests;
