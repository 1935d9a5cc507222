#!/usr/bin/env bash
# The rules of deny.toml: licences, sources, banned crates, known vulnerabilities. With cargo-deny where it is
# installed; else tests/deny.py checks the same without downloading anything. Says what could not be checked.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 tests/deny.py --lock-only Cargo.lock fuzz/Cargo.lock
if ! cargo deny --version >/dev/null 2>&1; then
    exec python3 tests/deny.py
fi
cargo deny --locked --offline check --hide-inclusion-graph bans licenses sources
if timeout 60 cargo deny fetch db >/dev/null 2>&1 || compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-db*/*" >/dev/null; then
    cargo deny --locked --offline check --hide-inclusion-graph --disable-fetch advisories
else
    echo "deny: SKIPPED: advisories (the advisory database cannot be had here)"
fi
