//! The deb and the rpm, from a built binary through their life in a bare Debian.

use std::process::Command;

use crate::support::BINARY;

#[test]
fn both_packages_live_through_install_upgrade_and_removal() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/test/package.sh");
    let output = Command::new(script).arg(BINARY).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
}
