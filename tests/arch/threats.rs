//! Each row of the threat table in docs/SECURITY.md names at least one test, and each test exists.

use crate::{files_under, read};

/// What is wrong with the threat table.
pub(crate) fn judge() -> Vec<String> {
    let files: Vec<_> = ["tests", "src"].into_iter().flat_map(files_under).collect();
    faults(&read("docs/SECURITY.md"), |module, name| {
        let declaration = format!("fn {name}(");
        let in_file = format!("/{module}.rs");
        let in_folder = format!("/{module}/");
        files.iter().any(|(path, text)| {
            let path = path.to_string_lossy();
            (path.ends_with(&in_file) || path.contains(&in_folder)) && text.contains(&declaration)
        })
    })
}

fn faults(page: &str, exists: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| *line != "## Threats")
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .collect();
    if rows.is_empty() {
        return vec!["docs/SECURITY.md has no threat table".into()];
    }
    let mut faults = Vec::new();
    for row in rows {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let tests: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() {
            faults.push(format!("no test: {row}"));
        }
        for test in tests {
            let known = test.rsplit_once("::").is_some_and(|(module, name)| {
                exists(module.rsplit("::").next().unwrap_or(module), name)
            });
            if !known {
                faults.push(format!("no such test: {test}"));
            }
        }
    }
    faults
}

#[test]
fn a_row_without_a_test_and_a_test_that_is_not_there_are_found() {
    let page = "## Threats\n\n| a | b | test |\n| --- | --- | --- |\n| x | y | `m::known` |\n\
                | x | y | nothing |\n| x | y | `m::known`, `m::gone` |\n## Limits\n| z | |\n";
    let found = faults(page, |module, name| (module, name) == ("m", "known"));
    assert_eq!(found, ["no test: | x | y | nothing |", "no such test: m::gone"]);
    assert_eq!(faults("## Limits", |_, _| true).len(), 1);
}
