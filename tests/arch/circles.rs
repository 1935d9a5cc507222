//! Modules of a room import in no circle: drawn between the files and subfolders of every folder.
//!
//! What a `mod.rs` declares itself belongs to the whole folder, so it is no node of the folder's graph. What
//! it re-exports counts as an import of the module that declares it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Source,
    names::{Names, Way},
};

/// Files that list what every module beside them declares. Their imports are not drawn.
const CATALOGUES: &[&str] = &[
    // The list of all statements stands beside the macro that declares them.
    "store/statement.rs",
];

/// Of each folder, which of its modules imports which.
type Graphs = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Every circle.
pub(crate) fn judge(read: &[(&Source, Names)], crates: &BTreeSet<String>) -> Vec<String> {
    let circles = circles(&graphs(read, crates)).into_iter();
    circles
        .map(|(folder, modules)| {
            format!("{folder}: {} import each other in a circle", modules.join(", "))
        })
        .collect()
}

fn graphs(read: &[(&Source, Names)], crates: &BTreeSet<String>) -> Graphs {
    let tests: Vec<&Vec<String>> = read.iter().flat_map(|(_, names)| &names.test_modules).collect();
    let is_test = |module: &[String]| tests.iter().any(|test| module.starts_with(test));
    let modules: BTreeMap<Vec<String>, &Names> =
        read.iter().map(|(source, names)| (source.module(), names)).collect();
    let mut graphs = Graphs::new();
    for (source, names) in read {
        let from = source.module();
        if is_test(&from) || CATALOGUES.contains(&source.name().as_str()) {
            continue;
        }
        for written in &names.paths {
            let Some(Way::In(path)) = names.resolve(written, crates) else { continue };
            let Some(to) = declared_in(&path, &modules, crates, 0) else { continue };
            let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
            // The outermost folder is that of the rooms, which have a table of their own.
            if shared == 0 || from.len() == shared || to.len() == shared {
                continue;
            }
            let graph = graphs.entry(from[..shared].join("/")).or_default();
            graph.entry(from[shared].clone()).or_default().insert(to[shared].clone());
        }
    }
    graphs
}

/// The module that declares what a path leads to, through what others re-export.
fn declared_in(
    path: &[String],
    modules: &BTreeMap<Vec<String>, &Names>,
    crates: &BTreeSet<String>,
    depth: usize,
) -> Option<Vec<String>> {
    let length = (1..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let (module, rest) = path.split_at(length);
    let export = rest.first().and_then(|name| modules.get(module)?.exports.get(name));
    if let Some(export) = export
        && depth < 8
        && let Some(Way::In(target)) = modules.get(module)?.resolve(export, crates)
    {
        let target = [target.as_slice(), &rest[1..]].concat();
        return declared_in(&target, modules, crates, depth + 1);
    }
    Some(module.to_vec())
}

/// The groups of modules of which each reaches every other.
fn circles(graphs: &Graphs) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (folder, graph) in graphs {
        let reach: BTreeMap<&String, BTreeSet<&String>> =
            graph.keys().map(|module| (module, reached(module, graph))).collect();
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        for (module, others) in &reach {
            if !others.contains(module) || seen.contains(module) {
                continue;
            }
            let circle: Vec<&String> = others
                .iter()
                .copied()
                .filter(|other| reach.get(other).is_some_and(|back| back.contains(module)))
                .collect();
            seen.extend(&circle);
            found.push((folder.clone(), circle.into_iter().cloned().collect()));
        }
    }
    found
}

/// Every module that imports lead to from one.
fn reached<'a>(
    from: &'a String,
    graph: &'a BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut left = vec![from];
    while let Some(module) = left.pop() {
        for next in graph.get(module).into_iter().flatten() {
            if found.insert(next) {
                left.push(next);
            }
        }
    }
    found
}
