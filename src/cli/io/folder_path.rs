//! Root's way to a data folder: every folder on it is opened below the one before, no symbolic link of
//! somebody else is followed, and no existing folder is opened to others.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat, readlinkat},
    sys::stat::{Mode, mkdirat},
    unistd::{User, geteuid},
};

use super::exit::{ExitStatus, Failure};

const MAX_LINKS: usize = 16;
/// Of folders that are created on the way; the service's user must pass them.
const PARENT_MODE: u32 = 0o755;
const DATA_MODE: u32 = 0o700;

/// Creates the folder if it does not exist, and gives it to the user if it is root's and empty. Returns its
/// path without symbolic links.
///
/// # Errors
/// [`ExitStatus::Config`]: others could replace the folder, the user cannot reach it, or it has files of
/// root's. Then nothing existing was changed.
pub(crate) fn give(path: &Path, user: &User) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| unusable(path, &error))?;
    let mut pending: VecDeque<OsString> = names(&absolute);
    let root = open("/", FLAGS, Mode::empty()).map_err(|error| unusable(path, &error.into()))?;
    let mut folders = vec![File::from(root)];
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            if folders.len() > 1 {
                folders.pop();
            }
            continue;
        }
        let Some(parent) = folders.last() else { break };
        let is_last = pending.is_empty();
        let folder = match openat(parent, name.as_os_str(), FLAGS, Mode::empty()) {
            Ok(folder) => File::from(folder),
            Err(Errno::ENOENT) => create(parent, &name, is_last, user)?,
            Err(error) => {
                let Ok(target) = readlinkat(parent, name.as_os_str()) else {
                    return Err(unusable(&place(parent).join(&name), &error.into()));
                };
                links += 1;
                // The service's user must not lead root to where only root may create folders.
                let owner = of(parent)?.uid();
                let is_roots = owner == 0 || owner == geteuid().as_raw();
                if links > MAX_LINKS || !is_roots || !is_closed_to_others(parent, user, false)? {
                    let what =
                        format!("{} is a symbolic link", place(parent).join(&name).display());
                    return Err(Failure::new(ExitStatus::Config, what)
                        .hint("others can change it: give the path that it leads to"));
                }
                let target = PathBuf::from(target);
                if target.is_absolute() {
                    folders.truncate(1);
                }
                for name in names(&target).into_iter().rev() {
                    pending.push_front(name);
                }
                continue;
            }
        };
        if !is_last {
            check_passable(&folder, user)?;
        }
        folders.push(folder);
    }
    let (Some(folder), Some(parent)) = (folders.last(), folders.iter().rev().nth(1)) else {
        return Err(Failure::new(ExitStatus::Config, "/ cannot be the data folder"));
    };
    give_last(parent, folder, user)?;
    Ok(place(folder))
}

const FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The path of an open folder.
fn place(folder: &File) -> PathBuf {
    fs::read_link(descriptor(folder)).unwrap_or_default()
}

fn descriptor(folder: &File) -> String {
    format!("/proc/self/fd/{}", folder.as_raw_fd())
}

fn of(folder: &File) -> Result<fs::Metadata, Failure> {
    folder.metadata().map_err(|error| unusable(&place(folder), &error))
}

/// Whether only this user, root and the service's user can change the names in a folder; with `or_sticky` also
/// where others cannot change names that are not theirs.
fn is_closed_to_others(folder: &File, user: &User, or_sticky: bool) -> Result<bool, Failure> {
    let metadata = of(folder)?;
    let owner = metadata.uid();
    let trusted = owner == 0 || owner == geteuid().as_raw() || owner == user.uid.as_raw();
    let mode = metadata.mode();
    Ok(trusted && (mode & 0o022 == 0 || (or_sticky && mode & 0o1000 != 0)))
}

fn check_parent(parent: &File, user: &User) -> Result<(), Failure> {
    if is_closed_to_others(parent, user, true)? {
        return Ok(());
    }
    let what = format!("others can change {}", place(parent).display());
    Err(Failure::new(ExitStatus::Config, what)
        .hint("choose a --data-dir elsewhere, such as /var/lib/esh3ar"))
}

