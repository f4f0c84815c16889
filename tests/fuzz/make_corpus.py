#!/usr/bin/env python3
"""Writes the seeds of the fuzzers' corpus: corpus/HARNESS/seed-NAME, small files that reach each branch by intent.

    python3 make_corpus.py

What the fuzzers found besides (minimised with -merge=1) lies beside them under the hash of its bytes.
"""
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


if __name__ == "__main__":
    main()
