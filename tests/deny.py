#!/usr/bin/env python3
"""The rules of deny.toml without cargo-deny: `deny.py` checks everything that this machine has the data for,
`deny.py --lock-only LOCK…` only the lock files. Exit status 1 and a line for each broken rule."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
RULES = tomllib.loads((ROOT / "deny.toml").read_text())
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def packages(lock):
    return tomllib.loads(lock.read_text())["package"]


def broken_locks(locks):
    """Banned crates, other sources than crates.io, and crates that nothing needs."""
    banned = {rule["crate"]: rule["reason"] for rule in RULES["bans"]["deny"]}
    for lock in locks:
        found = packages(lock)
        for package in found:
            name = f"{package['name']} {package['version']}"
            if package["name"] in banned:
                yield f"{lock.name}: {name} is banned: {banned[package['name']]}"
            if package.get("source", REGISTRY) != REGISTRY:
                yield f"{lock.name}: {name} is not from crates.io: {package['source']}"
        # Packages without a source are this repository's own.
        waiting = [package for package in found if "source" not in package]
        needed = set()
        while waiting:
            package = waiting.pop()
            if (key := (package["name"], package["version"])) in needed:
                continue
            needed.add(key)
            for line in package.get("dependencies", []):
                name, *version = line.split()
                waiting += [
                    other for other in found
                    if other["name"] == name and version[:1] in ([], [other["version"]])
                ]
        for package in found:
            if (package["name"], package["version"]) not in needed:
                yield f"{lock.name}: nothing needs {package['name']} {package['version']}"


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    words = []
    for token in tokens:
        if words and words[-1].endswith(" WITH"):
            words[-1] += f" {token}"
        elif token == "WITH":
            words[-1] += " WITH"
        else:
            words.append(token)

    def any_of():
        result = all_of()
        while words and words[0] == "OR":
            words.pop(0)
            result = all_of() or result
        return result

    def all_of():
        result = one()
        while words and words[0] == "AND":
            words.pop(0)
            result = one() and result
        return result

    def one():
        word = words.pop(0)
        if word != "(":
            return word in allowed
        result = any_of()
        words.pop(0)
        return result

    return any_of() and not words


def broken_licences(tree):
    allowed = set(RULES["licenses"]["allow"])
    for line in sorted({line.removesuffix(" (*)") for line in tree.splitlines() if line}):
        package, _, licence = line.partition("\t")
        if not licence or not is_allowed(licence, allowed):
            yield f"{package} has the licence '{licence}'"


def number(version):
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0].split("-")[0])[:3])


def meets(version, requirement):
    """Whether a version meets a requirement of the advisory database: `>= 1.2, < 2`, `^1.2`, `~1.2.3`."""
    mine = number(version)
    for part in requirement.split(","):
        operator, wanted = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~)?\s*(\S+)\s*", part).groups()
        low = number(wanted)
        low3 = (low + (0, 0, 0))[:3]
        if operator == "~":
            ok = mine >= low3 and mine[: min(len(low), 2)] == low[:2]
        elif operator in (None, "^"):
            fixed = next((n for n, part in enumerate(low) if part), len(low) - 1) + 1
            ok = mine >= low3 and mine[:fixed] == low[:fixed]
        else:
            ok = {
                ">=": mine >= low3, "<=": mine <= low3, ">": mine > low3, "<": mine < low3,
                "=": mine[: len(low)] == low,
            }[operator]
        if not ok:
            return False
    return True


def advisory_database():
    given = os.environ.get("ESH3AR_ADVISORY_DB")
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    places = [pathlib.Path(given)] if given else [*home.glob("advisory-db*"), *home.glob("advisory-db*/*")]
    return next((place for place in places if (place / "crates").is_dir()), None)


def broken_by_advisories(database, locks):
    ignored = {rule if isinstance(rule, str) else rule.get("id") for rule in RULES.get("advisories", {}).get("ignore", [])}
    for lock in locks:
        for package in packages(lock):
            for file in sorted((database / "crates" / package["name"]).glob("RUSTSEC-*.md")):
                front = re.search(r"```toml\n(.*?)```", file.read_text(), re.DOTALL)
                advisory = tomllib.loads(front[1])
                about, versions = advisory["advisory"], advisory.get("versions", {})
                if about.get("withdrawn") or about["id"] in ignored or about.get("informational"):
                    continue
                safe = versions.get("patched", []) + versions.get("unaffected", [])
                if not any(meets(package["version"], requirement) for requirement in safe):
                    yield f"{lock.name}: {package['name']} {package['version']}: {about['id']}"


def main(arguments):
    only = arguments[:1] == ["--lock-only"]
    locks = [ROOT / path for path in arguments[1:]] or [ROOT / "Cargo.lock"]
    if only:
        broken = list(broken_locks(locks))
    else:
        broken = []
        print("deny: cargo-deny is not installed: checked by tests/deny.py instead")
        # Not `cargo metadata`: it also has crates of features that nothing enables, which are not compiled.
        command = ["cargo", "tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}\t{l}"]
        for target in RULES["graph"]["targets"]:
            run = subprocess.run(
                [*command, "--target", target], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if run.returncode == 0:
                broken += [line for line in broken_licences(run.stdout) if line not in broken]
            else:
                print(f"deny: SKIPPED: licences for {target} (its crates are not on this machine)")
        if database := advisory_database():
            broken += broken_by_advisories(database, locks)
        else:
            print("deny: SKIPPED: advisories (no clone of rustsec/advisory-db; ESH3AR_ADVISORY_DB names one)")
    for line in broken:
        print(f"deny: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
