"""Prints line coverage by room, and fails when a room is under its figure."""

import json
import sys
from collections import defaultdict

# The types of the domain: what is stored, sent and shown.
ENTITIES = {
    "conversation", "dead_letter", "ids", "job", "message", "party", "permission", "phone", "status",
}
FIGURES = {"domain (types)": 90, "domain (rest)": 85, "app": 80}


def room(path):
    """The room of a source file, or nothing for what is no source of the product."""
    # What a macro of another crate makes counts as that crate's.
    if "/src/" not in path or "/registry/" in path:
        return None
    parts = path.split("/src/", 1)[1].split("/")
    if parts[0] == "domain":
        name = parts[1].removesuffix(".rs")
        return "domain (types)" if name in ENTITIES else "domain (rest)"
    return parts[0].removesuffix(".rs")


lines = defaultdict(lambda: [0, 0])
with open(sys.argv[1], encoding="utf-8") as file:
    for found in json.load(file)["data"][0]["files"]:
        name = room(found["filename"])
        if name:
            summary = found["summary"]["lines"]
            lines[name][0] += summary["covered"]
            lines[name][1] += summary["count"]

short = False
for name, (covered, count) in sorted(lines.items()):
    share = 100 * covered / count
    wanted = FIGURES.get(name)
    under = wanted is not None and share < wanted
    short |= under
    figure = f"  (at least {wanted} %)" if wanted else ""
    print(f"{share:6.1f} %  {name}: {covered} of {count} lines{figure}{'  UNDER' if under else ''}")
covered, count = (sum(column) for column in zip(*lines.values()))
print(f"{100 * covered / count:6.1f} %  all")
sys.exit(short)
