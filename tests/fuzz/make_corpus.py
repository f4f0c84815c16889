#!/usr/bin/env python3
"""Writes the seeds of the fuzzers' corpus: corpus/HARNESS/seed-NAME, small files that reach each branch by intent.

    python3 make_corpus.py

What the fuzzers found besides (minimised with -merge=1) lies beside them under the hash of its bytes.
"""
import gzip
import json
import pathlib
import struct
import zlib

CORPUS = pathlib.Path(__file__).with_name("corpus")
MODEL = {"in_channels": 1, "out_channels": 1, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
         "attention_resolutions": [2], "dropout": 0.1, "conv_resample": True, "num_heads": 4, "num_classes": 3,
         "residual_block": "preact"}
DIFFUSION = {"T": 50, "beta": [0.001, 0.2]}
DATA = {"image_size": [8, 6], "mode": "L", "classes": ["a", "b", "\u00fc"]}


def put(harness, name, data):
    folder = CORPUS / harness
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


def safetensors(tensors, data, metadata=None):
    header = {} if metadata is None else {"__metadata__": metadata}
    for name, dtype, shape, begin, end in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(k, d) for k, d in chunks)


def main():
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    post = b"POST /generate HTTP/1.1\r\nHost: x\r\nX-Request-Id: a-1\r\n%s\r\n"
    chunked = post % b"Transfer-Encoding: chunked\r\n"
    put("head", "pipelined", b"\x06" + get + post % b"Content-Length: 2\r\n" + b"{}" + get)
    put("head", "chunks", b"\x00" + chunked + b"2;a=b\r\n{}\r\n00f\r\n0123456789abcde\r\n0\r\nA: b\r\n\r\n" + get)
    put("head", "bad-chunk", b"\xff" + chunked + b"2\r\n{}}\r\n")
    put("head", "both", b"\x10" + post % b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n")
    put("head", "expect", b"\x20" + post % b"Expect: 100-continue\r\nContent-Length: 1\r\n" + b"{" + b"PRI * HTTP/2.0\r\n\r\n")
    put("head", "folded", b"\x02GET / HTTP/1.0\r\nA: b\r\n c\r\n\r\n")
    put("head", "long", b"\x40GET /" + b"a" * 300)
    put("head", "fields", b"\x40GET / HTTP/1.1\r\nHost: x\r\n" + b"A:\r\n" * 9 + b"\r\n")

    put("safetensors", "empty", safetensors([], b""))
    put("safetensors", "kinds", safetensors(
        [("f", "F32", [2], 0, 8), ("b", "BF16", [1, 2], 8, 12), ("h", "F16", [3], 12, 18), ("s", "U8", [], 18, 19),
         ("z", "I64", [0, 4], 19, 19)], bytes(range(19)), {"a": "b", "ddimd": "{}"}))
    put("safetensors", "overlap", safetensors([("a", "U8", [4], 0, 4), ("b", "U8", [4], 2, 6)], bytes(6)))
    put("safetensors", "hole", safetensors([("a", "U8", [1], 0, 1), ("b", "U8", [1], 2, 3)], bytes(3)))
    put("safetensors", "overflow", safetensors([("a", "F64", [2**62, 2**62], 0, 0)], b""))
    put("safetensors", "long", struct.pack("<Q", 2**63) + b"{}")

    whole = {"version": 1, "model": MODEL, "diffusion": DIFFUSION, "data": DATA, "training": {"epochs": 1}}
    first = ("time_embed.0.weight", "F16", [128, 32], 0, 8192)
    put("checkpoint", "no-metadata", safetensors([first], bytes(8192)))
    put("checkpoint", "first-only", safetensors([first], bytes(8192), {"ddimd": json.dumps(whole)}))
    put("checkpoint", "no-tensors", safetensors([], b"", {"ddimd": json.dumps(whole)}))
    put("checkpoint", "version-2", safetensors([], b"", {"ddimd": json.dumps(dict(whole, version=2))}))
    put("checkpoint", "no-data", safetensors([], b"", {"ddimd": json.dumps({"version": 1, "model": MODEL})}))

    put("config", "whole", json.dumps(whole).encode())
    put("config", "empty", json.dumps({"model": {}, "diffusion": {}, "data": {}}).encode())
    put("config", "deep", json.dumps({"model": dict(MODEL, channel_mult=[1] * 8, attention_resolutions=[1, 128]),
                                      "diffusion": {"T": 1, "beta": [0.5, 0.5]},
                                      "data": {"image_size": [128, 128], "classes": None}}).encode())
    put("config", "typo", json.dumps({"model": {"chanel_mult": 3}, "diffusion": {"beta": [0.02, 0.0001]}}).encode())

    put("config", "not-utf8", b'{"model": ["\\u0\xd7\x99\xff"]}')

    header = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    rest = [(b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    put("png_text", "text", png(header, (b"tEXt", b"ddimd\0{\"seed\": 1}"), *rest))
    put("png_text", "international", png(header, (b"iTXt", b"ddimd\0\0\0en\0key\0\xc3\xbc"), *rest))
    put("png_text", "compressed", png(header, (b"iTXt", b"ddimd\0\1\0\0\0" + zlib.compress(b"x")), *rest))
    put("png_text", "other", png(header, (b"tEXt", b"Title\0x"), *rest))
    put("png_text", "cut", png(header, (b"tEXt", b"ddimd\0{\"seed\": 1}"))[:-3])

    requests()
    headers()
    datasets(header, rest)
    configurations()
    job_rows()


GENERATE, SCHEDULE, REPLAY, NONE, JSON, QUERY = 0, 1, 2, 3, 4, 8  # fuzz_request.c's first byte


def requests():
    def ask(name, how, *parts):
        put("request", name, bytes([how]) + b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts))

    ask("query", GENERATE | QUERY, "class=0,cat,none&n=2&steps=20&eta=0.5&seed=18446744073709551615&guidance=2.5")
    ask("query-all", GENERATE | QUERY, "class=all&method=trailing&sampler=dpmpp_2m&scale=16&nrow=3&clip=true&priority=high")
    ask("query-escapes", GENERATE | QUERY, "cl%61ss=%63at&n=+1&st%eps=&seed=%00%ff")
    ask("query-and-body", GENERATE | QUERY, "n=3", "n=2&steps=1&result_only=false&interval=1")
    ask("form", GENERATE, "class=1&to_grayscale=1&timeout_ms=100")
    ask("form-not-utf8", NONE, b"\xb8")
    ask("json", GENERATE | JSON, json.dumps({"class": [0, "cat", "none"], "n": 2, "seed": "18446744073709551615", "eta": 1}))
    ask("json-types", GENERATE | JSON, '{"class": {"a": 1}, "steps": 1e400, "model": null, "n": -0.0}')
    ask("json-deep", GENERATE | JSON, "[" * 300)
    ask("schedule", SCHEDULE | QUERY, "steps=10&method=linear&eta=1&sampler=ddpm")
    ask("replay", REPLAY | JSON, json.dumps({"class": ["0"], "seed": 1, "steps": 5, "model": "tiny", "digest": "0" * 64}))


def headers():
    put("header", "accept", b"image/png;q=0.1, */*;q=0.01, text/*\napplication/json; charset=\"a,b\";q=1.000\n;q=,;/*")
    put("header", "etags", b'W/"abc", "abc", "a\n*\n"unfinished')
    put("header", "types", b"multipart/form-data; boundary=x\napplication/json;charset=utf-8\nIMAGE/PNG")


def datasets(header, rest):
    def pair(images, labels):
        return bytes([0]) + struct.pack(">H", len(images)) + images + labels

    images = struct.pack(">IIII", 0x803, 2, 8, 8) + bytes(range(128))
    labels = struct.pack(">II", 0x801, 2) + bytes([3, 9])
    put("dataset", "idx", pair(images, labels))
    put("dataset", "idx-counts", pair(struct.pack(">IIII", 0x803, 2**32 - 1, 2**16, 2**16), labels))
    put("dataset", "idx-cut", pair(images[:-3], labels))
    put("dataset", "idx-gzip", pair(gzip.compress(images, mtime=0), labels))
    put("dataset", "cifar", bytes([1, 0, 0]) + bytes([7]) + bytes(i & 255 for i in range(3072)))
    put("dataset", "cifar-label", bytes([1, 0, 0]) + bytes([10]) + bytes(3072))
    put("dataset", "png", bytes([2, 0, 0]) + png(header, *rest))
    huge = (b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 1))
    put("dataset", "png-huge", bytes([2, 0, 0]) + png(huge, *rest))
    put("dataset", "jpeg", bytes([2, 0, 0]) + b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xd9")


def configurations():
    repository = CORPUS.parent.parent.parent
    put("options", "shipped", (repository / "etc" / "ddimd.json").read_bytes())
    put("options", "typo", b'{"listn": "127.0.0.1:8080"}')
    put("options", "range", b'{"threads": -1, "log_level": "loud"}')
    put("options", "not-json", b'{"listen": "127.0.0.1:8080",}\n')
    put("options", "long", b'{"listen": "' + b"x" * 5000 + b'"}')
    for path in sorted((repository / "etc" / "train").glob("*.json")):
        put("training", path.stem, path.read_bytes())
    put("training", "typo", b'{"optimiser": {}, "dataset": {"kind": "mnst"}}')


def job_rows():
    def rows(*changes):
        return b"".join(bytes([column, kind, len(data)]) + data for column, kind, data in changes)

    text, number, blob, null = range(4)
    put("job_rows", "state", rows((4, text, b"no-such-state")))
    put("job_rows", "long-name", rows((1, text, b"x" * 255)))
    put("job_rows", "not-text", rows((3, blob, b"\0\xff{"), (18, text, b"{\"loss\": 1e999}"), (2, number, b"\xff" * 8)))
    put("job_rows", "times", rows((7, number, b"\xff" * 7 + b"\x7f"), (8, number, b"\0" * 7 + b"\x80"), (11, number, b"\xff" * 8)))
    put("job_rows", "process", rows((20, number, b"\xff" * 8), (22, text, b"x" * 200), (23, number, b"\x63")))
    put("job_rows", "events", rows((28, text, b"y" * 100), (29, blob, b"\0"), (32, number, b"\x09"), (31, null, b"")))


if __name__ == "__main__":
    main()
