//! Temporary folders, empty or with an installation in them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{BINARY, command, test_run};

/// A folder that goes with its owner. Passable for others, because the binary does not stay root.
pub struct Folder {
    path: PathBuf,
    /// None for a folder that is the run's.
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    /// An empty one.
    pub fn new() -> Folder {
        let made = tempfile::Builder::new().prefix("t-").tempdir_in(test_run::folder()).unwrap();
        fs::set_permissions(made.path(), Permissions::from_mode(0o711)).unwrap();
        Folder { path: made.path().to_owned(), _temporary: Some(made) }
    }

    /// One whose data folder holds an installation that nobody has used yet: its database is made and
    /// migrated. For every test that is not about making one.
    pub fn seeded() -> Folder {
        let folder = Folder::new();
        copy(&installation(), &folder.data());
        folder
    }

    /// One that stays until the run ends.
    pub fn of_run(path: &Path) -> Folder {
        fs::create_dir_all(path).unwrap();
        Folder { path: path.to_owned(), _temporary: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }
}

/// The data folder that all others are copied from: made by the product, once a run, and stopped.
fn installation() -> PathBuf {
    let made = test_run::once("installation", |place| {
        fs::create_dir(place).unwrap();
        let data = place.join("data");
        let made = command(&data).arg("migrate").output().unwrap();
        let text = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{BINARY} migrate: {}\n{text}", made.status);
        data.to_str().unwrap().to_owned()
    });
    made.into()
}

/// A copy with its owners and modes; the blocks are shared where the file system can do that.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).output();
    let copied = copied.unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}
