#!/usr/bin/env python3
"""Builds libFuzzer's programs with clang: the sources under test with coverage and sanitizers, the rest of the project from
its own libraries.

    build.py CLANG ROOT OUTPUT_FOLDER --harness HARNESS.c ... --source FILE.c ... --link ARGUMENT ...
"""
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile

FLAGS = ["-std=gnu17", "-D_GNU_SOURCE", '-DDDIMD_VERSION="fuzz"', "-g", "-O1", "-fno-omit-frame-pointer",
         "-fno-sanitize-recover=undefined"]


def lists(arguments):
    found, name = {}, None
    for a in arguments:
        if a in ("--harness", "--source", "--link"):
            name = found.setdefault(a[2:], [])
        else:
            name.append(a)
    return found


def main():
    clang, root, output = sys.argv[1:4]
    parts = lists(sys.argv[4:])
    with tempfile.TemporaryDirectory() as scratch:
        def compile_one(source):
            obj = pathlib.Path(scratch) / (source.replace("/", "_") + ".o")
            subprocess.run([clang, *FLAGS, "-fsanitize=fuzzer-no-link,address,undefined", "-I", root, "-c", source, "-o", obj],
                           check=True)
            return str(obj)

        def link_one(harness):
            name = pathlib.Path(harness).stem
            subprocess.run([clang, "-fsanitize=fuzzer,address,undefined", compiled[harness],
                            *[o for s, o in compiled.items() if s not in parts["harness"]], *parts["link"],
                            "-o", os.path.join(output, name)], check=True)

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            sources = parts["harness"] + parts["source"]
            compiled = dict(zip(sources, pool.map(compile_one, sources)))
            list(pool.map(link_one, parts["harness"]))


if __name__ == "__main__":
    main()
