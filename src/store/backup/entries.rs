//! The entries of a dump: which kinds a restore takes. An entry's kind is what the file says; its SQL may do
//! anything, so what protects is the role that runs it. The list keeps out what esh3ar has none of.

/// What the migrations make.
const TAKEN: &[&str] = &[
    "CHECK CONSTRAINT",
    "CONSTRAINT",
    "DEFAULT",
    "FK CONSTRAINT",
    "FUNCTION",
    "INDEX",
    "SCHEMA",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "SEQUENCE",
    "TABLE DATA",
    "TABLE",
    "TRIGGER",
];
/// What an operator may have added, and a restore leaves out.
const LEFT_OUT: &[&str] = &[
    "ACL",
    "COMMENT",
    "DEFAULT ACL",
    "EXTENSION",
    "PUBLICATION TABLE",
    "PUBLICATION",
    "SUBSCRIPTION",
];

/// At most this many kinds are named.
const MAX_NAMED: usize = 5;

/// The lines of `pg_restore --list` that are restored.
///
/// # Errors
/// There is an entry of another kind.
pub(super) fn taken(list: &str) -> Result<String, String> {
    let mut taken = String::new();
    let mut unknown: Vec<String> = Vec::new();
    for line in list.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty()) {
        // "215; 1259 16390 TABLE public messages owner"
        let what = line.splitn(4, ' ').nth(3).unwrap_or(line);
        let is = |kinds: &[&str]| {
            kinds.iter().any(|kind| {
                what.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' ') || rest.is_empty())
            })
        };
        // First, because "DEFAULT" begins "DEFAULT ACL".
        if is(LEFT_OUT) {
            continue;
        }
        if is(TAKEN) && !what.starts_with("TABLE ATTACH") {
            taken.push_str(line);
            taken.push('\n');
        } else if unknown.len() < MAX_NAMED {
            unknown.push(what.chars().filter(|c| !c.is_control()).take(80).collect());
        }
    }
    if unknown.is_empty() {
        return Ok(taken);
    }
    Err(format!("the file has what esh3ar does not have: {}", unknown.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kinds_of_the_migrations_are_taken() {
        let list = ";\n; Archive created at 2026\n;\n\
                    5; 2615 2200 SCHEMA - public esh3ar_owner\n\
                    3; 3079 16384 EXTENSION - pg_stat_statements \n\
                    215; 1259 16390 TABLE public messages esh3ar\n\
                    9; 826 1 DEFAULT ACL public DEFAULT PRIVILEGES FOR TABLES esh3ar\n\
                    3378; 0 16390 TABLE DATA public messages esh3ar\n";
        let found = taken(list).unwrap();
        let numbers: Vec<&str> = found.lines().filter_map(|line| line.split(';').next()).collect();
        assert_eq!(numbers, ["5", "215", "3378"]);
        for kind in
            ["EVENT TRIGGER - e x", "POLICY public messages p x", "VIEW public v x", "CAST - x y"]
        {
            let error = taken(&format!("{list}7; 0 0 {kind}\n")).unwrap_err();
            assert!(error.contains(kind), "{error}");
        }
    }
}