fn create(parent: &File, name: &OsString, is_last: bool, user: &User) -> Result<File, Failure> {
    check_parent(parent, user)?;
    let path = place(parent).join(name);
    let failed = |error: Errno| unusable(&path, &error.into());
    mkdirat(parent, name.as_os_str(), Mode::S_IRWXU).map_err(failed)?;
    let folder =
        File::from(openat(parent, name.as_os_str(), FLAGS, Mode::empty()).map_err(failed)?);
    if of(&folder)?.uid() != geteuid().as_raw() {
        return Err(unusable(&path, &io::Error::from(io::ErrorKind::PermissionDenied)));
    }
    let mode = if is_last { DATA_MODE } else { PARENT_MODE };
    folder
        .set_permissions(Permissions::from_mode(mode))
        .map_err(|error| unusable(&path, &error))?;
    Ok(folder)
}

/// Gives root's empty folder to the user.
fn give_last(parent: &File, folder: &File, user: &User) -> Result<(), Failure> {
    if of(folder)?.uid() != 0 {
        return Ok(());
    }
    check_parent(parent, user)?;
    let path = place(folder);
    let is_empty =
        fs::read_dir(descriptor(folder)).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        let what = format!("{} belongs to root and is not empty", path.display());
        let hint = "choose a --data-dir that only esh3ar uses";
        return Err(Failure::new(ExitStatus::Config, what).hint(hint));
    }
    fchown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .and_then(|()| folder.set_permissions(Permissions::from_mode(DATA_MODE)))
        .map_err(|error| unusable(&path, &error))
}

/// Postgres needs search permission on every parent folder.
fn check_passable(folder: &File, user: &User) -> Result<(), Failure> {
    let metadata = of(folder)?;
    let mode = metadata.mode();
    let passable = mode & 0o001 != 0
        || (metadata.uid() == user.uid.as_raw() && mode & 0o100 != 0)
        || (metadata.gid() == user.gid.as_raw() && mode & 0o010 != 0);
    if passable {
        return Ok(());
    }
    let path = place(folder);
    let what = format!("user {} cannot access {}", user.name, path.display());
    Err(Failure::new(ExitStatus::Config, what).hint(format!(
        "choose a --data-dir elsewhere, such as /var/lib/esh3ar, or open the folder yourself: chmod o+x {}",
        path.display()
    )))
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(ExitStatus::Config, format!("{}: {error}", path.display()))
        .hint("choose another --data-dir")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::unistd::getuid;

    use super::*;

    fn place_with_mode(mode: u32) -> (tempfile::TempDir, User) {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        (folder, User::from_uid(getuid()).unwrap().unwrap())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// Another user than the one who runs the tests.
    fn other(user: &User) -> User {
        User { uid: 54_321.into(), gid: 54_321.into(), name: "other".to_owned(), ..user.clone() }
    }

    #[test]
    fn a_closed_parent_stays_closed() {
        let (folder, user) = place_with_mode(0o700);
        let data = folder.path().join("data");
        let refused = give(&data, &other(&user)).unwrap_err();
        assert!(refused.what.contains("cannot access"), "{}", refused.what);
        assert_eq!(mode(folder.path()), 0o700);
        assert!(!data.exists());
    }

    #[test]
    fn nothing_is_created_where_others_can_replace_it() {
        let (folder, user) = place_with_mode(0o777);
        let data = folder.path().join("data");
        assert!(give(&data, &user).unwrap_err().what.contains("others can change"));
        assert!(!data.exists());
        // A link that others can change is not followed.
        let (elsewhere, _) = place_with_mode(0o755);
        symlink(elsewhere.path(), folder.path().join("link")).unwrap();
        let refused = give(&folder.path().join("link/data"), &user).unwrap_err();
        assert!(refused.what.contains("symbolic link"), "{}", refused.what);
        assert!(!elsewhere.path().join("data").exists());
        // As in /tmp.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(give(&data, &user).unwrap(), data.canonicalize().unwrap());
        assert_eq!(mode(&data), 0o700);
    }

    #[test]
    fn folders_on_the_way_are_created_passable_and_own_links_are_followed() {
        let (folder, user) = place_with_mode(0o755);
        let (elsewhere, _) = place_with_mode(0o755);
        symlink(elsewhere.path(), folder.path().join("link")).unwrap();
        let data = folder.path().join("link/x/../a/data");
        fs::create_dir(elsewhere.path().join("x")).unwrap();
        let real = elsewhere.path().canonicalize().unwrap().join("a/data");
        assert_eq!(give(&data, &user).unwrap(), real);
        assert_eq!((mode(&elsewhere.path().join("a")), mode(&real)), (0o755, 0o700));
    }
}
