"""Writes a C file with the page's files as a table.

usage: embed.py ESBUILD OUTPUT PRESET_COUNT PRESET ... FILE ...

Scripts and styles lose their white space, names stay. chart.js is bundled with what it imports. The presets (training configurations) become one file,
presets.json, an object by their stems. index.html comes first.
"""
import hashlib
import json
import pathlib
import subprocess
import sys

TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".json": "application/json", ".svg": "image/svg+xml"}
LIMIT = 300_000  # of the page in all


def contents(esbuild, path):
    if path.suffix not in (".js", ".css"):
        return path.read_bytes()
    how = ["--bundle", "--minify", "--format=esm"] if path.name == "chart.js" else ["--minify-whitespace"]
    return subprocess.run([esbuild, str(path), "--charset=utf8", "--log-level=warning", *how], check=True, stdout=subprocess.PIPE).stdout


def table(files):
    yield '#include "api/page.h"\n'
    for i, data in enumerate(files.values()):
        yield f"static const unsigned char file_{i}[] = {{"
        for at in range(0, len(data), 24):
            yield ", ".join(map(str, data[at:at + 24])) + ","
        yield "};"
    yield "const struct page_file page_files[] = {"
    for i, (name, data) in enumerate(files.items()):
        etag = hashlib.sha256(data).hexdigest()[:16]
        yield f'    {{"{name}", "{TYPES[pathlib.Path(name).suffix]}", "\\"{etag}\\"", file_{i}, sizeof(file_{i})}},'
    yield "    {0},\n};"


def main():
    esbuild, output, n, *paths = sys.argv[1:]
    paths = [pathlib.Path(p) for p in paths]
    presets, paths = paths[:int(n)], paths[int(n):]
    files = {p.name: contents(esbuild, p) for p in sorted(paths, key=lambda p: (p.name != "index.html", p.name))}
    files["presets.json"] = json.dumps({p.stem: json.loads(p.read_text()) for p in presets}, separators=(",", ":")).encode()
    size = sum(map(len, files.values()))
    if size > LIMIT:
        sys.exit(f"embed.py: the page has {size} bytes; its limit is {LIMIT}")
    pathlib.Path(output).write_text("\n".join(table(files)) + "\n", encoding="ascii")


main()
