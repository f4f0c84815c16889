#!/usr/bin/env python3
"""Holds the order of the layers: a folder includes its own headers and those of the folders above it, nothing else.

usage: layers.py REPOSITORY
"""
import pathlib
import re
import sys

MAY_USE = {
    "kernels": {"kernels"},
    "model": {"kernels", "model"},
    "sampling": {"kernels", "model", "sampling"},
    "training": {"kernels", "model", "training"},
    "api": {"kernels", "model", "sampling", "training", "api"},
    "daemon": {"kernels", "model", "sampling", "training", "api", "daemon"},
    "clients": {"kernels/error.h", "clients"},  # the HTTP interface is all that they know of the daemon
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def violations(root):
    for layer, allowed in MAY_USE.items():
        for path in sorted((root / layer).rglob("*.[ch]")):
            for name in INCLUDE.findall(path.read_text()):
                top = name.split("/")[0] if "/" in name else layer
                if top not in allowed and name not in allowed:
                    yield f"{path.relative_to(root)} includes {name}: {layer} may use {', '.join(sorted(allowed))}"


def main():
    root = pathlib.Path(sys.argv[1])
    # The check must be able to see: every layer has files with includes.
    blind = [layer for layer in MAY_USE if not list((root / layer).rglob("*.c"))]
    found = [f"{layer}: no sources found" for layer in blind] + list(violations(root))
    print("\n".join(found) or "layers: in order")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
