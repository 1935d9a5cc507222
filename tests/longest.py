"""Prints the ten tests that took longest, from the report of a run of nextest."""

import sys
import xml.etree.ElementTree

MOST = 10

tests = []
for path in sys.argv[1:]:
    try:
        report = xml.etree.ElementTree.parse(path)
    except FileNotFoundError:
        # Nothing was run: the build failed.
        continue
    tests += [(float(test.get("time", 0)), test.get("name")) for test in report.iter("testcase")]

if tests:
    print(f"The longest of {len(tests)} tests:")
    for seconds, name in sorted(tests, reverse=True)[:MOST]:
        print(f"{seconds:8.1f} s  {name}")
