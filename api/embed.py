"""Writes a C file with the bytes of another file: embed.py INPUT OUTPUT NAME HEADER"""
import sys


def main():
    source, target, name, header = sys.argv[1:]
    with open(source, "rb") as f:
        data = f.read()
    rows = [", ".join(str(b) for b in data[i:i + 24]) for i in range(0, len(data), 24)]
    with open(target, "w", encoding="ascii") as f:
        f.write(f'#include "{header}"\n\nconst unsigned char {name}[] = {{\n')
        f.write(",\n".join(rows))
        f.write(f"}};\nconst size_t {name}_bytes = sizeof({name});\n")


main()
