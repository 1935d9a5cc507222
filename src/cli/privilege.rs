//! Drops root's privileges: a process started by root continues as the service's user before it does anything.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    os::{
        fd::{AsFd as _, IntoRawFd as _, OwnedFd},
        unix::{
            fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    fcntl::OFlag,
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl::{set_dumpable, set_pdeathsig},
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, raise},
    },
    unistd::{Group, Pid, Uid, User, getegid, geteuid, getppid},
};
use zeroize::Zeroizing;

use crate::cli::{
    io::{
        exit::{ExitStatus, Failure},
        folder_path, private_file,
    },
    operator_name,
};

/// The user to become instead of root. No other: `postgres` and `nobody` run other programs, which could read
/// the data.
const SERVICE_USER: &str = "esh3ar";
/// Tells the command that continues as another user that its standard output is the file that it was to open.
const OUTPUT_IS_FILE_VAR: &str = "ESH3AR_OUTPUT_IS_FILE";

/// Whether this process runs as the service's user, or continues a process of root's.
pub(crate) fn is_service() -> bool {
    operator_name::inherited().is_some() || user_name() == SERVICE_USER
}

pub(crate) fn user_name() -> String {
    let user = User::from_uid(geteuid()).ok().flatten();
    user.map_or_else(|| format!("uid {}", geteuid()), |user| user.name)
}

pub(crate) fn group_name() -> String {
    let group = Group::from_gid(getegid()).ok().flatten();
    group.map_or_else(|| getegid().to_string(), |group| group.name)
}

/// Tells it which configuration file root chose.
const CONFIG_PATH_VAR: &str = "ESH3AR_CARRIED_CONFIG";

/// The configuration file that root chose or wrote before it became this user.
pub(crate) fn inherited_config() -> Option<PathBuf> {
    env::var_os(CONFIG_PATH_VAR).map(PathBuf::from)
}

/// Has the token that root read from the file of `--token-file`.
const TOKEN_VAR: &str = "ESH3AR_CARRIED_TOKEN";

/// The token that root read before it became this user.
pub(crate) fn inherited_token() -> Option<String> {
    env::var(TOKEN_VAR).ok().filter(|_| operator_name::inherited().is_some())
}

/// Whether the file that this command is to write was opened by root, as its standard output.
pub(crate) fn output_is_file() -> bool {
    env::var_os(OUTPUT_IS_FILE_VAR).is_some()
}

/// Tells it the same of its standard input.
const INPUT_IS_FILE_VAR: &str = "ESH3AR_INPUT_IS_FILE";

/// Files that the caller opened, before root's privileges were dropped.
#[derive(Default)]
pub(crate) struct OpenFiles {
    pub(crate) out: Option<File>,
    pub(crate) input: Option<File>,
    /// The text of a small file.
    pub(crate) text: Option<Zeroizing<String>>,
}

/// The number of the file descriptor that has the text of [`OpenFiles`].
const TEXT_FD_VAR: &str = "ESH3AR_TEXT_FD";

/// Whether the process of root's that this one continues has read a small file for it.
pub(crate) fn has_inherited_text() -> bool {
    env::var_os(TEXT_FD_VAR).is_some()
}

/// The text of the small file `path`, from this process or from the one that it continues.
pub(crate) fn text(
    opened: Option<Zeroizing<String>>,
    path: &Path,
) -> Result<Zeroizing<String>, Failure> {
    if let Some(text) = opened {
        return Ok(text);
    }
    let inherited = env::var(TEXT_FD_VAR).ok().and_then(|number| number.parse::<u32>().ok());
    let place =
        inherited.map_or_else(|| path.to_owned(), |n| PathBuf::from(format!("/proc/self/fd/{n}")));
    let text = fs::read_to_string(place).map_err(|error| unreadable(path, &error))?;
    Ok(Zeroizing::new(text))
}

