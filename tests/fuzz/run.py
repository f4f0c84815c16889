#!/usr/bin/env python3
"""Fuzzes for some seconds from the corpus on; fails where the harness does, and where it ran nothing.

    run.py PROGRAM CORPUS DICTIONARY [SECONDS [FOLDER_FOR_NEW_INPUTS]]
"""
import os
import re
import subprocess
import sys
import tempfile


def main():
    program, corpus, dictionary, *rest = sys.argv[1:]
    seconds = int(rest[0]) if rest else int(os.environ.get("FUZZ_SECONDS", "8"))
    with tempfile.TemporaryDirectory() as scratch:
        found = rest[1] if len(rest) > 1 else scratch
        done = subprocess.run([program, f"-dict={dictionary}", f"-max_total_time={seconds}", "-timeout=20", "-max_len=16384",
                               "-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={found}/", found, corpus],
                              stderr=subprocess.PIPE, text=True, errors="replace", cwd=scratch)
        runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        covered = re.findall(r"cov: (\d+)", done.stderr)
        if done.returncode or not runs:
            print(done.stderr[-6000:])
            for name in os.listdir(found):
                if name.startswith(("crash-", "leak-", "timeout-", "oom-")):
                    print(name, open(os.path.join(found, name), "rb").read()[:2000])
            return 1
        print(f"{os.path.basename(program)}: {runs.group(1)} inputs in {seconds} s, {covered[-1] if covered else 0} edges")
        return 0


if __name__ == "__main__":
    sys.exit(main())
