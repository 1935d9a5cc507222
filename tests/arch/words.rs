//! The field's words: which names types, modules and constants must not have, and that the name of a public
//! type means one type. docs/GLOSSARY.md has the words to use instead.

use std::collections::BTreeMap;

use crate::{Source, names::Names};

/// No type has one of these names.
const TYPES: &[&str] = &[
    "Asked",
    "Away",
    "Beginning",
    "ChatIntake",
    "Crew",
    "Current",
    "Depth",
    "Desk",
    "Done",
    "Form",
    "Gather",
    "Guests",
    "Heard",
    "Hold",
    "Inside",
    "Intake",
    "Keeper",
    "Ledger",
    "LedgerWork",
    "Line",
    "Lines",
    "Link",
    "Live",
    "Neighbours",
    "Newcomers",
    "Nudge",
    "Part",
    "Passage",
    "Pieces",
    "Place",
    "Pulse",
    "Reach",
    "Receipts",
    "Roster",
    "Said",
    "Seat",
    "Taken",
    "Tell",
    "Teller",
    "Trail",
    "Unreached",
    "Waiting",
    "Watchers",
    "Way",
    "Ways",
    "Wire",
    "Word",
    "Works",
    "Workshop",
];

/// No module has one of these names.
const MODULES: &[&str] = &[
    "away",
    "benches",
    "books",
    "bystanders",
    "chat_intake",
    "crew",
    "desk",
    "gather",
    "greeting",
    "guests",
    "hold",
    "inside",
    "intake",
    "line",
    "live",
    "many",
    "moment",
    "nature",
    "neighbours",
    "newcomers",
    "opened",
    "part",
    "personal",
    "pieces",
    "places",
    "pulse",
    "roster",
    "supervision",
    "trail",
    "unreached",
    "waiting",
    "watchers",
    "way",
    "ways",
    "why",
    "wire",
    "works",
    "workshop",
    "written",
];

/// No constant has one of these names. Instead: `*_TIMEOUT`, `BATCH_SIZE`, `MAX_CONCURRENCY`, `QUEUE_CAPACITY`,
/// `RETRY_DELAY`, `MAX_*_LEN`, `*_TTL`, `RETRY_AFTER`, `SHUTDOWN_GRACE`.
const CONSTANTS: &[&str] =
    &["AGAIN", "AT_ONCE", "COME_BACK", "KEPT", "LAST", "LATELY", "LONGEST", "PATIENCE", "WAITING"];

/// The error of a room is `Error`, as in the standard library, and is named with its room elsewhere.
const CONVENTIONAL: &[&str] = &["Error"];

/// Every name that must not be.
pub(crate) fn judge(read: &[(&Source, Names)]) -> Vec<String> {
    let banned = banned(read).into_iter().map(|(place, name, kind)| {
        format!("{place}: no {kind} is called {name}; see docs/GLOSSARY.md")
    });
    let repeated = repeated(read).into_iter().map(|(name, places)| {
        format!("{}: several public types are called {name}", places.join(", "))
    });
    banned.chain(repeated).collect()
}

/// Place, name and kind of every banned name.
fn banned(read: &[(&Source, Names)]) -> Vec<(String, String, &'static str)> {
    let mut found = Vec::new();
    for (source, names) in outside_tests(read) {
        let types = names.types.iter().map(|declared| (&declared.name, declared.line));
        let all = types
            .map(|found| (found, TYPES, "type"))
            .chain(names.modules.iter().map(|(name, line)| ((name, *line), MODULES, "module")))
            .chain(
                names.constants.iter().map(|(name, line)| ((name, *line), CONSTANTS, "constant")),
            );
        for ((name, line), list, kind) in all {
            if list.contains(&name.as_str()) {
                let place = format!("{}:{line}", source.name());
                found.push((place, name.clone(), kind));
            }
        }
    }
    found
}

/// The places of every name that several public types have.
fn repeated(read: &[(&Source, Names)]) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (source, names) in outside_tests(read) {
        for declared in names.types.iter().filter(|declared| declared.is_public) {
            let place = format!("{}:{}", source.name(), declared.line);
            places.entry(declared.name.clone()).or_default().push(place);
        }
    }
    places.retain(|name, places| places.len() > 1 && !CONVENTIONAL.contains(&name.as_str()));
    places
}

fn outside_tests<'a>(
    read: &'a [(&'a Source, Names)],
) -> impl Iterator<Item = (&'a Source, &'a Names)> {
    let tests: Vec<&Vec<String>> = read.iter().flat_map(|(_, names)| &names.test_modules).collect();
    read.iter()
        .filter(move |(source, _)| !tests.iter().any(|test| source.module().starts_with(test)))
        .map(|(source, names)| (*source, names))
}
