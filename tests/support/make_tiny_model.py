#!/usr/bin/env python3
"""Writes a tiny model file with random weights, for tests from outside. Needs Python alone; the same arguments give the
same bytes.

  make_tiny_model.py OUT.safetensors [--size 32 32] [--mode RGB|L] [--residual-block fused|preact] [--seed N]
                     [--dtype F32|F16|BF16] [--num-classes N]

An untrained network's images run off to black and white. This one carries x from its first convolution over the last
skip connection to its output, which gives eps = x / std(x), right for Gaussian data; its random layers add little to
that. So its images are neither flat nor saturated, and differ by class. About 0.5 M parameters. Its noise schedule is
not the usual one (a 20th of the image is left at the last timestep), so that a reader that ignores it is found out.
"""
import argparse
import json
import math
import random
import struct

CHANNELS, CHANNEL_MULT, NUM_RES_BLOCKS, ATTENTION = 32, (2, 1), 1, (2,)
RANDOM_SHARE = 0.2  # of the output


class Tensor:
    def __init__(self, shape, values):
        self.shape, self.values = tuple(shape), values

    def scale(self, factor):
        self.values = [v * factor for v in self.values]

    def row(self, k):
        """Sets row k of the first dimension to zero and returns its first element's index."""
        n = len(self.values) // self.shape[0]
        self.values[k * n:(k + 1) * n] = [0.0] * n
        return k * n


class Parameters:
    """Tensors under the names of the state_dict and in its order, filled as they are declared."""

    def __init__(self, seed):
        self.random, self.tensors = random.Random(seed), {}

    def uniform(self, name, shape, middle, deviation):
        width = deviation * math.sqrt(12)
        start, draw = middle - width / 2, self.random.random  # random(): the one stream that Python keeps the same
        self.tensors[name] = Tensor(shape, [start + width * draw() for _ in range(math.prod(shape))])

    def affine(self, name, *shape, bias=True):
        self.uniform(name + ".weight", shape, 0, 1 / math.sqrt(math.prod(shape[1:])))
        if bias:
            self.uniform(name + ".bias", shape[:1], 0, 0.1)

    def norm(self, name, c):
        self.uniform(name + ".weight", (c,), 1, 0.1)
        self.uniform(name + ".bias", (c,), 0, 0.1)

    def residual_block(self, name, c, k, order):
        self.norm(name + ".norm1", k if order == "fused" else c)
        self.affine(name + ".conv1", k, c, 3, 3)
        self.affine(name + ".emb", k, 4 * CHANNELS)
        self.norm(name + ".norm2", k)
        self.affine(name + ".conv2", k, k, 3, 3)
        if c != k:
            self.affine(name + ".shortcut", k, c, 1, 1)

    def attention_block(self, name, c):
        self.norm(name + ".norm", c)
        self.affine(name + ".qkv", 3 * c, c, 1, 1, bias=False)
        self.affine(name + ".proj", c, c, 1, 1)


def declare_down(p, order):
    """Returns the channels of its output and of its skip connections."""
    c, ds, stage, skips = CHANNELS, 1, 1, [CHANNELS]
    for level, mult in enumerate(CHANNEL_MULT):
        for _ in range(NUM_RES_BLOCKS):
            p.residual_block(f"down.{stage}.0", c, mult * CHANNELS, order)
            c = mult * CHANNELS
            if ds in ATTENTION:
                p.attention_block(f"down.{stage}.1", c)
            skips.append(c)
            stage += 1
        if level + 1 < len(CHANNEL_MULT):
            p.affine(f"down.{stage}.0.op", c, c, 3, 3)
            skips.append(c)
            stage, ds = stage + 1, ds * 2
    return c, skips


def declare_up(p, c, skips, order):
    """Returns the channels of its output and the name of its last residual block."""
    ds, stage = 1 << (len(CHANNEL_MULT) - 1), 0
    for level, mult in reversed(list(enumerate(CHANNEL_MULT))):
        for i in range(NUM_RES_BLOCKS + 1):
            name, layer = f"up.{stage}.0", 1
            p.residual_block(name, c + skips.pop(), mult * CHANNELS, order)
            c = mult * CHANNELS
            if ds in ATTENTION:
                p.attention_block(f"up.{stage}.{layer}", c)
                layer += 1
            if level and i == NUM_RES_BLOCKS:
                p.affine(f"up.{stage}.{layer}.conv", c, c, 3, 3)
                ds //= 2
            stage += 1
    return c, name


