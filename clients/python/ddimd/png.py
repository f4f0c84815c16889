"""PNG files as the daemon writes them (8 bits, grey or RGB, not interlaced), decoded without any library."""
from __future__ import annotations

import struct
import zlib
from typing import Dict, Iterator, NamedTuple, Tuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Pixels(NamedTuple):
    width: int
    height: int
    channels: int
    data: bytes  # rows from the top, channels last


def chunks(png: bytes) -> Iterator[Tuple[bytes, bytes]]:
    if png[:8] != SIGNATURE:
        raise ValueError("this is no PNG file")
    at = 8
    while at + 12 <= len(png):
        n, kind = struct.unpack(">I4s", png[at:at + 8])
        body = png[at + 8:at + 8 + n]
        if at + 12 + n > len(png) or struct.unpack(">I", png[at + 8 + n:at + 12 + n])[0] != zlib.crc32(kind + body):
            raise ValueError("the PNG file is damaged")
        yield kind, body
        at += 12 + n


def size(png: bytes) -> Tuple[int, int, int]:
    """Width, height, channels, from the header alone."""
    if png[:8] != SIGNATURE or len(png) < 33:
        raise ValueError("this is no PNG file")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", png[16:29])
    if depth != 8 or colour not in (0, 2) or interlaced:
        raise ValueError("this PNG file is none of ddimd's: it is not 8-bit grey or RGB")
    return width, height, 3 if colour else 1


def texts(png: bytes) -> Dict[str, str]:
    """Its text chunks."""
    found = {}
    for kind, body in chunks(png):
        if kind == b"tEXt":
            keyword, _, text = body.partition(b"\0")
            found[keyword.decode("latin-1")] = text.decode("latin-1")
    return found


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    a, b, c = abs(guess - left), abs(guess - up), abs(guess - corner)
    return left if a <= b and a <= c else up if b <= c else corner


def _unfilter(kind: int, row: bytearray, last: bytes, step: int) -> None:
    if kind == 1:
        for i in range(step, len(row)):
            row[i] = (row[i] + row[i - step]) & 255
    elif kind == 2:
        for i, up in enumerate(last):
            row[i] = (row[i] + up) & 255
    elif kind == 3:
        for i, up in enumerate(last):
            row[i] = (row[i] + ((row[i - step] if i >= step else 0) + up) // 2) & 255
    elif kind == 4:
        for i, up in enumerate(last):
            left, corner = (row[i - step], last[i - step]) if i >= step else (0, 0)
            row[i] = (row[i] + _paeth(left, up, corner)) & 255
    elif kind:
        raise ValueError("the PNG file is damaged")


def decode(png: bytes) -> Pixels:
    width, height, channels = size(png)
    raw = zlib.decompress(b"".join(body for kind, body in chunks(png) if kind == b"IDAT"))
    n = width * channels
    if len(raw) != height * (n + 1):
        raise ValueError("the PNG file is damaged")
    rows, last = [], bytes(n)
    for y in range(height):
        row = bytearray(raw[y * (n + 1) + 1:(y + 1) * (n + 1)])
        _unfilter(raw[y * (n + 1)], row, last, channels)
        last = bytes(row)
        rows.append(last)
    return Pixels(width, height, channels, b"".join(rows))