/// Memory that the continuing process inherits: it is never on a disk, and needs no permission to be read.
fn text_in_memory(text: &str) -> std::io::Result<OwnedFd> {
    let memory = memfd_create(c"esh3ar", MFdFlags::empty())?;
    let mut file = File::from(memory);
    file.write_all(text.as_bytes())?;
    Ok(file.into())
}

/// Whether the file that this command reads, or writes a backup into, was opened by root, as its standard
/// input.
pub(crate) fn input_is_file() -> bool {
    env::var_os(INPUT_IS_FILE_VAR).is_some()
}

/// Opens a file that the command reads; `None` if root opened it as standard input.
pub(crate) fn open_input(path: &Path) -> Result<Option<File>, Failure> {
    if input_is_file() {
        return Ok(None);
    }
    File::open(path).map(Some).map_err(|error| unreadable(path, &error))
}

/// The open file, or standard input.
pub(crate) fn input(opened: Option<File>, path: &Path) -> Result<File, Failure> {
    match opened {
        Some(file) => Ok(file),
        None => std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .map_err(|error| unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ExitStatus::NotFound,
        _ => ExitStatus::Failed,
    };
    Failure::new(kind, format!("{} cannot be read: {error}", path.display()))
}

/// When root: creates a file for the user that the command continues as.
pub(crate) fn give_file(path: &Path, data_dir: &Path) -> Result<(), Failure> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let user = user_of(data_dir)?;
    private_file::create_new(path)
        .and_then(|file| fchown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw())))
        .map_err(|error| {
            Failure::new(ExitStatus::Failed, format!("cannot create {}: {error}", path.display()))
        })
}

/// When root: lets the service's user read a secret file that root has created. In the data folder it becomes that
/// user's, elsewhere it stays root's.
pub(crate) fn share_file(path: &Path, data_dir: &Path) -> Result<(), Failure> {
    if !geteuid().is_root() {
        return Ok(());
    }
    // Without such a user there is nobody else to read it.
    let Ok(user) = user_of(data_dir) else { return Ok(()) };
    let (owner, mode) =
        if path.starts_with(data_dir) { (user.uid.as_raw(), 0o600) } else { (0, 0o640) };
    // The file, not what a link of its name leads to.
    let opened = File::options().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path);
    opened
        .and_then(|file| {
            fchown(&file, Some(owner), Some(user.gid.as_raw()))?;
            file.set_permissions(fs::Permissions::from_mode(mode))
        })
        .map_err(|error| {
            let what = format!("cannot give {} to {}: {error}", path.display(), user.name);
            Failure::new(ExitStatus::Failed, what)
        })
}

