#!/usr/bin/env python3
"""Makes a manual page from its template and from what the programs say about themselves, so that neither can be out of date.

    make_man.py TEMPLATE OUTPUT VERSION SYSCONFDIR DDIMD DDIMD_TRAIN

In the template, lines that hold nothing but one of these are replaced:
    @DDIMD_OPTIONS@  @DDIMD_KEYS@  @TRAIN_OPTIONS@  @TRAIN_EXIT_CODES@
"""
import json
import os
import pathlib
import re
import subprocess
import sys


def output_of(program, *arguments):
    quiet = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")  # a build is not the place to look for leaks
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True, env=quiet).stdout


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "").strip()
    return "\\&" + text if text.startswith((".", "'")) else text


def paragraph(tag, *lines):
    return "\n".join([".TP", tag, *map(roff, lines)])


def ddimd_options(ddimd, _):
    """`  --name ARGUMENT` and its help, indented, from --help."""
    found = re.findall(r"^  (-\S.*)\n((?:        .*\n)*)", output_of(ddimd, "--help"), re.M)
    assert len(found) > 10, "ddimd --help has another form than expected"
    for flags, text in found:
        words = [f"\\fB{roff(w)}\\fR" if w.startswith("-") else f"\\fI{roff(w)}\\fR" for w in flags.split()]
        yield paragraph(" ".join(words), " ".join(text.split()))


def type_of(key):
    if "enum" in key:
        return "one of " + ", ".join(f'"{name}"' for name in key["enum"])
    kind = {"integer": "whole number", "number": "number", "string": "string", "boolean": "true or false",
            "array": "list", "object": "object"}[key["type"] if isinstance(key["type"], str) else key["type"][0]]
    if "minimum" in key and "maximum" in key:
        return f"{kind} from {key['minimum']} to {key['maximum']}"
    return kind


def ddimd_keys(ddimd, _):
    keys = json.loads(output_of(ddimd, "--config-schema"))["properties"]
    assert len(keys) > 10, "ddimd --config-schema has another form than expected"
    for name, key in keys.items():
        default = f"; default {json.dumps(key['default'])}" if "default" in key else ""
        yield paragraph(f"\\fB{roff(name)}\\fR", f"{type_of(key)}{default}", ".br", key.get("description", "")
                        ).replace("\\&.br", ".br")


def train_usage(trainer):
    return output_of(trainer, "--help")


def train_options(_, trainer):
    found = re.findall(r"^  (--\S.*?)(?:  +(.*))?$", train_usage(trainer), re.M)
    assert len(found) > 4, "ddimd-train --help has another form than expected"
    for flags, text in found:
        words = [f"\\fB{roff(w)}\\fR" if w.startswith("-") else f"\\fI{roff(w)}\\fR" for w in flags.split()]
        yield paragraph(" ".join(words), text or "print the usage, or the version")


def train_exit_codes(_, trainer):
    text = train_usage(trainer).partition("exit codes:\n")[2]
    found = re.findall(r"^  (\d)  (.*\n(?:     .*\n)*)", text, re.M)
    assert found, "ddimd-train --help names no exit codes"
    for code, meaning in found:
        yield paragraph(f"\\fB{code}\\fR", " ".join(meaning.split()))


PARTS = {"@DDIMD_OPTIONS@": ddimd_options, "@DDIMD_KEYS@": ddimd_keys, "@TRAIN_OPTIONS@": train_options,
         "@TRAIN_EXIT_CODES@": train_exit_codes}


def main():
    template, output, version, sysconfdir, ddimd, trainer = sys.argv[1:]
    lines = []
    for line in pathlib.Path(template).read_text(encoding="utf-8").splitlines():
        part = PARTS.get(line.strip())
        lines += part(ddimd, trainer) if part else [line.replace("@VERSION@", version).replace("@SYSCONFDIR@", sysconfdir)]
    pathlib.Path(output).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
