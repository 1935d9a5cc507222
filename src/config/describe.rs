//! What the keys look like on paper: a commented file and a page of documentation, both made from
//! the declarations of the keys, so that neither can say what the program does not.

use std::fmt::Write as _;

use super::keys::{self, Key};

/// Comments are broken to this width, in characters.
const WIDTH: usize = 100;

const HEAD: &str = "\
# esh3ar's configuration. Every key is here with its default or an example; what is commented out has
# no effect, and esh3ar needs none of it. To set a key, take the leading \"#: \" away.
# Each can also come from the environment: http.listen is ESH3AR__HTTP__LISTEN.
# `esh3ar config check` finds mistakes, `esh3ar config show` tells where each value came from.
";

/// A key that is set in a file: its name, or the name with `_file` behind it, and its text.
pub type Setting = (String, String);

/// The file with every key commented out.
pub fn default_file() -> String {
    file_with(&[])
}

/// The file with these keys set and all others commented out.
pub fn file_with(settings: &[Setting]) -> String {
    let mut text = HEAD.to_owned();
    // TOML has keys without a section before the first section.
    let (alone, sections): (Vec<&Key>, Vec<&Key>) =
        keys::all().partition(|key| !key.name.contains('.'));
    for key in alone {
        text.push('\n');
        write_key(&mut text, key, key.name, settings);
    }
    for section in in_order(&sections) {
        let _ = writeln!(text, "\n[{section}]");
        for key in &sections {
            if let Some((_, rest)) = key.name.split_once('.').filter(|(of, _)| *of == section) {
                write_key(&mut text, key, rest, settings);
            }
        }
    }
    text
}

/// The page that documents every key, in Markdown.
pub fn markdown() -> String {
    let mut text = "\
# Every key of the configuration

This page is written by `esh3ar config doc`. [OPERATIONS.md](OPERATIONS.md) says where keys are set and
what follows from them. A key `section.name` is `name = …` below `[section]` in the file, and
`ESH3AR__SECTION__NAME` in the environment. One that is marked *secret* is never shown, and may be given
as `name_file`, the path of a file that holds it. One that is marked *live* is taken up by
`esh3ar reload`; the others wait for a restart.
"
    .to_owned();
    let (alone, sections): (Vec<&Key>, Vec<&Key>) =
        keys::all().partition(|key| !key.name.contains('.'));
    let row = |text: &mut String, key: &Key| {
        let default =
            if key.default.is_empty() { "unset".to_owned() } else { format!("`{}`", key.default) };
        let secret = if key.secret { " *Secret.*" } else { "" };
        let live = if key.live { " *Live.*" } else { "" };
        let doc = key.doc.replace('|', "\\|").replace('<', "&lt;");
        let _ = writeln!(text, "| `{}` | {default} | {doc}{secret}{live} |", key.name);
    };
    let head = "\n| key | default | |\n| --- | --- | --- |\n";
    text.push_str(head);
    alone.iter().for_each(|key| row(&mut text, key));
    for section in in_order(&sections) {
        let _ = write!(text, "\n## {section}\n{head}");
        let prefix = format!("{section}.");
        sections.iter().filter(|k| k.name.starts_with(&prefix)).for_each(|k| row(&mut text, k));
    }
    text
}

/// Each section once, by its first key.
fn in_order(keys: &[&Key]) -> Vec<&'static str> {
    let mut sections: Vec<&str> = Vec::new();
    for (section, _) in keys.iter().filter_map(|key| key.name.split_once('.')) {
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    sections
}

fn write_key(text: &mut String, key: &Key, name: &str, settings: &[Setting]) {
    let mut doc = key.doc.to_owned();
    if key.secret {
        let path = key.name.replace(['.', '_'], "-");
        let _ = write!(doc, " Better in a file of its own: {name}_file = \"/etc/esh3ar/{path}\"");
    }
    comment(text, &doc);
    let file = format!("{}_file", key.name);
    let set = |wanted: &str| settings.iter().find(|(name, _)| name == wanted);
    let _ = match (set(key.name), set(&file)) {
        (_, Some((_, path))) if key.secret => writeln!(text, "{name}_file = {}", quoted(path)),
        (Some((_, value)), _) => writeln!(text, "{name} = {}", literal(value)),
        _ => writeln!(text, "#: {name} = {}", example(key)),
    };
}

fn comment(text: &mut String, doc: &str) {
    let mut line = "#".to_owned();
    for word in doc.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

fn example(key: &Key) -> String {
    let is_array = key.example.starts_with('[');
    if is_array { key.example.to_owned() } else { literal(key.example) }
}

/// Numbers and truths as they are, everything else as a string.
fn literal(value: &str) -> String {
    let plain = matches!(value, "true" | "false") || value.parse::<u64>().is_ok();
    if plain { value.to_owned() } else { quoted(value) }
}

fn quoted(value: &str) -> String {
    let mut text = "\"".to_owned();
    for sign in value.chars() {
        match sign {
            '"' | '\\' => text.extend(['\\', sign]),
            sign if sign.is_control() => {
                let _ = write!(text, "\\u{:04X}", u32::from(sign));
            }
            sign => text.push(sign),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Loaded, Source, Sources, load};

    fn read(text: String) -> Loaded {
        let file = Some(("esh3ar.toml".to_owned(), text));
        load(Sources { file, ..Sources::default() }).unwrap()
    }

    /// Compared with what is in the repository: people read the file there and packages ship it.
    #[test]
    fn the_shipped_file_is_the_default_file() {
        let shipped = include_str!("../../packaging/esh3ar.toml");
        assert!(
            shipped == default_file(),
            "packaging/esh3ar.toml is stale; run: esh3ar config default > packaging/esh3ar.toml"
        );
    }

    #[test]
    fn the_page_of_keys_is_the_generated_one() {
        let page = include_str!("../../docs/CONFIGURATION.md");
        assert!(
            page == markdown(),
            "docs/CONFIGURATION.md is stale; run: esh3ar config doc > docs/CONFIGURATION.md"
        );
    }

    #[test]
    fn the_default_file_sets_nothing_and_uncommented_sets_every_key() {
        let text = default_file();
        let loaded = read(text.clone());
        assert!(loaded.origins.iter().all(|origin| origin.source == Source::Default));
        let all: String = text
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line)))
            .collect();
        for origin in read(all).origins {
            let key = origin.key;
            assert!(matches!(origin.source, Source::File { .. }), "{key} is missing in the file");
            assert!(!origin.value.is_empty(), "{key} needs an example where it is declared");
        }
    }

    #[test]
    fn what_is_set_is_read_back_whatever_it_holds() {
        let odd = "a\"b\\c # d\u{7f}é = [x]";
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("a \"secret\"");
        std::fs::write(&secret, "postgres://u:p@h/d\n").unwrap();
        let settings = [
            ("data_dir".to_owned(), odd.to_owned()),
            ("http.max_connections".to_owned(), "7".to_owned()),
            ("database.url_file".to_owned(), secret.display().to_string()),
        ];
        let config = read(file_with(&settings)).config;
        assert_eq!(config.data.dir.unwrap().to_str(), Some(odd));
        assert_eq!(config.http.max_connections, 7);
        assert_eq!(config.database.url.unwrap().expose(), "postgres://u:p@h/d");
    }
}
