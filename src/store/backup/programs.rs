//! `pg_dump` and `pg_restore`, of the server's version or a newer one. What goes through them is a stream.

use std::{
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
};

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::entries;
use crate::store::{embedded, pool::Target, primary};

/// Why a program failed.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// They are not installed.
    #[error("pg_dump and pg_restore of Postgres {0} or newer were not found")]
    NotFound(u32),
    /// It is not beside the others.
    #[error("pg_basebackup was not found in {}", .0.display())]
    NoBaseBackup(PathBuf),
    /// A backup file has objects that esh3ar does not have.
    #[error("{0}")]
    Foreign(String),
    /// A program cannot be run, or failed.
    #[error("{program}: {why}")]
    Broken { program: &'static str, why: String },
}

/// The programs and the connection parameters.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
}

const MAX_ERROR_LINES: usize = 5;

fn broken(program: &'static str, error: &dyn std::fmt::Display) -> ProgramError {
    ProgramError::Broken { program, why: error.to_string() }
}

impl Programs {
    /// Finds the programs for a server version such as `15.18`. They connect as the store does; `encrypted`
    /// says whether it uses TLS.
    ///
    /// # Errors
    /// [`ProgramError::NotFound`].
    pub fn find(
        bin_dir: Option<&Path>,
        server: &str,
        target: &Target,
        encrypted: bool,
    ) -> Result<Programs, ProgramError> {
        let major = major(server);
        let text = major.to_string();
        let folder = embedded::folder_with(bin_dir, Some(&text), &["pg_dump", "pg_restore"])
            .filter(|folder| version(&folder.join("pg_dump")) >= major)
            .ok_or(ProgramError::NotFound(major))?;
        Ok(Programs { folder, environment: environment(target, encrypted) })
    }

    fn command(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            // As environment variables: arguments are visible to every user of the machine.
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .env("PGDATABASE", database)
            .current_dir("/")
            .stderr(Stdio::piped());
        command
    }

