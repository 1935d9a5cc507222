//! Statements: each has a name, and all are in one list, so that a test prepares every one.
//!
//! A module declares its statements in one block of [`statements!`]. A statement whose text depends on a
//! filter is made by [`Statement::built`], and the function `built` of its module returns all variants.

use std::borrow::Cow;

use super::{
    access_changes, accounts, audit, audit_chain, backup,
    chat::{self, deduplication},
    content_policy, conversations, dead_letter_digest, dead_letters, deleted, embedded, erasure,
    idempotency, import, jobs, message_status,
    messages::{self, listed},
    migrate, nodes, pool, presence_log,
    privacy::{self, export},
    reconciliation, registration_counts, registrations,
    replicas::{self, watch},
    retention, roles, secrets, server_checks, stats, stored_phones, timeline, tokens, versions,
};

#[derive(Clone, Debug)]
pub struct Statement {
    name: &'static str,
    text: Cow<'static, str>,
    is_kept: bool,
}

impl Statement {
    /// A statement whose text is a constant; made by [`statements!`] only.
    pub(super) const fn declared(name: &'static str, text: &'static str) -> Statement {
        Statement { name, text: Cow::Borrowed(text), is_kept: true }
    }

    /// A statement whose text depends on a filter. Variants must be few: each stays prepared.
    pub(super) fn built(name: &'static str, text: String) -> Statement {
        Statement { name, text: Cow::Owned(text), is_kept: true }
    }

    /// The same, prepared for each execution: for statements that a connection rarely repeats.
    #[must_use]
    pub(super) const fn once(mut self) -> Statement {
        self.is_kept = false;
        self
    }

    /// Module path and name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a connection keeps it prepared.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }
}

/// Declares the statements of a module, and their list:
///
/// ```ignore
/// statements! {
///     /// What it is for, where the name does not say it.
///     TAKE = "SELECT …";
///     FIND: once = concat!("SELECT ", columns!(), " FROM …");
/// }
/// ```
///
/// A connection prepares each at its first execution and keeps it; those with `once` are prepared each time.
macro_rules! statements {
    ($($(#[$attribute:meta])* $name:ident $(: $once:ident)? = $text:expr;)+) => {
        $(
            $(#[$attribute])*
            static $name: $crate::store::statement::Statement =
                $crate::store::statement::Statement::declared(
                    concat!(module_path!(), "::", stringify!($name)),
                    $text,
                )$(.$once())?;
        )+

        /// All statements of this module with a constant text.
        pub(in $crate::store) const LIST: &[&$crate::store::statement::Statement] = &[$(&$name),+];
    };
}
pub(super) use statements;

/// Every statement, in all variants.
pub fn all() -> Vec<Statement> {
    let declared = [
        access_changes::LIST,
        accounts::LIST,
        audit::LIST,
        audit_chain::LIST,
        backup::LIST,
        backup::catalog::LIST,
        backup::filler::LIST,
        backup::log::LIST,
        reconciliation::LIST,
        chat::LIST,
        content_policy::LIST,
        server_checks::LIST,
        conversations::LIST,
        dead_letters::LIST,
        deleted::LIST,
        embedded::LIST,
        embedded::recovery::LIST,
        embedded::roles::LIST,
        erasure::LIST,
        export::LIST,
        idempotency::LIST,
        import::LIST,
        jobs::LIST,
        deduplication::LIST,
        listed::LIST,
        messages::LIST,
        migrate::LIST,
        nodes::LIST,
        dead_letter_digest::LIST,
        stored_phones::LIST,
        message_status::LIST,
        privacy::LIST,
        pool::LIST,
        registration_counts::LIST,
        registrations::LIST,
        replicas::LIST,
        retention::LIST,
        roles::LIST,
        secrets::LIST,
        stats::LIST,
        timeline::LIST,
        tokens::LIST,
        presence_log::LIST,
        versions::LIST,
        watch::LIST,
    ];
    let built = [
        audit::built(),
        backup::built(),
        conversations::built(),
        dead_letters::built(),
        listed::built(),
    ];
    let declared = declared.into_iter().flatten().map(|statement| (*statement).clone());
    declared.chain(built.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        fs,
        path::{Path, PathBuf},
    };

    use super::all;

    /// The files of the store but this one, by module.
    fn sources() -> Vec<(String, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![root.join("store")];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|name| name != "statement.rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    found.push((module(path.strip_prefix(&root).unwrap()), text));
                }
            }
        }
        found
    }

    fn module(path: &Path) -> String {
        let path: PathBuf = path.with_extension("");
        let parts = path.iter().map(|part| part.to_str().unwrap());
        let parts: Vec<&str> = parts.filter(|part| *part != "mod").collect();
        format!("esh3ar::{}", parts.join("::"))
    }

    /// How often a file names something.
    fn mentions(text: &str, name: &str) -> usize {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| *word == name).count()
    }

    #[test]
    fn the_list_holds_the_statements_of_every_module() {
        let all = all();
        let mut wrong = Vec::new();
        for (module, text) in sources() {
            let of_module: HashSet<&str> = all
                .iter()
                .filter_map(|statement| statement.name().strip_prefix(&module)?.strip_prefix("::"))
                .filter(|name| !name.contains("::"))
                .collect();
            let is_declared = |name: &str| name.chars().all(|c| !c.is_lowercase());
            if text.contains("statements! {") && !of_module.iter().any(|name| is_declared(name)) {
                wrong.push(format!("{module}: its LIST is not in `all`"));
            }
            let builds = text.contains("Statement::built(");
            if builds && of_module.iter().all(|name| is_declared(name)) {
                wrong.push(format!("{module}: its `built` is not in `all`"));
            }
            if text.contains("Statement::declared(") {
                wrong.push(format!("{module}: statements are declared by `statements!`"));
            }
            for name in of_module.iter().filter(|name| is_declared(name)) {
                if mentions(&text, name) < 2 {
                    wrong.push(format!("{module}: nothing runs {name}"));
                }
            }
        }
        assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    }
}
