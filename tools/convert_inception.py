#!/usr/bin/env python3
"""Makes an extractor for `ddimd-train evaluate` from the public PyTorch conversion of FID's Inception weights.

    python3 tools/convert_inception.py pt_inception-2015-12-05-6726825d.pth inception.safetensors

The .pth is the one that pytorch-fid and torch-fidelity download; its SHA-256 begins with 6726825d and is written into the
file's metadata, by which reports say whether their numbers are comparable. Tensors keep their names and values; the
batches that a norm has seen and the classifier's bias, which no metric reads, are left out. Wants PyTorch and safetensors.
"""
import argparse
import hashlib
import json
import pathlib

import torch
from safetensors.torch import save_file


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    digest = hashlib.sha256(args.weights.read_bytes()).hexdigest()
    state = torch.load(args.weights, map_location="cpu", weights_only=True)
    tensors = {name: t.float().contiguous() for name, t in state.items()
               if not name.endswith("num_batches_tracked") and name != "fc.bias" and not name.startswith("AuxLogits")}
    meta = {"version": 1, "inception": {"file": args.weights.name, "sha256": digest}}
    save_file(tensors, args.out, {"ddimd": json.dumps(meta)})
    if not digest.startswith("6726825d"):
        print("warning: these are not the public weights of 2015-12-05; numbers will not be comparable")


if __name__ == "__main__":
    main()
