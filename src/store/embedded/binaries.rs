//! Finds the Postgres programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The programs of one installation.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub(super) initdb: PathBuf,
    pub(super) postgres: PathBuf,
}

/// Searches only the given folder, or else the distributions' folder of the cluster's major version, then
/// PATH, then other versions, highest first.
pub(super) fn find(given: Option<&Path>, major: Option<&str>) -> Option<Binaries> {
    let folder = folder_with(given, major, &["initdb", "postgres"])?;
    Some(Binaries { initdb: folder.join("initdb"), postgres: folder.join("postgres") })
}

/// The same for any set of programs in one folder.
pub fn folder_with(
    given: Option<&Path>,
    major: Option<&str>,
    programs: &[&str],
) -> Option<PathBuf> {
    let folders = match given {
        Some(folder) => vec![folder.to_owned()],
        None => {
            let path = env::var_os("PATH").unwrap_or_default();
            let (fitting, others): (Vec<_>, Vec<_>) = installed()
                .into_iter()
                .partition(|(number, _)| major.is_some_and(|major| major == number.to_string()));
            let folders = |found: Vec<(u32, PathBuf)>| found.into_iter().map(|(_, path)| path);
            folders(fitting).chain(env::split_paths(&path)).chain(folders(others)).collect()
        }
    };
    folders.into_iter().find(|folder| programs.iter().all(|program| folder.join(program).is_file()))
}

/// Debian's /usr/lib/postgresql/15/bin and the rpm distributions' /usr/pgsql-15/bin.
fn installed() -> Vec<(u32, PathBuf)> {
    let list = |folder: &str| {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    let debian = list("/usr/lib/postgresql");
    let rpm = list("/usr").filter(|path| name(path).starts_with("pgsql-"));
    let mut found: Vec<(u32, PathBuf)> = debian
        .chain(rpm)
        .filter_map(|path| {
            let digits: String = name(&path).chars().filter(char::is_ascii_digit).collect();
            digits.parse().ok().map(|major| (major, path.join("bin")))
        })
        .collect();
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
