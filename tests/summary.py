#!/usr/bin/env python3
"""Adds up what test programs said, from meson's testlog.json files, and prints one closing line.

usage: summary.py BUILD_DIR ...

A cmocka program or a pytest run counts each of its cases, any other program counts as one. Skipped cases are listed with the reason they gave. The exit
status is 1 where anything failed or nothing ran.
"""
import json
import pathlib
import re
import sys

CMOCKA = re.compile(r"\[  (PASSED|FAILED|SKIPPED)\s*\] (?:\S+: )?(\d+) test\(s\)")
PYTEST = re.compile(r"(\d+) (passed|failed|skipped|error|errors)\b")
PYTEST_LAST = re.compile(r"^=*\s*((?:\d+ \w+(?:, )?)+) in [\d.]+s", re.M)
KINDS = {"PASSED": "passed", "FAILED": "failed", "SKIPPED": "skipped", "error": "failed", "errors": "failed"}


def cases(test):
    """Counts of one test program, by what it printed; its exit status has the last word."""
    out = (test.get("stdout") or "") + "\n" + (test.get("stderr") or "")
    n = {"passed": 0, "failed": 0, "skipped": 0}
    last = PYTEST_LAST.findall(out)
    if last:
        for count, kind in PYTEST.findall(last[-1]):
            n[KINDS.get(kind, kind)] += int(count)
    else:
        for kind, count in CMOCKA.findall(out):
            n[KINDS[kind]] += int(count)
    if test["result"] in ("FAIL", "TIMEOUT", "ERROR", "INTERRUPT"):
        n["failed"] = max(n["failed"], 1)
    elif test["result"] == "SKIP":
        n["skipped"] = max(n["skipped"], 1)
    elif not any(n.values()):
        n["passed"] = 1
    return n, out


def main():
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for build in map(pathlib.Path, sys.argv[1:]):
        for line in (build / "meson-logs" / "testlog.json").read_text().splitlines():
            test = json.loads(line)
            n, out = cases(test)
            for kind in total:
                total[kind] += n[kind]
            if n["failed"]:
                print(f"--- {build.name}: {test['name']}: {test['result']}\n" + "\n".join(out.strip().splitlines()[-60:]))
            if n["skipped"]:
                why = re.findall(r"^.*(?:skip|SKIP).*$", out, re.M)[:5]
                print(f"skipped in {build.name}: {test['name']}: {n['skipped']}" + "".join(f"\n    {w.strip()}" for w in why))
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
