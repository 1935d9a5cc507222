#!/usr/bin/env bash
# Runs all tests in an instrumented build and tells the share of lines by room. `make coverage` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

# The profile's format is that of the compiler's own LLVM.
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
export LLVM_COV=/usr/bin/llvm-cov-$major LLVM_PROFDATA=/usr/bin/llvm-profdata-$major
export CARGO_TARGET_DIR=$PWD/target/coverage
mkdir -p "$CARGO_TARGET_DIR"
# The appliance does not stay root, and writes its profile when it ends.
umask 0
# shellcheck disable=SC1090
source <(cargo llvm-cov show-env --export-prefix 2>/dev/null)
cargo llvm-cov clean --workspace
# What fails is said here, and is no reason to tell nothing: `make test` is the judge.
cargo nextest run --locked --profile default || echo "Some tests failed in the instrumented build."
cargo llvm-cov report --json --summary-only --output-path "$CARGO_TARGET_DIR/coverage.json"
python3 tests/coverage.py "$CARGO_TARGET_DIR/coverage.json"