def declare_network(p, channels, classes, order):
    p.affine("time_embed.0", 4 * CHANNELS, CHANNELS)
    p.affine("time_embed.2", 4 * CHANNELS, 4 * CHANNELS)
    p.uniform("class_embed.weight", (classes + 1, 4 * CHANNELS), 0, 1)
    p.affine("down.0.0", CHANNELS, channels, 3, 3)
    c, skips = declare_down(p, order)
    p.residual_block("middle.0", c, c, order)
    p.attention_block("middle.1", c)
    p.residual_block("middle.2", c, c, order)
    c, last = declare_up(p, c, skips, order)
    p.norm("out_norm", c)
    p.affine("out_conv", channels, c, 3, 3)
    return last


def lay_path(tensors, last, channels):
    """Channels 2 i and 2 i + 1 carry x_i and -x_i; each such pair is one group of the last norm, whose mean is then 0,
    and silu(u) - silu(-u) = u undoes the SiLU."""
    first, shortcut, out = tensors["down.0.0.weight"], tensors[last + ".shortcut.weight"], tensors["out_conv.weight"]
    for layer in ("norm2", "conv2"):  # the branch beside the shortcut, whichever of them ends it
        for leaf in ("weight", "bias"):
            tensors[f"{last}.{layer}.{leaf}"].scale(0.1 if leaf == "weight" else 0.3)
    out.scale(RANDOM_SHARE)
    tensors["out_conv.bias"].scale(RANDOM_SHARE)
    skip = shortcut.shape[1] - CHANNELS  # the skip's channels come last
    for i in range(channels):
        for row, sign in ((2 * i, 1.0), (2 * i + 1, -1.0)):
            first.values[first.row(row) + 9 * i + 4] = sign
            tensors["down.0.0.bias"].values[row] = 0.0
            shortcut.values[shortcut.row(row) + skip + row] = 20.0
            tensors[last + ".shortcut.bias"].values[row] = 0.0
            tensors["out_norm.weight"].values[row] = 1.0
            tensors["out_norm.bias"].values[row] = 0.0
            for k in range(channels):
                at = (k * out.shape[1] + row) * 9
                out.values[at:at + 9] = [0.0] * 9
                out.values[at + 4] = sign if k == i else 0.0


def encode(values, dtype):
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    floats = struct.pack(f"<{len(values)}f", *values)
    if dtype == "F32":
        return floats
    bits = struct.unpack(f"<{len(values)}I", floats)  # BF16: to nearest even
    return struct.pack(f"<{len(values)}H", *[(b + 0x7FFF + ((b >> 16) & 1)) >> 16 for b in bits])


def write_model(path, size=(32, 32), mode="RGB", residual_block="fused", seed=0, dtype="F16", num_classes=10):
    channels = {"RGB": 3, "L": 1}[mode]
    p = Parameters(seed)
    last = declare_network(p, channels, num_classes, residual_block)
    lay_path(p.tensors, last, channels)
    description = {
        "version": 1,
        "model": {"in_channels": channels, "out_channels": channels, "model_channels": CHANNELS,
                  "channel_mult": CHANNEL_MULT, "num_res_blocks": NUM_RES_BLOCKS, "attention_resolutions": ATTENTION,
                  "dropout": 0.1, "conv_resample": True, "num_heads": 4, "num_classes": num_classes,
                  "residual_block": residual_block},
        "diffusion": {"T": 1000, "beta": [0.0001, 0.012]},
        "data": {"image_size": size, "mode": mode, "classes": [f"class{i}" for i in range(num_classes)]},
        "training": {"made_by": "tests/support/make_tiny_model.py", "seed": seed}}
    header, blobs, at = {"__metadata__": {"ddimd": json.dumps(description)}}, [], 0
    for name, tensor in p.tensors.items():
        blobs.append(encode(tensor.values, dtype))
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [at, at + len(blobs[-1])]}
        at += len(blobs[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--size", type=int, nargs=2, default=(32, 32), metavar=("HEIGHT", "WIDTH"))
    p.add_argument("--mode", choices=("RGB", "L"), default="RGB")
    p.add_argument("--residual-block", choices=("fused", "preact"), default="fused")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--dtype", choices=("F32", "F16", "BF16"), default="F16")
    p.add_argument("--num-classes", type=int, default=10)
    a = p.parse_args()
    write_model(a.out, tuple(a.size), a.mode, a.residual_block, a.seed, a.dtype, a.num_classes)


if __name__ == "__main__":
    main()