/// The data folder, unless an option or the configuration names another.
pub(crate) fn default_data_dir() -> PathBuf {
    let given = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(list) = given("STATE_DIRECTORY") {
        // systemd separates several by colons.
        let list = list.to_string_lossy().into_owned();
        return PathBuf::from(list.split(':').next().unwrap_or_default());
    }
    if geteuid().is_root() {
        return PathBuf::from("/var/lib/esh3ar");
    }
    given("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| given("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("esh3ar")
}

/// How a process of root's continues.
pub(crate) enum Continuation {
    /// In this process: it is not root.
    InProcess(OpenFiles),
    /// As the same command of the service's user.
    AsUser(Box<Command>),
}

/// When root: creates the data folder, gives it to the service's user and prepares this same command as
/// that user, with its output and input going to the files if there are any: what root opened is not the
/// user's to open. `config` is the configuration file, and `token` what
/// root read from a file of tokens.
pub(crate) fn drop_root(
    data_dir: &Path,
    given: OpenFiles,
    config: Option<&Path>,
    token: Option<&str>,
) -> Result<Continuation, Failure> {
    if !geteuid().is_root() {
        return Ok(Continuation::InProcess(given));
    }
    let user = user_of(data_dir)?;
    let data_dir = folder_path::give(data_dir, &user)?;
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| "esh3ar".into());
    // Through /proc: the binary's own folder may be closed to the user.
    let mut command = Command::new("/proc/self/exe");
    if let Some(out) = given.out {
        command.stdout(out).env(OUTPUT_IS_FILE_VAR, "1");
    }
    if let Some(input) = given.input {
        command.stdin(input).env(INPUT_IS_FILE_VAR, "1");
    }
    if let Some(text) = given.text {
        let memory = text_in_memory(&text).map_err(|error| {
            Failure::new(ExitStatus::Failed, format!("cannot pass a file on: {error}"))
        })?;
        // Open until this process ends or is replaced: the other one inherits it.
        command.env(TEXT_FD_VAR, memory.into_raw_fd().to_string());
    }
    if let Some(config) = config {
        command.env(CONFIG_PATH_VAR, config);
    }
    if let Some(token) = token {
        // Only root and this user can read a process's environment.
        command.env(TOKEN_VAR, token);
    }
    command
        .arg0(name)
        .args(arguments)
        .env("ESH3AR__DATA_DIR", &data_dir)
        .env("HOME", &data_dir)
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw());
    operator_name::hand_over(&mut command).map_err(|error| {
        Failure::new(ExitStatus::Failed, format!("cannot switch to another user: {error}"))
    })?;
    Ok(Continuation::AsUser(Box::new(command)))
}

/// Replaces this process by the other user's command. Returns only on failure.
pub(crate) fn exec_as_user(mut command: Command) -> Failure {
    let error = command.exec();
    Failure::new(ExitStatus::Failed, format!("cannot switch to another user: {error}"))
}

/// Tells the other user's command that this process of root's waits for it.
const PARENT_PID_VAR: &str = "ESH3AR_WAITED_FOR";

/// When root waits for this command: ends when root's process does. A signal reaches only the
/// process that was started, and its work must not continue without it.
pub(crate) fn die_with_parent() {
    if let Some(root) = env::var(PARENT_PID_VAR).ok().and_then(|pid| pid.parse().ok()) {
        // Neither fails with a valid signal.
        let _ = set_pdeathsig(Signal::SIGTERM);
        // The parent may have ended before that call.
        if getppid() != Pid::from_raw(root) {
            let _ = raise(Signal::SIGTERM);
        }
    }
}

/// Runs the other user's command to its end, and returns its exit status: root has something left
/// to do.
pub(crate) fn run_as_user(mut command: Command) -> Result<u8, Failure> {
    command.env(PARENT_PID_VAR, std::process::id().to_string());
    let status = command.status().map_err(|error| {
        Failure::new(ExitStatus::Failed, format!("cannot switch to another user: {error}"))
    })?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(ExitStatus::Failed as u8))
}

/// The user to become for a data folder.
pub(crate) fn user_of(data_dir: &Path) -> Result<User, Failure> {
    // The owner of an existing folder, so that root's commands run as the service does.
    let owner = fs::metadata(data_dir).ok().map(|metadata| metadata.uid()).filter(|uid| *uid != 0);
    let user = match owner {
        Some(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
        None => User::from_name(SERVICE_USER).ok().flatten(),
    };
    user.ok_or_else(|| {
        Failure::new(ExitStatus::Config, "there is no user esh3ar to run as instead of root").hint(
            "create it: adduser --system --group esh3ar, or start esh3ar as another user than root",
        )
    })
}

pub(crate) fn host() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "unknown".to_owned())
}

/// Keeps the memory of this process, which contains tokens and keys, out of core files, and closed to other
/// processes of the same user. Programs that it runs, such as Postgres, are not changed.
pub(crate) fn forbid_dumps() {
    // Neither can fail for the calling process, except where a filter of system calls refuses the second.
    let _ = set_dumpable(false);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

/// Raises the limit of open files to the hard limit, and returns it.
pub(crate) fn raise_file_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return hard;
    }
    soft
}
