#!/usr/bin/env bash
# Runs all tests in an instrumented build and tells the share of lines by room. `make coverage` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

# Only this package is compiled once more; the dependencies are those of every other build.
export RUSTC_WORKSPACE_WRAPPER=$PWD/tests/coverage-rustc.sh

# The profile's format is that of the compiler's own LLVM.
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
cov=/usr/bin/llvm-cov-$major profdata=/usr/bin/llvm-profdata-$major
folder=target/coverage
rm -rf "$folder"
# Processes add what they covered to a few files when they end. The appliance does not stay root and writes
# to the same.
umask 0
mkdir -p "$folder/raw"
export LLVM_PROFILE_FILE=$PWD/$folder/raw/%4m.profraw

cargo nextest run --locked --no-run
# What fails is said here, and is no reason to tell nothing: `make test` is the judge.
cargo nextest run --locked --profile default "$@" || echo "Some tests failed in the instrumented build."
"$profdata" merge --sparse --failure-mode=all -o "$folder/all.profdata" "$folder/raw"
rm -rf "$folder/raw"
objects=()
for binary in $(cargo nextest list --locked --list-type binaries-only --message-format json 2>/dev/null |
    python3 -c 'import json, sys; print(*(b["binary-path"] for b in json.load(sys.stdin)["rust-binaries"].values()))'); do
    objects+=(--object "$binary")
done
"$cov" export --summary-only --instr-profile "$folder/all.profdata" target/debug/esh3ar "${objects[@]}" \
    >"$folder/coverage.json"
python3 tests/coverage.py "$folder/coverage.json"
