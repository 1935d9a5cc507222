//! Who runs this command, for the audit log.
//!
//! It is the user that the kernel names. `SUDO_USER` counts only for root, who could be anybody anyway. When
//! root's process continues as the service's user, it hands the name over in a sealed memory file: its owner is
//! root, and nobody else can make such a file. A variable of the environment can be set by anybody.

use std::{
    env, fs, io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    process::Command,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::{User, getuid},
};

/// The number of the open file with the name.
const DESCRIPTOR_VAR: &str = "ESH3AR_OPERATOR_FD";
const FILE_NAME: &str = "esh3ar-operator";
/// In bytes.
const MAX_NAME_LEN: u64 = 256;

/// The user who runs this command: before `sudo`, and before root became the owner of the data.
pub(crate) fn operator() -> String {
    if let Some(name) = inherited() {
        return name;
    }
    let uid = getuid();
    let by_sudo = || {
        let name = env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
        name.filter(|name| uid.is_root() && User::from_name(name).ok().flatten().is_some())
    };
    let own = || User::from_uid(uid).ok().flatten().map(|user| user.name);
    by_sudo().or_else(own).unwrap_or_else(|| format!("uid {uid}"))
}

/// The name that root's process handed over.
pub(crate) fn inherited() -> Option<String> {
    let number: u32 = env::var(DESCRIPTOR_VAR).ok()?.parse().ok()?;
    let path = format!("/proc/self/fd/{number}");
    let place = fs::read_link(&path).ok()?;
    // Only root can create a file of this name at the root of the file system, or a memory file of root's.
    let is_memory_file =
        place.to_str().is_some_and(|place| place.starts_with(&format!("/memfd:{FILE_NAME}")));
    let file = fs::metadata(&path).ok()?;
    if !is_memory_file || file.uid() != 0 || file.nlink() != 0 || file.len() > MAX_NAME_LEN {
        return None;
    }
    fs::read_to_string(&path).ok().filter(|name| !name.is_empty())
}

/// Gives root's command that continues as another user the name of who runs it.
pub(crate) fn hand_over(command: &mut Command) -> io::Result<()> {
    // Without `MFD_CLOEXEC`: the command inherits it.
    let file = memfd_create(FILE_NAME, MFdFlags::MFD_ALLOW_SEALING)?;
    let number = file.as_raw_fd();
    nix::unistd::write(&file, operator().as_bytes())?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals | SealFlag::F_SEAL_SEAL))?;
    command.env(DESCRIPTOR_VAR, number.to_string());
    // Open until this process becomes the command, or ends after it.
    INHERITED.get_or_init(|| file);
    Ok(())
}

static INHERITED: std::sync::OnceLock<std::os::fd::OwnedFd> = std::sync::OnceLock::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_user_that_the_kernel_names() {
        // Neither variable is set by the test runner.
        if env::var_os("SUDO_USER").is_none() && env::var_os(DESCRIPTOR_VAR).is_none() {
            let own = User::from_uid(getuid()).unwrap().map(|user| user.name);
            assert_eq!(operator(), own.unwrap_or_else(|| format!("uid {}", getuid())));
        }
    }
}