    /// Dumps a database at a snapshot into `out`.
    ///
    /// # Errors
    /// The dump is incomplete.
    pub fn dump(
        &self,
        database: &str,
        snapshot: &str,
        out: &mut impl Write,
    ) -> Result<u64, ProgramError> {
        const NAME: &str = "pg_dump";
        let mut child = self
            .command(NAME, database)
            .args(["--format=custom", "--compress=1", "--no-owner", "--no-privileges"])
            .arg(format!("--snapshot={snapshot}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| broken(NAME, &error))?;
        let errors = errors_of(&mut child);
        let copied = child.stdout.take().map(|mut rows| std::io::copy(&mut rows, out));
        let copied = copied.unwrap_or(Ok(0));
        end(NAME, child, errors, copied.is_err())?;
        copied.map_err(|error| broken(NAME, &error))
    }

    /// Writes all files of the server's cluster into `out`, as a tar archive with the log that makes it consistent.
    ///
    /// # Errors
    /// The archive is incomplete.
    pub fn base_backup(&self, out: &mut impl Write) -> Result<u64, ProgramError> {
        const NAME: &str = "pg_basebackup";
        if !self.folder.join(NAME).is_file() {
            return Err(ProgramError::NoBaseBackup(self.folder.clone()));
        }
        let mut child = self
            .command(NAME, "postgres")
            .args(["--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast"])
            .args(["--label=esh3ar", "--no-password"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| broken(NAME, &error))?;
        let errors = errors_of(&mut child);
        let copied = child.stdout.take().map(|mut rows| std::io::copy(&mut rows, out));
        let copied = copied.unwrap_or(Ok(0));
        end(NAME, child, errors, copied.is_err())?;
        copied.map_err(|error| broken(NAME, &error))
    }

    /// The entries of a dump that a restore takes, for [`Programs::restore`]. Connects to nothing.
    ///
    /// # Errors
    /// It is no dump, or has entries of unknown kinds.
    pub fn entries(&self, rows: &mut impl Read) -> Result<String, ProgramError> {
        const NAME: &str = "pg_restore";
        let mut child = self
            .command(NAME, "postgres")
            .args(["--format=custom", "--list"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| broken(NAME, &error))?;
        let errors = errors_of(&mut child);
        let list = child.stdout.take().map(|mut list| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = (&mut list).take(MAX_LIST_LEN).read_to_end(&mut text);
                let _ = std::io::copy(&mut list, &mut std::io::sink());
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        // It ends once it has read the list, which breaks the pipe.
        let _ = child.stdin.take().map(|mut to| std::io::copy(rows, &mut to));
        end(NAME, child, errors, false)?;
        let list = list.and_then(|list| list.join().ok()).unwrap_or_default();
        entries::taken(&list).map_err(ProgramError::Foreign)
    }

    /// Restores the `entries` of a dump of [`Programs::dump`] into an empty database.
    ///
    /// # Errors
    /// The restore is incomplete.
    pub fn restore(
        &self,
        database: &str,
        entries: &str,
        rows: &mut impl Read,
    ) -> Result<(), ProgramError> {
        const NAME: &str = "pg_restore";
        let list = EntryList::write(entries).map_err(|error| broken(NAME, &error))?;
        let mut child = self
            .command(NAME, database)
            .args(["--format=custom", "--exit-on-error", "--no-owner", "--no-privileges"])
            .arg(format!("--dbname={database}"))
            .arg(format!("--use-list={}", list.path.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| broken(NAME, &error))?;
        let errors = errors_of(&mut child);
        let copied = child.stdin.take().map(|mut to| std::io::copy(rows, &mut to));
        let copied = copied.unwrap_or(Ok(0));
        // If it fails early, its own error message says more than a broken pipe.
        end(NAME, child, errors, false)?;
        copied.map_err(|error| broken(NAME, &error))?;
        // Drain the rest: it belongs to the stream.
        std::io::copy(rows, &mut std::io::sink()).map_err(|error| broken(NAME, &error))?;
        Ok(())
    }
}

/// In bytes: esh3ar's list has 20 KiB.
const MAX_LIST_LEN: u64 = 4 * 1024 * 1024;

/// A list of entries as a file, which pg_restore wants.
struct EntryList {
    path: PathBuf,
}

impl EntryList {
    fn write(entries: &str) -> std::io::Result<EntryList> {
        // A file of an earlier process with this number is replaced, never followed.
        let name = format!("esh3ar-entries-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        let list = EntryList { path };
        file.write_all(entries.as_bytes())?;
        Ok(list)
    }
}

impl Drop for EntryList {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads a program's standard error while it runs, so that it never blocks.
fn errors_of(child: &mut Child) -> Option<JoinHandle<String>> {
    let mut stream = child.stderr.take()?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = (&mut stream).take(64 * 1024).read_to_end(&mut bytes);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        // Only the program's own lines: others quote rows, with phone numbers and contents.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let own = text.lines().filter(|line| line.starts_with("pg_"));
        own.take(MAX_ERROR_LINES).collect::<Vec<_>>().join("; ")
    }))
}

fn end(
    program: &'static str,
    mut child: Child,
    errors: Option<JoinHandle<String>>,
    cut_off: bool,
) -> Result<(), ProgramError> {
    if cut_off {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| broken(program, &error))?;
    let text = errors.and_then(|errors| errors.join().ok()).unwrap_or_default();
    if status.success() || cut_off {
        return Ok(());
    }
    let why = if text.is_empty() { status.to_string() } else { text };
    Err(ProgramError::Broken { program, why })
}

/// The first number of a version.
fn major(version: &str) -> u32 {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_default()
}

/// "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
fn version(program: &Path) -> u32 {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).split(' ').nth(2).map_or(0, major)
}

/// Usual locations of the system's CA bundle.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// libpq environment variables for a server.
fn environment(target: &Target, encrypted: bool) -> Vec<(&'static str, String)> {
    let mut environment = Vec::new();
    let hosts = target.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    if !hosts.is_empty() {
        environment.push(("PGHOST", hosts));
    }
    let addresses: Vec<String> = target.get_hostaddrs().iter().map(ToString::to_string).collect();
    if !addresses.is_empty() {
        environment.push(("PGHOSTADDR", addresses.join(",")));
    }
    let ports: Vec<String> = target.get_ports().iter().map(ToString::to_string).collect();
    if !ports.is_empty() {
        environment.push(("PGPORT", ports.join(",")));
    }
    if let Some(user) = target.get_user() {
        environment.push(("PGUSER", user.to_owned()));
    }
    if let Some(password) = target.get_password() {
        environment.push(("PGPASSWORD", String::from_utf8_lossy(password).into_owned()));
    }
    if let Some(options) = target.get_options() {
        environment.push(("PGOPTIONS", options.to_owned()));
    }
    let session = match target.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => "read-write",
        TargetSessionAttrs::ReadOnly => "read-only",
        _ => "any",
    };
    environment.push(("PGTARGETSESSIONATTRS", session.to_owned()));
    // The store always verifies chain and name; anything less would let an attacker in between read the
    // password and every row.
    let mode = match target.get_ssl_mode() {
        SslMode::Disable => "disable",
        SslMode::Require => "verify-full",
        _ if encrypted => "verify-full",
        _ => "prefer",
    };
    environment.push(("PGSSLMODE", mode.to_owned()));
    if mode == "verify-full" {
        // Older libpq does not know "system". SSL_CERT_FILE overrides it, as for the store.
        let given = std::env::var("SSL_CERT_FILE").ok().filter(|path| Path::new(path).is_file());
        let usual =
            || BUNDLES.iter().find(|path| Path::new(path).is_file()).map(|p| (*p).to_owned());
        let bundle = given.or_else(usual).unwrap_or_else(|| "system".to_owned());
        environment.push(("PGSSLROOTCERT", bundle));
    }
    if mode != "verify-full" && !primary::is_local(target) {
        // As the store: libpq 16 and newer then refuse to send a password in clear.
        environment.push(("PGREQUIREAUTH", "!password".to_owned()));
    }
    environment.push(("PGAPPNAME", "esh3ar backup".to_owned()));
    environment
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::pool::parse_url;

    fn of(url: &str, encrypted: bool) -> BTreeMap<&'static str, String> {
        environment(&parse_url(url).unwrap(), encrypted).into_iter().collect()
    }

    #[test]
    fn they_go_where_the_url_goes_and_verify_as_the_store_does() {
        let found = of(
            "postgres://u:p@a:1,b:2/d?target_session_attrs=read-write&hostaddr=10.0.0.1,10.0.0.2\
             &options=-c%20search_path%3Dx&sslmode=require",
            false,
        );
        for (name, value) in [
            ("PGHOST", "a,b"),
            ("PGHOSTADDR", "10.0.0.1,10.0.0.2"),
            ("PGPORT", "1,2"),
            ("PGUSER", "u"),
            ("PGPASSWORD", "p"),
            ("PGOPTIONS", "-c search_path=x"),
            ("PGTARGETSESSIONATTRS", "read-write"),
            ("PGSSLMODE", "verify-full"),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(found.contains_key("PGSSLROOTCERT"));
        let mode = |url: &str, encrypted| of(url, encrypted)["PGSSLMODE"].clone();
        assert_eq!(mode("postgres://a/d", false), "verify-full");
        let (may_be, no_password) = ("postgres://localhost/d", "!password");
        assert_eq!(mode(may_be, true), "verify-full", "the store encrypts where it can");
        assert_eq!(mode(may_be, false), "prefer");
        assert_eq!(of(may_be, false)["PGREQUIREAUTH"], no_password);
        assert_eq!(of("postgres://a/d?sslmode=disable", false)["PGREQUIREAUTH"], no_password);
        assert!(!of("postgres://a/d", false).contains_key("PGREQUIREAUTH"));
        assert_eq!(mode("postgres://a/d?sslmode=disable", false), "disable");
        assert_eq!(of("postgres://a/d", false)["PGTARGETSESSIONATTRS"], "any");
    }
}
